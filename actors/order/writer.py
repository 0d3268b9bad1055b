"""Keeps a shard's order index, one batch in one transaction of the caller's.

The batch is sorted, so that one pass over it visits each node once. Rows go to the store at once; counts are
changed in a mirror of the directory in memory, and what changed of it goes out once, at the end.
`layout.py` has the theory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING

from kycache.model.view import FILTERS_MAX

from . import layout as order
from .layout import BUCKET_ROWS_MAX, BUCKET_ROWS_MERGE, NODE_BUCKETS_MAX, Entry, IndexDiffers
from .mirror import Mirror, Step
from .values import Known

if TYPE_CHECKING:
    import lmdb

MIRROR_BYTES_MAX = 32 << 20
"""Of a mirror kept from batch to batch; a larger one starts anew each time. A shard of 250,000 users takes 0.4 MB
with twenty combinations of values, 25 MB with 1,250."""

_Move = tuple[bytes, Known | None, bytes | None, Known | None, bytes | None]
"""What happens to one key: (key, known before, stored before, known after, value after); None is no row."""


class OrderWriter:
    """Writes one shard's order index. One at a time per shard."""

    def __init__(self, filter_count: int, rows: lmdb._Database, directory: lmdb._Database) -> None:
        if not 0 <= filter_count <= FILTERS_MAX:
            raise ValueError(f"{filter_count} filters: at most {FILTERS_MAX} can be indexed")
        self._filter_count = filter_count
        self._rows = rows
        self._database = directory
        self._mirror: Mirror | None = None

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
        if directory.held_bytes() <= MIRROR_BYTES_MAX:
            self._mirror = directory

    def _open(self, txn: lmdb.Transaction[bytes]) -> Mirror:
        raw = txn.get(order.ROOT_KEY, db=self._database)
        directory = self._mirror
        if directory is None or directory.raw != raw:
            directory = Mirror(self._filter_count, self._database, raw)
        directory.txn = txn
        return directory

    def _clear(self, txn: lmdb.Transaction[bytes]) -> None:
        """No row is left: nor is anything of the directory, and all numbers are free again."""
        entries = txn.stat(self._rows)["entries"]
        if entries:
            raise IndexDiffers(f"{entries} rows are left where none is counted")
        txn.drop(self._database, delete=False)


def _plan(directory: Mirror, moves: Iterable[tuple[Entry | None, Entry | None]]) -> list[_Move]:
    planned: list[_Move] = []
    for old, new in moves:
        if old is not None and new is not None and old.key == new.key:
            if old.filters != new.filters:
                before, after = directory.values.known(old.filters), directory.values.known(new.filters)
            elif old.row != new.row:
                before = after = directory.values.known(old.filters)
            else:
                continue
            planned.append((old.key, before, before.prefix + old.row, after, after.prefix + new.row))
            continue
        if old is not None:
            before = directory.values.known(old.filters)
            planned.append((old.key, before, before.prefix + old.row, None, None))
        if new is not None:
            if not 0 < len(new.key) <= order.KEY_BYTES_MAX:
                raise ValueError(f"a key of {len(new.key)} bytes, not of 1 to {order.KEY_BYTES_MAX}")
            after = directory.values.known(new.filters)
            planned.append((new.key, None, None, after, after.prefix + new.row))
    return planned


class _Pass:
    """One pass over a sorted batch, node by node."""

    def __init__(self, txn: lmdb.Transaction[bytes], rows: lmdb._Database, directory: Mirror) -> None:
        self._cursor = txn.cursor(rows)
        self._directory = directory

    def run(self, planned: list[_Move]) -> None:
        directory, fences = self._directory, self._directory.fences
        at = bucket = rows = 0
        end: bytes | None = b""  # behind the current bucket; b"" is behind no key
        gained: dict[Step, int] = {}  # by the current bucket
        for key, before, stored, after, value in planned:
            self._store(key, stored, value)
            if before is after:
                continue
            if end is not None and key >= end:
                self._count(at, bucket, rows, gained)
                at = bisect_right(fences, key) - 1
                node = directory.node(at)
                bucket = bisect_right(node.fences, key) - 1
                rows = node.rows_in(bucket)
                end = directory.end(at, bucket)
            step = (before, after)
            gained[step] = gained.get(step, 0) + 1
            if before is None:
                rows += 1
                if rows > BUCKET_ROWS_MAX:
                    self._count(at, bucket, rows, gained)
                    self._split_bucket(at, bucket, rows)
                    end = b""
            elif after is None:
                rows -= 1
        self._count(at, bucket, rows, gained)

    def _count(self, at: int, bucket: int, rows: int, gained: dict[Step, int]) -> None:
        if gained:
            self._directory.add(at, bucket, gained)
            gained.clear()
            if rows <= BUCKET_ROWS_MERGE // 2:
                self._directory.node(at).shrunk = True

    def _store(self, key: bytes, stored: bytes | None, value: bytes | None) -> None:
        if value is None:
            found = self._cursor.pop(key)
        elif stored is not None:
            found = self._cursor.replace(key, value)
        elif self._cursor.put(key, value, overwrite=False):
            return
        else:
            raise IndexDiffers("a row to be added is there already")
        if found != stored:
            raise IndexDiffers(f"a row is {'not what' if found else 'missing where'} was said")

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
            moved.update(directory.values.known_of(value).columns)
        node.insert_bucket(bucket, order.separator(items[cut - 1][0], items[cut][0]), moved)
        buckets = len(node.fences)
        heavy = buckets >= 2 * order.NODE_BUCKETS_MIN and node.size() > order.NODE_BYTES_MAX
        if heavy or buckets > NODE_BUCKETS_MAX:
            directory.split_node(at)
