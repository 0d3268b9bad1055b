"""One shard's order index as one read transaction sees it: its records, and the rows that match a question.

The number of rows a bucket yields is checked against the directory in passing. `layout.py` has the theory.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as counter
from itertools import islice, repeat
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from . import layout as order
from .layout import ALL, BUCKET_ROWS_MAX, OVERFLOW, TAG_BYTES, IndexDiffers, Where
from .nodes import column_counts, dense, parse_u32
from .search import Units

if TYPE_CHECKING:
    import lmdb

Rows = list[tuple[bytes, bytes]]
"""(key, stored value) within this module, (key, list row) outside."""


@dataclass(slots=True)
class Reads:
    """What a snapshot has read so far."""

    records: int = 0  # of the directory: root, columns, nodes
    buckets: int = 0
    turn: int = 0  # of its last read among those of all snapshots: whose it is that failed

    def count(self, *, records: int = 0, buckets: int = 0) -> None:
        """A read begins."""
        self.records += records
        self.buckets += buckets
        self.turn = next(_turns)


_turns = counter(1)


class ShardRecords:
    """The records and rows of one shard in one read transaction."""

    def __init__(
        self,
        filter_count: int,
        txn: lmdb.Transaction[bytes],
        rows: lmdb._Database,
        directory: lmdb._Database,
        reads: Reads,
    ) -> None:
        self.reads = reads
        self._txn = txn
        self._directory = directory
        self._cursor = txn.cursor(rows)
        raw = self.get(order.ROOT_KEY)
        try:
            self.root = order.decode_root(raw) if raw is not None else order.empty_root(filter_count)
        except msgspec.MsgspecError as error:
            raise IndexDiffers("its root cannot be decoded") from error
        order.require_format(self.root, filter_count)
        self.nodes = memoryview(self.root.nodes).cast("I")
        self._parsed: dict[int, order.NodeRecord] = {}

    def get(self, key: bytes) -> bytes | None:
        """A record of the directory."""
        self.reads.count(records=1)
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
        self.reads.count(buckets=buckets)
        if not self._cursor.set_range(fence):
            return []
        return list(islice(self._cursor.iternext(), count))

    def matches(self, fence: bytes, count: int, buckets: int, view: View) -> Rows:
        """The next `count` rows that match, looked for in no more rows than so many buckets may hold."""
        found: Rows = []
        cursor = self._cursor
        self.reads.count(buckets=buckets)
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
            return parse_u32(raw[half:])
        counts = dict(zip(parse_u32(raw[:half]), parse_u32(raw[half:]), strict=True))
        return list(map(counts.get, self.nodes, repeat(0)))


class OrderSnapshot:
    """One shard's index as one read transaction sees it; to be dropped with the transaction."""

    def __init__(
        self,
        filter_count: int,
        txn: lmdb.Transaction[bytes],
        rows: lmdb._Database,
        directory: lmdb._Database,
        reads: Reads | None = None,
    ) -> None:
        self.reads = reads or Reads()
        # Apart, so that views do not point back at what remembers them: a cycle per request would be left
        # to the garbage collector.
        self.shard = ShardRecords(filter_count, txn, rows, directory, self.reads)
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
            return View(shard, where, ALL, frozenset(), parse_u32(shard.root.rows))
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


class View:
    """The rows of one shard that match one question."""

    def __init__(
        self, shard: ShardRecords, where: Where, column: int, tags: frozenset[bytes], counts: list[int]
    ) -> None:
        self.shard = shard
        self.where = where
        self.column = column
        self.tags = tags
        self.nodes = Units(shard.root.fences, counts)
        self.total = self.nodes.before[-1]

    def counts(self, at: int, record: order.NodeRecord) -> bytes:  # noqa: ARG002
        """Matching rows in the buckets of a node, the one at this place in the root; see `dense`."""
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
                raise IndexDiffers(f"{expected} rows are counted where {len(rows)} were found")
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

    def __init__(self, shard: ShardRecords, where: Where, column: int, counts: list[int]) -> None:
        super().__init__(shard, where, column, frozenset(), counts)
        self._exact = {at: self._recount(at) for at, count in enumerate(counts) if count}
        self.nodes = Units(
            shard.root.fences, [sum(self._exact[at]) if count else 0 for at, count in enumerate(counts)]
        )
        self.total = self.nodes.before[-1]

    def _recount(self, at: int) -> bytes:
        record = self.shard.node(self.shard.nodes[at])
        buckets = len(record.fences)
        rows = dense(column_counts(record, ALL), buckets)
        exact = bytearray(buckets)
        for bucket, candidates in enumerate(dense(column_counts(record, self.column), buckets)):
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
