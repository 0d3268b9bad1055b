"""Details that were rendered before, kept while the stored profile is what they were rendered from.

Nothing is invalidated and nothing expires. Each read looks the profile up in LMDB as ever, and compares its bytes
with those behind the kept body: only equal bytes give the same answer, so a kept body cannot be stale.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

BODY_BYTES_MAX = 64 << 10
"""Of a body that is kept. A larger one would push hundreds out, and takes long to send anyway."""

_OVERHEAD_BYTES = 700
"""An entry without its texts: the objects and their place in the table."""


class KeptBody(NamedTuple):
    """The detail of one user, in the one shape there is."""

    shard: int
    user: bytes
    """The stored key."""
    stored: bytes
    """The profile that the body was rendered from."""
    body: bytes
    tag: str
    lines: bytes
    """The header lines of a 200 that depend on nothing else."""
    lines_unchanged: bytes
    """Those of a 304."""


class KeptBodies:
    """The bodies of one process, found by the id as clients write it.

    Args:
        bytes_max: what they may take up; 0 keeps none.
        resized: called with the number of bytes by which they grew or shrank.
    """

    def __init__(self, bytes_max: int, resized: Callable[[int], None] = lambda _: None) -> None:
        self._bytes_max = bytes_max
        self._resized = resized
        self._bodies: OrderedDict[bytes, KeptBody] = OrderedDict()
        self._bytes = 0

    def get(self, user: bytes) -> KeptBody | None:
        """The body that was kept under an id, percent-encoded as it came."""
        kept = self._bodies.get(user)
        if kept is not None:
            self._bodies.move_to_end(user)
        return kept

    def put(self, user: bytes, kept: KeptBody) -> None:
        """Keep a body; the ones longest unused go where there is no room."""
        if not self._bytes_max or len(kept.body) > BODY_BYTES_MAX:
            return
        before = self._bodies.pop(user, None)
        change = _size(user, kept) - (0 if before is None else _size(user, before))
        self._bodies[user] = kept
        while self._bytes + change > self._bytes_max:
            change -= _size(*self._bodies.popitem(last=False))
        self._bytes += change
        self._resized(change)


def _size(user: bytes, kept: KeptBody) -> int:
    lines = len(kept.lines) + len(kept.lines_unchanged)
    return len(user) + len(kept.stored) + len(kept.body) + lines + _OVERHEAD_BYTES
