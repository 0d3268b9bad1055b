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

The number of rows a bucket yields is checked against the directory in passing.
`order.py` has the theory and the cost.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import heapify, heappop, heapreplace
from itertools import accumulate, islice, repeat
from operator import getitem, itemgetter, sub
from typing import TYPE_CHECKING

from . import order
from .order import ALL, BUCKET_ROWS_MAX, OVERFLOW, TAG_BYTES, IndexDiffers, Where

if TYPE_CHECKING:
    import lmdb

SLACK_ROWS = BUCKET_ROWS_MAX
"""Reading so many rows more costs about as much as one more look for a nearer fence."""

Rows = list[tuple[bytes, bytes]]
"""(key, stored value) within this module, (key, list row) outside."""


@dataclass(slots=True)
class Reads:
    """What a snapshot has read so far."""

    records: int = 0  # of the directory: root, columns, nodes
    buckets: int = 0


class _Shard:
    """The records and rows of one shard in one read transaction."""

    def __init__(
        self,
        filter_count: int,
        txn: lmdb.Transaction[bytes],
        rows: lmdb._Database,
        directory: lmdb._Database,
    ) -> None:
        self.reads = Reads()
        self._txn = txn
        self._directory = directory
        self._cursor = txn.cursor(rows)
        raw = self.get(order.ROOT_KEY)
        self.root = order.decode_root(raw) if raw is not None else order.empty_root(filter_count)
        order.require_format(self.root, filter_count)
        self.nodes = memoryview(self.root.nodes).cast("I")
        self._parsed: dict[int, order.NodeRecord] = {}

    def get(self, key: bytes) -> bytes | None:
        """A record of the directory."""
        self.reads.records += 1
        return self._txn.get(key, db=self._directory)

    def everything(self) -> tuple[dict[bytes, bytes], Iterator[tuple[bytes, bytes]]]:
        """The whole directory, and all rows in order."""
        self._cursor.first()
        return dict(self._txn.cursor(self._directory)), iter(self._cursor)

    def node(self, number: int) -> order.NodeRecord:
        record = self._parsed.get(number)
        if record is None:
            raw = self.get(order.node_key(number))
            if raw is None:
                raise IndexDiffers(f"node {number} is missing")
            record = self._parsed[number] = order.decode_node(raw)
        return record

    def rows(self, fence: bytes, count: int, buckets: int) -> Rows:
        """The next `count` rows from a fence on, which so many buckets hold; fewer where there are no more."""
        self.reads.buckets += buckets
        if not self._cursor.set_range(fence):
            return []
        return list(islice(self._cursor.iternext(), count))

    def matches(self, fence: bytes, count: int, buckets: int, view: View) -> Rows:
        """The next `count` rows that match, looked for in no more rows than so many buckets may hold."""
        found: Rows = []
        cursor = self._cursor
        self.reads.buckets += buckets
        if not cursor.set_range(fence):
            return found
        tags, overflowing = view.tags, self.root.overflowing
        for value in islice(cursor.iternext(keys=False), buckets * BUCKET_ROWS_MAX):
            if value[:TAG_BYTES] in tags or (overflowing and view.matches(value)):
                found.append((cursor.key(), value))
                if len(found) == count:
                    break
        return found

    def column(self, column: int) -> list[int]:
        """Rows per node, in the order of nodes."""
        raw = self.get(order.column_key(column))
        if raw is None:
            return [0] * len(self.nodes)
        half = len(raw) // 2
        if raw[:half] == self.root.nodes:
            return order.numbers(raw[half:])
        counts = dict(zip(order.numbers(raw[:half]), order.numbers(raw[half:]), strict=True))
        return list(map(counts.get, self.nodes, repeat(0)))


class OrderSnapshot:
    """One shard's index as one read transaction sees it; to be dropped with the transaction."""

    def __init__(
        self,
        filter_count: int,
        txn: lmdb.Transaction[bytes],
        rows: lmdb._Database,
        directory: lmdb._Database,
    ) -> None:
        # Apart, so that views do not point back at what remembers them: a cycle per request would be left
        # to the garbage collector.
        self.shard = _Shard(filter_count, txn, rows, directory)
        self.reads = self.shard.reads
        self._filter_count = filter_count
        self._views: dict[Where, View] = {}

    def view(self, where: Where) -> View:
        """This shard's rows that match, as counts. It is remembered until the snapshot goes."""
        view = self._views.get(where)
        if view is None:
            view = self._views[where] = self._view(where)
        return view

    def _view(self, where: Where) -> View:
        if len(where) != self._filter_count:
            raise ValueError(f"{len(where)} filter values, not {self._filter_count}")
        shard = self.shard
        subset, key = _question(where)
        if not subset:
            return View(shard, where, ALL, frozenset(), order.numbers(shard.root.rows))
        record = shard.get(key)
        if record is not None:
            column, tags = int.from_bytes(record[:2], "big"), _tags(record[2:])
            return View(shard, where, column, tags, shard.column(column))
        column = order.shared_column(subset, where)
        return _Recounted(shard, where, column, shard.column(column))


@lru_cache(maxsize=256)
def _question(where: Where) -> tuple[int, bytes]:
    """The subset a question names, and the key of its column's record. Remembered for the next shard."""
    subset = order.asked(where)
    return subset, order.subset_key(subset, where)


@lru_cache(maxsize=256)
def _tags(packed: bytes) -> frozenset[bytes]:
    """The tags in a subset's record. Remembered: a thousand of them take longer to part than a page to read."""
    return frozenset([packed[i : i + order.TAG_BYTES] for i in range(0, len(packed), order.TAG_BYTES)])


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


class View:
    """The rows of one shard that match one question."""

    def __init__(
        self, shard: _Shard, where: Where, column: int, tags: frozenset[bytes], counts: list[int]
    ) -> None:
        self.shard = shard
        self.where = where
        self.column = column
        self.tags = tags
        self.nodes = Units(shard.root.fences, counts)
        self.total = self.nodes.before[-1]

    def counts(self, at: int, record: order.NodeRecord) -> bytes:  # noqa: ARG002
        """Matching rows in the buckets of a node, the one at this place in the root; see `order.dense`."""
        return column_counts(record, self.column)

    def buckets(self, first: int, end: int) -> Units:
        """The buckets of some nodes. Where few have a matching row, those between are put together."""
        fences: list[bytes] = []
        counts: list[int] = []
        rows: list[int] = []
        shard = self.shard
        for at in range(first, end):
            if not self.nodes.counts[at]:
                fences.append(self.nodes.fences[at])
                counts.append(0)
                continue
            record = shard.node(shard.nodes[at])
            column = self.counts(at, record)
            if len(column) == len(record.fences):
                fences += record.fences
                counts += column
            else:
                _spread(record.fences, column, fences, counts)
            if self.column != ALL and len(record.fences) == len(column):
                rows += column_counts(record, ALL)
        known = len(rows) == len(fences)
        return Units(fences, counts, self.nodes.before[first], rows if known else None)

    def read(self, buckets: Units, first: int, end: int) -> Rows:
        """The matching rows of some buckets, neighbours in one go."""
        found: Rows = []
        shard, counts, before, fences = self.shard, buckets.counts, buckets.before, buckets.fences
        while first < end:
            if not counts[first]:
                first += 1
                continue
            stop = first + 1
            while stop < end and counts[stop]:
                stop += 1
            expected = before[stop] - before[first]
            if self.column == ALL:
                rows = shard.rows(fences[first], expected, stop - first)
            elif buckets.rows is not None:
                tags = self.tags
                rows = shard.rows(fences[first], sum(buckets.rows[first:stop]), stop - first)
                if shard.root.overflowing:
                    rows = [row for row in rows if self.matches(row[1])]
                else:
                    rows = [row for row in rows if row[1][:TAG_BYTES] in tags]
            else:
                rows = shard.matches(fences[first], expected, stop - first, self)
            behind = stop < len(counts) and rows and rows[-1][0] >= fences[stop]
            if len(rows) != expected or behind:
                raise IndexDiffers(f"{expected} rows are counted from {fences[first].hex()} on, not found")
            found += rows
            first = stop
        return found

    def matches(self, value: bytes) -> bool:
        """Whether a stored row matches, by its tag or by the filter values it carries."""
        if not value.startswith(OVERFLOW):
            return value[:TAG_BYTES] in self.tags
        values = order.carried_values(value)
        return all(asked is None or asked == has for asked, has in zip(self.where, values, strict=True))

    def rank(self, key: bytes) -> int:
        """Matching rows below a key."""
        if not self.total:
            return 0
        at = bisect_right(self.nodes.fences, key) - 1
        buckets = self.buckets(at, at + 1)
        bucket = bisect_right(buckets.fences, key) - 1
        rows = self.read(buckets, bucket, bucket + 1)
        return buckets.before[bucket] + bisect_left(rows, key, key=itemgetter(0))


class _Recounted(View):
    """As View, for values past the limit: what their shared column counts is read, and counted anew."""

    def __init__(self, shard: _Shard, where: Where, column: int, counts: list[int]) -> None:
        super().__init__(shard, where, column, frozenset(), counts)
        self._exact = {at: self._recount(at) for at, count in enumerate(counts) if count}
        self.nodes = Units(
            shard.root.fences, [sum(self._exact[at]) if count else 0 for at, count in enumerate(counts)]
        )
        self.total = self.nodes.before[-1]

    def _recount(self, at: int) -> bytes:
        record = self.shard.node(self.shard.nodes[at])
        buckets = len(record.fences)
        rows = order.dense(column_counts(record, ALL), buckets)
        exact = bytearray(buckets)
        for bucket, candidates in enumerate(order.dense(column_counts(record, self.column), buckets)):
            if candidates:
                for _, value in self.shard.rows(record.fences[bucket], rows[bucket], 1):
                    exact[bucket] += self.matches(value)
        return bytes(exact)

    def counts(self, at: int, record: order.NodeRecord) -> bytes:  # noqa: ARG002
        return self._exact[at]


def _spread(all_fences: list[bytes], column: bytes, fences: list[bytes], counts: list[int]) -> None:
    """Append the buckets of a sparse column, and an empty one for each gap between them."""
    half = len(column) // 2
    behind = 0
    fences.append(all_fences[0])
    counts.append(0)
    for bucket, count in sorted(zip(column[:half], column[half:], strict=True)):
        if bucket == behind:
            fences.pop()
            counts.pop()
        behind = bucket + 1
        fences += all_fences[bucket : bucket + 2]
        counts += (count, 0) if behind < len(all_fences) else (count,)


def column_counts(record: order.NodeRecord, column: int) -> bytes:
    """Rows of a column in the buckets of a node, see `order.dense`; empty where there are none."""
    buckets = len(record.fences)
    if column == ALL and record.sizes[:1] == bytes((buckets,)):
        return record.counts[:buckets]
    number = column.to_bytes(2, sys.byteorder)
    place = record.columns.find(number)
    while place > 0 and place % 2:  # two halves of neighbours
        place = record.columns.find(number, place + 1)
    if place < 0:
        return b""
    at = place // 2
    start = sum(record.sizes[:at])
    return record.counts[start : start + record.sizes[at]]


def _start(shards: Sequence[Units], rank: int, *, near: bytes = b"", slack: int = 0) -> bytes:
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


def _stop(shards: Sequence[Units], low: bytes, rank: int) -> bytes | None:
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


def _window(views: Sequence[View], start: int, end: int) -> Rows:
    """The matching rows of ranks start to end - 1, oldest first; 0 <= start <= end <= their number."""
    if start >= end:
        return []
    views = [view for view in views if view.total]
    nodes = [view.nodes for view in views]
    low = _start(nodes, start)
    high = _stop(nodes, low, end)
    buckets = [view.buckets(*_span(view.nodes.fences, low, high)) for view in views]
    low = _start(buckets, start, near=low, slack=SLACK_ROWS)
    nearer = _stop(buckets, low, end)
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
