"""Keeps a shard's order index, one batch in one transaction of the caller's.

The batch is sorted, so that one pass over it visits each node once. Rows go to the store at once; counts are
changed in a mirror of the directory in memory, and what changed of it goes out once, at the end. The mirror
is a cache: the root record carries a random stamp, new with every batch, and a mirror whose stamp is not the
stored one (the transaction was aborted, somebody else wrote) is dropped. `order.py` has the theory.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from . import order
from .order import ALL, BUCKET_ROWS_MAX, NODE_BUCKETS_MAX, Entry, IndexDiffers, Node

if TYPE_CHECKING:
    import lmdb

STAMP_BYTES = 8
"""Random, so that two histories of a shard never agree on one by chance."""

KNOWN_MAX = 8_192
"""Combinations of values remembered: all tagged ones and as many that carry their values."""

COUNTS_HELD_MAX = 400_000
"""Counts kept in the mirror after a batch, of about 80 bytes each: 32 MB; a larger one starts anew each time.
A shard of 250,000 users has 5,000 with twenty combinations of values, 270,000 with 1,250 (measured)."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What the index makes of a combination of filter values; one object per combination."""

    prefix: bytes  # what stands before the list row
    columns: tuple[int, ...]  # those the row is counted in
    carried: bool  # the row carries its values


_Move = tuple[bytes, Known | None, bytes | None, Known | None, bytes | None]
"""What happens to one key: (key, known before, stored before, known after, value after); None is no row."""


class _Directory:
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
        self.order = order.numbers(root.nodes)
        self._next_node = root.next_node
        self._counts = {ALL: dict(zip(self.order, order.numbers(root.rows), strict=True))}
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
            numbers = order.numbers(raw)
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
                after = order.bumped(before, buckets, bucket, delta)
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
            moved = sum(order.dense(counts, len(right.fences)))
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
            held[left.number] = held.get(left.number, 0) + sum(order.dense(counts, len(right.fences)))
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
            self.put(key, order.column_record(numbers, [counts[number] for number in numbers]))
        else:
            assert self.txn is not None
            del self._counts[column]
            self.txn.delete(key, db=self._database)

    def total(self) -> int:
        return sum(self._counts[ALL].values())

    def held(self) -> int:
        """Counts in memory."""
        return sum(len(node.columns) for node in self._nodes.values()) + sum(map(len, self._counts.values()))


class OrderWriter:
    """Writes one shard's order index. One at a time per shard."""

    def __init__(self, filter_count: int, rows: lmdb._Database, directory: lmdb._Database) -> None:
        if not 0 <= filter_count <= order.FILTERS_MAX:
            raise ValueError(f"{filter_count} filters: at most {order.FILTERS_MAX} can be indexed")
        self._filter_count = filter_count
        self._rows = rows
        self._database = directory
        self._mirror: _Directory | None = None

    def forget(self) -> None:
        """The caller's transaction was aborted: drop the mirror."""
        self._mirror = None

    def apply(self, txn: lmdb.Transaction[bytes], moves: Iterable[tuple[Entry | None, Entry | None]]) -> None:
        """Bring the index from what it holds to what it shall hold.

        Args:
            txn: a write transaction. Abort it if this raises.
            moves: (old, new) per user, in any order; None where there is no row before, or after.

        A move from an entry to its equal is skipped unseen.

        Raises:
            IndexDiffers: an `old` is not what the index holds, or a `new` is there already.
            ValueError: a key or the number of filter values is out of range.
        """
        # Whatever goes wrong below, the mirror is out of step then.
        directory, self._mirror = self._open(txn), None
        planned = _plan(directory, moves)
        if planned:
            planned.sort(key=itemgetter(0))
            _Pass(txn, self._rows, directory).run(planned)
            directory.merge()
            if directory.total():
                directory.write()
            else:
                self._clear(txn)
                return
        directory.txn = None
        if directory.held() <= COUNTS_HELD_MAX:
            self._mirror = directory

    def _open(self, txn: lmdb.Transaction[bytes]) -> _Directory:
        raw = txn.get(order.ROOT_KEY, db=self._database)
        directory = self._mirror
        if directory is None or directory.raw != raw:
            directory = _Directory(self._filter_count, self._database, raw)
        directory.txn = txn
        return directory

    def _clear(self, txn: lmdb.Transaction[bytes]) -> None:
        """No row is left: nor is anything of the directory, and all numbers are free again."""
        entries = txn.stat(self._rows)["entries"]
        if entries:
            raise IndexDiffers(f"{entries} rows are left where none is counted")
        txn.drop(self._database, delete=False)


def _plan(directory: _Directory, moves: Iterable[tuple[Entry | None, Entry | None]]) -> list[_Move]:
    planned: list[_Move] = []
    for old, new in moves:
        if old is not None and new is not None and old.key == new.key:
            if old.filters != new.filters:
                before, after = directory.known(old.filters), directory.known(new.filters)
            elif old.row != new.row:
                before = after = directory.known(old.filters)
            else:
                continue
            planned.append((old.key, before, before.prefix + old.row, after, after.prefix + new.row))
            continue
        if old is not None:
            before = directory.known(old.filters)
            planned.append((old.key, before, before.prefix + old.row, None, None))
        if new is not None:
            if not 0 < len(new.key) <= order.KEY_BYTES_MAX:
                raise ValueError(f"a key of {len(new.key)} bytes, not of 1 to {order.KEY_BYTES_MAX}")
            after = directory.known(new.filters)
            planned.append((new.key, None, None, after, after.prefix + new.row))
    return planned


class _Pass:
    """One pass over a sorted batch, node by node."""

    def __init__(self, txn: lmdb.Transaction[bytes], rows: lmdb._Database, directory: _Directory) -> None:
        self._cursor = txn.cursor(rows)
        self._directory = directory

    def run(self, planned: list[_Move]) -> None:
        at = bucket = rows = 0
        node = self._directory.node(0)
        end: bytes | None = b""  # behind the current bucket; b"" is behind no key
        gained: dict[Known, int] = {}  # by the current bucket
        for key, before, stored, after, value in planned:
            self._store(key, stored, value)
            if before is after:
                continue
            if end is not None and key >= end:
                self._count(node, bucket, rows, gained)
                at = bisect_right(self._directory.fences, key) - 1
                node = self._directory.node(at)
                bucket = bisect_right(node.fences, key) - 1
                rows = node.rows_in(bucket)
                end = self._directory.end(at, bucket)
            if before is not None:
                gained[before] = gained.get(before, 0) - 1
                rows -= 1
            if after is not None:
                gained[after] = gained.get(after, 0) + 1
                rows += 1
                if rows > BUCKET_ROWS_MAX:
                    self._count(node, bucket, rows, gained)
                    self._split_bucket(at, bucket, rows)
                    end = b""
        self._count(node, bucket, rows, gained)

    def _count(self, node: Node, bucket: int, rows: int, gained: dict[Known, int]) -> None:
        if gained:
            self._directory.add(node, bucket, gained)
            gained.clear()
            if rows <= order.BUCKET_ROWS_MERGE // 2:
                node.shrunk = True

    def _store(self, key: bytes, stored: bytes | None, value: bytes | None) -> None:
        if value is None:
            found = self._cursor.pop(key)
        elif stored is not None:
            found = self._cursor.replace(key, value)
        elif self._cursor.put(key, value, overwrite=False):
            return
        else:
            raise IndexDiffers(f"a row with the key {key.hex()} is there already")
        if found != stored:
            raise IndexDiffers(
                f"the row with the key {key.hex()} is {'not what' if found else 'missing where'} was said"
            )

    def _split_bucket(self, at: int, bucket: int, rows: int) -> None:
        """Half of the rows leave; of the newest bucket only the last row, so that full buckets stay behind."""
        directory, cursor = self._directory, self._cursor
        node = directory.node(at)
        stop = directory.end(at, bucket)
        if stop is None:
            cursor.last()
            last = cursor.item()
            cursor.prev()
            items, cut = [cursor.item(), last], 1
        else:
            cursor.set_range(node.fences[bucket])
            items, cut = list(islice(cursor.iternext(), rows)), rows // 2
            if len(items) != rows or items[-1][0] >= stop:
                raise IndexDiffers(f"bucket {bucket} of node {node.number} does not hold its {rows} rows")
        moved: Counter[int] = Counter()
        for _, value in items[cut:]:
            moved.update(directory.known_of(value).columns)
        node.insert_bucket(bucket, order.separator(items[cut - 1][0], items[cut][0]), moved)
        buckets = len(node.fences)
        heavy = buckets >= 2 * order.NODE_BUCKETS_MIN and node.size() > order.NODE_BYTES_MAX
        if heavy or buckets > NODE_BUCKETS_MAX:
            directory.split_node(at)
