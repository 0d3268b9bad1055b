"""A shard's directory of counts in memory, read as needed and changed through one batch after the other.

It is a cache: the root record carries a random stamp, new with every batch, and a mirror whose stamp is not the
stored one (the transaction was aborted, somebody else wrote) is dropped. `layout.py` has the theory.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from itertools import compress, repeat, takewhile
from typing import TYPE_CHECKING

from . import layout as order
from .layout import ALL, IndexDiffers
from .nodes import Node, bumped, column_record, dense, parse_u32
from .values import Known, Vocabulary

if TYPE_CHECKING:
    import lmdb

STAMP_BYTES = 8
"""Random, so that two histories of a shard never agree on one by chance."""

STEPS_MAX = 8_192
"""Pairs of combinations remembered, with what a row that goes from one to the other changes."""

COUNT_BYTES = 80
"""Memory of a column's counts in a node, nearly; its rows per node are 8 bytes a node."""


Step = tuple[Known | None, Known | None]
"""What a row is before and after; None is no row."""


class Mirror:
    """The mirror of a shard's directory, read as needed within one transaction after the other."""

    def __init__(self, filter_count: int, database: lmdb._Database, raw: bytes | None) -> None:
        self.raw = raw
        self.txn: lmdb.Transaction[bytes] | None = None
        self._database = database
        root = order.decode_root(raw) if raw is not None else order.empty_root(filter_count)
        order.require_format(root, filter_count)
        self.values = Vocabulary(self, root.used)
        self.overflowing = root.overflowing
        self.fences = root.fences
        self.order = parse_u32(root.nodes)
        self._next_node = root.next_node
        self._counts = {ALL: parse_u32(root.rows)}  # rows per node, in the order of nodes
        self._stale: set[int] = set()  # columns whose record is older than self._counts
        self._nodes: dict[int, Node] = {}
        self._steps: dict[Step, list[tuple[int, int]]] = {}
        if not self.order:
            self._add(0, Node(self.take_number(), [b""], {}))

    def get(self, key: bytes) -> bytes | None:
        assert self.txn is not None
        return self.txn.get(key, db=self._database)

    def put(self, key: bytes, value: bytes) -> None:
        assert self.txn is not None
        self.txn.put(key, value, db=self._database)

    def drop(self, key: bytes) -> None:
        assert self.txn is not None
        self.txn.delete(key, db=self._database)

    def beginning(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """The records whose keys begin so."""
        assert self.txn is not None
        with self.txn.cursor(self._database) as cursor:
            if not cursor.set_range(prefix):
                return []
            return list(takewhile(lambda item: item[0].startswith(prefix), cursor.iternext()))

    def any_in(self, column: int) -> bool:
        """Whether a column has a row."""
        counts = self._counts.get(column)
        return self.get(order.column_key(column)) is not None if counts is None else any(counts)

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

    def count(self, column: int) -> list[int]:
        """Rows per node of a column, to be changed; see `_stale`."""
        self._stale.add(column)
        counts = self._counts.get(column)
        return counts if counts is not None else self._load(column)

    def _load(self, column: int) -> list[int]:
        raw = self.get(order.column_key(column)) or b""
        half = parse_u32(raw)
        numbers, held = half[: len(half) // 2], half[len(half) // 2 :]
        if numbers == self.order:
            counts = held
        else:
            counts = list(map(dict(zip(numbers, held, strict=True)).get, self.order, repeat(0)))
        self._counts[column] = counts
        return counts

    def add(self, at: int, bucket: int, gained: dict[Step, int]) -> None:
        """Count the rows that came to a bucket, went, or became something else: so many made each step."""
        node = self.node(at)
        buckets, columns, stale, loaded = len(node.fences), node.columns, self._stale, self._counts
        for column, delta in self._deltas(gained):
            before = columns.get(column)
            try:
                after = bumped(before, buckets, bucket, delta)
            except ValueError as error:
                raise IndexDiffers(f"bucket {bucket} of node {node.number} counts too few rows") from error
            if not after:
                del columns[column]
            elif after is not before:
                columns[column] = after
            stale.add(column)
            counts = loaded.get(column)
            (counts if counts is not None else self._load(column))[at] += delta
        node.changed = True

    def _deltas(self, gained: dict[Step, int]) -> Iterable[tuple[int, int]]:
        """How many rows each column gains."""
        for (before, after), times in gained.items():
            self.overflowing += times * (
                (after is not None and after.carried) - (before is not None and before.carried)
            )
        if len(gained) == 1:
            [(step, times)] = gained.items()
            deltas = self._step(step)
            return deltas if times == 1 else [(column, times * delta) for column, delta in deltas]
        total: dict[int, int] = {}
        for step, times in gained.items():
            for column, delta in self._step(step):
                total[column] = total.get(column, 0) + times * delta
        return [item for item in total.items() if item[1]]

    def _step(self, step: Step) -> list[tuple[int, int]]:
        """The columns that a row leaves (-1) and enters (+1) by a step; those it stays in are not touched."""
        deltas = self._steps.get(step)
        if deltas is None:
            left, entered = (frozenset(known.columns if known is not None else ()) for known in step)
            deltas = [(column, -1) for column in left - entered] + [(column, 1) for column in entered - left]
            if len(self._steps) >= STEPS_MAX:
                self._steps.clear()
            self._steps[step] = deltas
        return deltas

    def split_node(self, at: int) -> None:
        """Half of the buckets leave; of the last node only the last bucket, so that full nodes stay behind."""
        node = self.node(at)
        buckets = len(node.fences)
        cut = buckets - 1 if at + 1 == len(self.order) else buckets // 2
        right = node.split(cut, self.take_number())
        for column in right.columns:
            self.count(column)
        self._add(at + 1, right)
        for column, counts in right.columns.items():
            moved = sum(dense(counts, len(right.fences)))
            held = self._counts[column]
            held[at + 1] = moved
            held[at] -= moved

    def _add(self, at: int, node: Node) -> None:
        """A node without rows yet; every column in memory makes room for it."""
        self.order.insert(at, node.number)
        self.fences.insert(at, node.fences[0])
        self._nodes[node.number] = node
        for counts in self._counts.values():
            counts.insert(at, 0)
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
        for column in (*left.columns, *right.columns):
            self.count(column)
        if not left.columns:
            # Its range goes to the next node, which keeps its own rows: no larger node comes of an empty one.
            left, right = right, left
            left.fences[0] = right.fences[0]
            left.changed = True
        elif right.columns:
            left.absorb(right)
            left.merge_buckets()
        # Every column in memory loses a place; the record of one with no rows in either node stays as it is.
        for counts in self._counts.values():
            counts[at] += counts.pop(at + 1)
        del self.order[at + 1], self.fences[at + 1], self._nodes[right.number]
        self.order[at] = left.number
        self.drop(order.node_key(right.number))

    # The end of a batch

    def write(self) -> None:
        """Put what changed."""
        for node in self._nodes.values():
            if node.changed:
                self.put(order.node_key(node.number), node.record())
                node.changed = False
        for column in self._stale - {ALL}:
            self._write_column(column)
        self._stale.clear()
        if self.values.recycle():
            self._steps.clear()
        nodes = array("I", self.order).tobytes()
        root = order.Root(
            format=order.FORMAT,
            stamp=os.urandom(STAMP_BYTES),
            next_node=self._next_node,
            used=self.values.used,
            overflowing=self.overflowing,
            nodes=nodes,
            rows=array("I", self._counts[ALL]).tobytes(),
            fences=self.fences,
        )
        self.raw = order.encode(root)
        self.put(order.ROOT_KEY, self.raw)

    def _write_column(self, column: int) -> None:
        counts = self._counts[column]
        if 0 not in counts:
            self.put(order.column_key(column), column_record(self.order, counts))
            return
        nodes = list(compress(self.order, counts))
        if nodes:
            self.put(order.column_key(column), column_record(nodes, list(filter(None, counts))))
        else:
            del self._counts[column]
            self.drop(order.column_key(column))

    def total(self) -> int:
        return sum(self._counts[ALL])

    def held_bytes(self) -> int:
        """Memory of the counts, nearly."""
        counts = sum([len(node.columns) for node in self._nodes.values()])
        return COUNT_BYTES * counts + 8 * len(self.order) * len(self._counts)
