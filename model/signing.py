"""What holds for every key that something is signed with."""

KEY_CHARACTERS_MIN = 32
"""Cursors and manifests are signed, and somebody who has one of them can try out shorter keys at leisure. 32 hex
digits are 128 bits."""
