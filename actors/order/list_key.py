"""The key of a list row: it sorts as PostgreSQL sorts the list ascending, and ends with the user's key."""

from kycache.model.scalars.times import INFINITY
from kycache.model.values import Value

VALUE_BYTES = 8
"""What the ordered value takes, as a rule."""

_NULL = b"\xff" * 8
_GREATEST = b"\xff" * 7 + b"\xfe"
_CROWDED = 2**63 - 3
_CROWDED_BYTES = (_CROWDED + 2**63).to_bytes(8, "big")


def list_key(value: Value, user: bytes) -> bytes:
    """Where a user stands in the list.

    Args:
        value: of the column that orders the list. NULL sorts last, infinities at the ends.
        user: the stored key; it decides between equal values.
    """
    return _sorted_bytes(value) + user


def user_of(key: bytes) -> bytes:
    """The stored key of the user whose row has this list key."""
    return key[2 * VALUE_BYTES :] if key.startswith(_CROWDED_BYTES) else key[VALUE_BYTES:]


def _sorted_bytes(value: Value) -> bytes:
    """Eight bytes, as a rule. No two different values begin alike, so anything may follow."""
    if value is None:
        return _NULL
    assert isinstance(value, int)
    if value == INFINITY:
        return _GREATEST
    if value < _CROWDED:
        return (value + 2**63).to_bytes(8, "big")
    # NULL took one of 2**64 places, and times beyond 2**63 us need more: these share one, and eight bytes follow.
    return _CROWDED_BYTES + (value - _CROWDED).to_bytes(8, "big")
