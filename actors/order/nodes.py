"""Nodes of the order index, and the counts in them.

Counts: the rows of one column in each of a node's n buckets. Two forms, told apart by length: dense, n bytes,
one per bucket; or sparse, 2k < n bytes, k bucket numbers (any order) then their k counts.
"""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from functools import lru_cache

from .layout import ALL, BUCKET_ROWS_MERGE, NODE_BUCKETS_MAX, NodeRecord, decode_node, encode


def dense(counts: bytes | bytearray, buckets: int) -> bytearray:
    """A dense copy."""
    if len(counts) == buckets:
        return bytearray(counts)
    filled = bytearray(buckets)
    half = len(counts) // 2
    for bucket, count in zip(counts[:half], counts[half:], strict=True):
        filled[bucket] = count
    return filled


def packed(counts: bytearray) -> bytearray:
    """The shorter form of dense counts; empty where there are none."""
    filled = len(counts) - counts.count(0)
    if 2 * filled >= len(counts):
        return counts
    numbers = [bucket for bucket, count in enumerate(counts) if count]
    return bytearray(numbers) + bytearray(filter(None, counts))


def bumped(counts: bytearray | None, buckets: int, bucket: int, delta: int) -> bytearray:
    """Counts with `delta` added to one bucket, in place where it can be; empty when no row is left.

    Raises:
        ValueError: the count would be negative, or more than a byte.
    """
    if counts is None:
        counts = bytearray()
    if len(counts) != buckets:
        half = len(counts) // 2
        at = counts.find(bucket, 0, half)
        if at < 0:
            if 2 * half + 2 < buckets:
                counts.append(delta)
                counts.insert(half, bucket)
                return counts
            counts = dense(counts, buckets)
        elif counts[half + at] + delta:
            counts[half + at] += delta
            return counts
        else:
            del counts[half + at], counts[at]
            return counts
    counts[bucket] += delta
    if not counts[bucket] and counts.count(0) == buckets:
        return bytearray()
    return counts


@lru_cache(maxsize=NODE_BUCKETS_MAX + 1)
def shifted(bucket: int) -> bytes:
    """A translation table that makes room: bucket numbers above `bucket` grow by one."""
    return bytes(min(number + (number > bucket), 255) for number in range(256))


def column_record(nodes: list[int], counts: list[int]) -> bytes:
    """Rows per node of one column: ids in root order, then their counts, u32 each."""
    return array("I", nodes).tobytes() + array("I", counts).tobytes()


def parse_u32(raw: bytes) -> list[int]:
    """The u32 numbers in `raw`."""
    return memoryview(raw).cast("I").tolist()


class Node:
    """A run of buckets, as in the store but with its columns apart."""

    __slots__ = ("changed", "columns", "fences", "number", "shrunk")

    def __init__(self, number: int, fences: list[bytes], columns: dict[int, bytearray]) -> None:
        self.number = number
        self.fences = fences
        self.columns = columns
        self.changed = False
        self.shrunk = False  # a bucket has few rows left

    @classmethod
    def parse(cls, number: int, raw: bytes) -> Node:
        record = decode_node(raw)
        columns: dict[int, bytearray] = {}
        start = 0
        for column, size in zip(array("H", record.columns), record.sizes, strict=True):
            columns[column] = bytearray(record.counts[start : start + size])
            start += size
        return cls(number, record.fences, columns)

    def record(self) -> bytes:
        columns = sorted(self.columns)
        counts = list(map(self.columns.__getitem__, columns))
        sizes = bytes(map(len, counts))
        return encode(NodeRecord(self.fences, array("H", columns).tobytes(), sizes, b"".join(counts)))

    def size(self) -> int:
        """Bytes of the record, nearly."""
        counts = self.columns.values()
        return sum(map(len, counts)) + 3 * len(counts) + sum(map(len, self.fences)) + 2 * len(self.fences)

    def rows(self) -> bytearray:
        """Rows per bucket."""
        return dense(self.columns.get(ALL, bytearray()), len(self.fences))

    def rows_in(self, bucket: int) -> int:
        counts = self.columns.get(ALL, b"")
        if len(counts) == len(self.fences):
            return counts[bucket]
        return dense(counts, len(self.fences))[bucket]

    def insert_bucket(self, after: int, fence: bytes, moved: Counter[int]) -> None:
        """A bucket behind `after` takes over its rows from `fence` on: `moved` of each column."""
        buckets = len(self.fences)
        self.fences.insert(after + 1, fence)
        for column, counts in self.columns.items():
            count = moved.get(column, 0)
            if not count and len(counts) != buckets:
                half = len(counts) // 2
                counts[:half] = counts[:half].translate(shifted(after))
                continue
            filled = dense(counts, buckets)
            filled[after] -= count
            filled.insert(after + 1, count)
            self.columns[column] = packed(filled)

    def split(self, at: int, number: int) -> Node:
        """The buckets from `at` on leave to a new node."""
        buckets = len(self.fences)
        right = Node(number, self.fences[at:], {})
        left: dict[int, bytearray] = {}
        for column, counts in self.columns.items():
            filled = dense(counts, buckets)
            for columns, part in ((left, filled[:at]), (right.columns, filled[at:])):
                if part.count(0) != len(part):
                    columns[column] = packed(part)
        self.fences = self.fences[:at]
        self.columns = left
        self.changed = right.changed = True
        return right

    def absorb(self, right: Node) -> None:
        """Take over all buckets of the next node."""
        mine, its = len(self.fences), len(right.fences)
        for column in self.columns.keys() | right.columns.keys():
            filled = dense(self.columns.get(column, bytearray()), mine)
            filled += dense(right.columns.get(column, bytearray()), its)
            self.columns[column] = packed(filled)
        self.fences = self.fences + right.fences
        self.changed = self.shrunk = True

    def merge_buckets(self) -> None:
        """Let small neighbours become one; no row moves, counts add up."""
        rows = self.rows()
        starts = [0]
        together = rows[0]
        for bucket in range(1, len(rows)):
            if together + rows[bucket] <= BUCKET_ROWS_MERGE:
                together += rows[bucket]
            else:
                starts.append(bucket)
                together = rows[bucket]
        self.shrunk = False
        if len(starts) == len(rows):
            return
        ends = [*starts[1:], len(rows)]
        for column, counts in self.columns.items():
            filled = dense(counts, len(rows))
            merged = bytearray(sum(filled[a:b]) for a, b in zip(starts, ends, strict=True))
            self.columns[column] = packed(merged)
        self.fences = [self.fences[start] for start in starts]
        self.changed = True


def column_counts(record: NodeRecord, column: int) -> bytes:
    """Rows of a column in the buckets of a node, see `dense`; empty where there are none."""
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
