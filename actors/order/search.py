"""Finds a window of ranks over several shards without counting up to it. Pure.

A *unit* is a node or a bucket: so many rows behind a fence.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from heapq import heapify, heappop, heapreplace
from itertools import accumulate, repeat
from operator import getitem, sub


class Units:
    """Neighbouring nodes, or buckets, of one shard: `before[i]` matching rows lie in front of `fences[i]`."""

    __slots__ = ("before", "counts", "fences", "rows")

    def __init__(
        self, fences: list[bytes], counts: list[int], before: int = 0, rows: list[int] | None = None
    ) -> None:
        self.fences = fences
        self.counts = counts  # rows that match
        self.rows = rows  # all rows, where known
        self.before = list(accumulate(counts, initial=before))


def start_of(shards: Sequence[Units], rank: int, *, near: bytes = b"", slack: int = 0) -> bytes:
    """The greatest fence such that at most `rank` rows are in units that begin before it, or `near`.

    A look is taken where the fence would be were the rows left spread evenly, as users over shards by hash
    nearly are; then a little to the other side, and ever farther until what is looked for lies between.

    Args:
        near: a string known to have at most `rank` rows in units that begin before it.
        slack: rows, beside one unit's, the answer may lie too low: reading them costs less than looking on.
    """
    fences = [units.fences for units in shards]
    rows = [units.before for units in shards]
    lows = list(map(bisect_left, fences, repeat(near)))
    highs = list(map(len, fences))
    front, behind = sum(map(getitem, rows, lows)), sum(map(getitem, rows, highs))
    aside = 0
    while True:
        widths = list(map(sub, highs, lows))
        width = max(widths)
        if not width or behind - front <= slack:
            return near
        widest = widths.index(width)
        low, high, counts = lows[widest], highs[widest], rows[widest]
        even = counts[low] + (rank - front) * (counts[high] - counts[low]) // ((behind - front) or 1)
        look = min(max(bisect_right(counts, even, low, high) - 1 + aside, low), high - 1)
        fence = fences[widest][look]
        places = list(map(bisect_left, fences, repeat(fence), lows, highs))
        seen = sum(map(getitem, rows, places))
        if seen > rank:
            highs, behind = places, seen
            aside = min(aside, 0) * 4 - 1
        else:
            near, lows, front = fence, places, seen + counts[look + 1] - counts[look]
            lows[widest] = look + 1
            aside = max(aside, 0) * 4 + 1


def stop_of(shards: Sequence[Units], low: bytes, rank: int) -> bytes | None:
    """The least fence such that at least `rank` rows are in units that end by it; None is behind all.

    Found by going on from `low`, one unit after the other in the order of their ends.
    """
    ended = 0
    ends: list[tuple[bytes, int, int]] = []
    for shard, units in enumerate(shards):
        at = bisect_right(units.fences, low)
        ended += units.before[at - 1]
        if at < len(units.fences):
            ends.append((units.fences[at], shard, at))
    heapify(ends)
    while ends:
        end, shard, at = ends[0]
        units = shards[shard]
        ended += units.counts[at - 1]
        if ended >= rank:
            return end
        at += 1
        if at < len(units.fences):
            heapreplace(ends, (units.fences[at], shard, at))
        else:
            heappop(ends)
    return None
