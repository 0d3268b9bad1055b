"""The HTTP lanes, asked by bytes."""
