"""A value that cannot be taken."""


class ValueRefused(ValueError):
    """A value that its declared type cannot hold; the text has no value in it, so it may be logged."""
