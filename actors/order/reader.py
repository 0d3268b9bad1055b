"""Reads the order index: totals, pages by number, keyset walks, ranks, over all shards at once.

A page is a window of ranks [a, b) in the merge of all shards. To find it without counting up to it:

The greatest fence x such that the rows in units (nodes; later buckets) that begin before x are at most a: every
row below x is in such a unit, so the row of rank a is not below x. Reading starts, in each shard, with the
unit that holds x. What lies in front of that is all below x and counted by the directory; so the rank of any row
from x on is that count plus its place among the rows read. Likewise the least fence y such that the units
that end by y hold at least b rows: the row of rank b - 1 is below y, and reading stops there. Both are found
on the nodes first, then on the buckets of the few nodes in between, by bisection over all shards' fences.
Nothing is tried twice, and a bucket without a matching row is not opened. Newest first is the window
[total - b, total - a) backwards.

`layout.py` has the theory and the cost.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import itemgetter

from . import layout as order
from .layout import BUCKET_ROWS_MAX, OVERFLOW, TAG_BYTES, Where
from .search import start_of, stop_of
from .views import OrderSnapshot as OrderSnapshot
from .views import Rows, View

SLACK_ROWS = BUCKET_ROWS_MAX
"""Reading so many rows more costs about as much as one more look for a nearer fence."""


def _window(views: Sequence[View], start: int, end: int) -> Rows:
    """The matching rows of ranks start to end - 1, oldest first; 0 <= start <= end <= their number."""
    if start >= end:
        return []
    views = [view for view in views if view.total]
    nodes = [view.nodes for view in views]
    low = start_of(nodes, start)
    high = stop_of(nodes, low, end)
    buckets = [view.buckets(*_span(view.nodes.fences, low, high)) for view in views]
    low = start_of(buckets, start, near=low, slack=SLACK_ROWS)
    nearer = stop_of(buckets, low, end)
    if nearer is not None and (high is None or nearer < high):
        high = nearer
    found: Rows = []
    skipped = 0
    for view, units in zip(views, buckets, strict=True):
        first, last = _span(units.fences, low, high)
        skipped += units.before[first]
        found += view.read(units, first, last)
    found.sort(key=itemgetter(0))
    return found[start - skipped : end - skipped]


def _span(fences: list[bytes], low: bytes, high: bytes | None) -> tuple[int, int]:
    """From the unit that holds `low` to the last that begins below `high`, as a range."""
    return bisect_right(fences, low) - 1, len(fences) if high is None else bisect_left(fences, high)


def _served(rows: Rows, newest: bool) -> Rows:
    served = [
        (key, value[TAG_BYTES:] if value[:TAG_BYTES] != OVERFLOW else order.row_of(value)) for key, value in rows
    ]
    if newest:
        served.reverse()
    return served


def _views(shards: Sequence[OrderSnapshot], where: Where) -> list[View]:
    return [shard.view(where) for shard in shards]


def total(shards: Sequence[OrderSnapshot], where: Where) -> int:
    """How many rows match."""
    return sum(view.total for view in _views(shards, where))


def page(shards: Sequence[OrderSnapshot], where: Where, *, newest: bool, skip: int, size: int) -> Rows:
    """(key, list row) of LIMIT `size` OFFSET `skip` over the merge of all shards, in display order."""
    if skip < 0 or size < 0:
        raise ValueError(f"page of {size} rows behind {skip}: neither may be negative")
    views = _views(shards, where)
    rows = sum(view.total for view in views)
    start, end = min(skip, rows), min(skip + size, rows)
    if newest:
        start, end = rows - end, rows - start
    return _served(_window(views, start, end), newest)


def walk(shards: Sequence[OrderSnapshot], where: Where, *, newest: bool, after: bytes | None, size: int) -> Rows:
    """The next `size` rows behind the key `after` in display order; None is in front of all.

    `after` need not be there any more.
    """
    if after is None:
        return page(shards, where, newest=newest, skip=0, size=size)
    return _beside(_views(shards, where), after, above=not newest, size=size, newest=newest)


def walk_back(shards: Sequence[OrderSnapshot], where: Where, *, newest: bool, before: bytes, size: int) -> Rows:
    """The `size` rows in front of the key `before`, in display order."""
    return _beside(_views(shards, where), before, above=newest, size=size, newest=newest)


def _beside(views: Sequence[View], key: bytes, *, above: bool, size: int, newest: bool) -> Rows:
    if above:
        start = _rank(views, _next(key))
        end = min(start + size, sum(view.total for view in views))
    else:
        end = _rank(views, key)
        start = max(end - size, 0)
    return _served(_window(views, start, end), newest)


def rank(shards: Sequence[OrderSnapshot], where: Where, *, newest: bool, key: bytes) -> int:
    """How many matching rows stand in front of a key in display order."""
    views = _views(shards, where)
    if newest:
        return sum(view.total for view in views) - _rank(views, _next(key))
    return _rank(views, key)


def _rank(views: Sequence[View], key: bytes) -> int:
    return sum(view.rank(key) for view in views)


def _next(key: bytes) -> bytes:
    """The least string above a key."""
    return key + b"\0"
