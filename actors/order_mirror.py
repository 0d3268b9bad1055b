"""A shard's directory of counts in memory, read as needed and changed through one batch after the other.

It is a cache: the root record carries a random stamp, new with every batch, and a mirror whose stamp is not the
stored one (the transaction was aborted, somebody else wrote) is dropped. `order.py` has the theory.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import order
from .order import ALL, IndexDiffers
from .order_nodes import Node, bumped, column_record, dense, parse_u32

if TYPE_CHECKING:
    import lmdb

STAMP_BYTES = 8
"""Random, so that two histories of a shard never agree on one by chance."""

KNOWN_MAX = 8_192
"""Combinations of values remembered: all tagged ones and as many that carry their values."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What the index makes of a combination of filter values; one object per combination."""

    prefix: bytes  # what stands before the list row
    columns: tuple[int, ...]  # those the row is counted in
    carried: bool  # the row carries its values


class Mirror:
    """The mirror of a shard's directory, read as needed within one transaction after the other."""

    def __init__(self, filter_count: int, database: lmdb._Database, raw: bytes | None) -> None:
        self.raw = raw
        self.txn: lmdb.Transaction[bytes] | None = None
        self._database = database
        root = order.decode_root(raw) if raw is not None else order.empty_root(filter_count)
        order.require_format(root, filter_count)
        self.used = root.used
        self.overflowing = root.overflowing
        self.fences = root.fences
        self.order = parse_u32(root.nodes)
        self._next_node = root.next_node
        self._counts = {ALL: dict(zip(self.order, parse_u32(root.rows), strict=True))}
        self._stale: set[int] = set()  # columns whose record is older than self._counts
        self._nodes: dict[int, Node] = {}
        self._known: dict[tuple[bytes | None, ...], Known] = {}
        self._tags: dict[bytes, Known] = {}
        if not self.order:
            self._add(0, Node(self.take_number(), [b""], {}))

    def get(self, key: bytes) -> bytes | None:
        assert self.txn is not None
        return self.txn.get(key, db=self._database)

    def put(self, key: bytes, value: bytes) -> None:
        assert self.txn is not None
        self.txn.put(key, value, db=self._database)

    # Values, tags, columns

    def known(self, values: tuple[bytes | None, ...]) -> Known:
        """What stands for these values; a number is given out to those met for the first time."""
        known = self._known.get(values)
        return known if known is not None else self._meet(values)

    def _meet(self, values: tuple[bytes | None, ...]) -> Known:
        if 1 << len(values) != len(self.used):
            raise ValueError(f"{len(values)} filter values, not {len(self.used).bit_length() - 1}")
        key = order.combination_key(values)
        tag = self.get(key)
        fresh = tag is None and self.used[0] < order.COMBINATIONS_MAX
        if fresh:
            self.used[0] += 1
            tag = self.used[0].to_bytes(order.TAG_BYTES, "big")
            self.put(key, tag)
            self.put(order.tag_key(tag), order.encode(values))
        columns = [self._column(subset, values, tag if fresh else None) for subset in order.subsets(values)]
        known = Known(tag or order.carried(values), (ALL, *columns), tag is None)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[values] = known
        if tag is not None:
            self._tags[tag] = known
        return known

    def _column(self, subset: int, values: tuple[bytes | None, ...], fresh_tag: bytes | None) -> int:
        key = order.subset_key(subset, values)
        record = self.get(key)
        if record is None:
            if self.used[subset] >= order.COMBINATIONS_MAX:
                return order.shared_column(subset, values)
            record = order.own_column(subset, self.used[subset]).to_bytes(2, "big")
            self.used[subset] += 1
            self.put(key, record + (fresh_tag or b""))
        elif fresh_tag is not None:
            self.put(key, record + fresh_tag)
        return int.from_bytes(record[:2], "big")

    def known_of(self, value: bytes) -> Known:
        """What stands for the values of a stored row."""
        tag = value[: order.TAG_BYTES]
        known = self._tags.get(tag)
        if known is not None:
            return known
        if tag == order.OVERFLOW:
            return self.known(order.carried_values(value))
        packed = self.get(order.tag_key(tag))
        if packed is None:
            raise IndexDiffers(f"a row has the tag {tag.hex()}, which is not known")
        return self.known(order.decode_values(packed))

    # Nodes

    def take_number(self) -> int:
        self._next_node += 1
        return self._next_node

    def node(self, at: int) -> Node:
        """The node at a position of the root."""
        number = self.order[at]
        node = self._nodes.get(number)
        if node is None:
            raw = self.get(order.node_key(number))
            if raw is None:
                raise IndexDiffers(f"node {number} is missing")
            node = self._nodes[number] = Node.parse(number, raw)
        return node

    def end(self, at: int, bucket: int) -> bytes | None:
        """The fence behind a bucket, None behind the last."""
        fences = self.node(at).fences
        if bucket + 1 < len(fences):
            return fences[bucket + 1]
        return self.fences[at + 1] if at + 1 < len(self.fences) else None

    def count(self, column: int) -> dict[int, int]:
        """Rows per node, to be changed; see `_stale`."""
        self._stale.add(column)
        counts = self._counts.get(column)
        if counts is None:
            raw = self.get(order.column_key(column)) or b""
            numbers = parse_u32(raw)
            half = len(numbers) // 2
            counts = self._counts[column] = dict(zip(numbers[:half], numbers[half:], strict=True))
        return counts

    def add(self, node: Node, bucket: int, gained: dict[Known, int]) -> None:
        """Count rows that came to a bucket, or (negative) went."""
        deltas: dict[int, int] = {}
        for known, delta in gained.items():
            if known.carried:
                self.overflowing += delta
            for column in known.columns:
                deltas[column] = deltas.get(column, 0) + delta
        number, buckets, columns = node.number, len(node.fences), node.columns
        for column, delta in deltas.items():
            if not delta:
                continue
            before = columns.get(column)
            try:
                after = bumped(before, buckets, bucket, delta)
            except ValueError as error:
                raise IndexDiffers(f"bucket {bucket} of node {number} counts too few rows") from error
            if not after:
                del columns[column]
            elif after is not before:
                columns[column] = after
            counts = self.count(column)
            counts[number] = counts.get(number, 0) + delta
        node.changed = True

    def split_node(self, at: int) -> None:
        """Half of the buckets leave; of the last node only the last bucket, so that full nodes stay behind."""
        node = self.node(at)
        buckets = len(node.fences)
        cut = buckets - 1 if at + 1 == len(self.order) else buckets // 2
        right = node.split(cut, self.take_number())
        self._add(at + 1, right)
        for column, counts in right.columns.items():
            moved = sum(dense(counts, len(right.fences)))
            held = self.count(column)
            held[right.number] = moved
            held[node.number] -= moved

    def _add(self, at: int, node: Node) -> None:
        self.order.insert(at, node.number)
        self.fences.insert(at, node.fences[0])
        self._nodes[node.number] = node
        self.count(ALL).setdefault(node.number, 0)
        node.changed = True

    def merge(self) -> None:
        """Merge buckets, then nodes, of which few rows are left."""
        for node in [node for node in self._nodes.values() if node.shrunk]:
            if node.number not in self._nodes:
                continue  # absorbed by the one before
            node.merge_buckets()
            if len(node.fences) > order.NODE_BUCKETS_MERGE // 2 or len(self.order) == 1:
                continue
            at = self.order.index(node.number)
            self._merge_nodes(at - 1 if at else 0)

    def _merge_nodes(self, at: int) -> None:
        left, right = self.node(at), self.node(at + 1)
        buckets, size = len(left.fences) + len(right.fences), left.size() + right.size()
        large = buckets > order.NODE_BUCKETS_MERGE or size > order.NODE_BYTES_MAX
        if large and left.columns and right.columns:
            return
        if not left.columns:
            # Its range goes to the next node, which keeps its own rows: no larger node comes of an empty one.
            left, right = right, left
            left.fences[0] = right.fences[0]
            left.changed = True
        elif right.columns:
            left.absorb(right)
            left.merge_buckets()
        for column, counts in right.columns.items():
            held = self.count(column)
            held.pop(right.number, None)
            held[left.number] = held.get(left.number, 0) + sum(dense(counts, len(right.fences)))
        self.count(ALL).pop(right.number, None)
        del self.order[at + 1], self.fences[at + 1], self._nodes[right.number]
        self.order[at] = left.number
        assert self.txn is not None
        self.txn.delete(order.node_key(right.number), db=self._database)

    # The end of a batch

    def write(self) -> None:
        """Put what changed."""
        for node in self._nodes.values():
            if node.changed:
                self.put(order.node_key(node.number), node.record())
                node.changed = False
        position = dict(zip(self.order, range(len(self.order)), strict=True))
        for column in self._stale - {ALL}:
            self._write_column(column, position)
        self._stale.clear()
        rows = self._counts[ALL]
        root = order.Root(
            format=order.FORMAT,
            stamp=os.urandom(STAMP_BYTES),
            next_node=self._next_node,
            used=self.used,
            overflowing=self.overflowing,
            nodes=array("I", self.order).tobytes(),
            rows=array("I", [rows[number] for number in self.order]).tobytes(),
            fences=self.fences,
        )
        self.raw = order.encode(root)
        self.put(order.ROOT_KEY, self.raw)

    def _write_column(self, column: int, position: dict[int, int]) -> None:
        counts = {number: count for number, count in self._counts[column].items() if count}
        key = order.column_key(column)
        if counts:
            numbers = sorted(counts, key=position.__getitem__)
            self._counts[column] = counts
            self.put(key, column_record(numbers, [counts[number] for number in numbers]))
        else:
            assert self.txn is not None
            del self._counts[column]
            self.txn.delete(key, db=self._database)

    def total(self) -> int:
        return sum(self._counts[ALL].values())

    def held(self) -> int:
        """Counts in memory."""
        return sum(len(node.columns) for node in self._nodes.values()) + sum(map(len, self._counts.values()))
