"""The shards of a data directory, filled by a bench itself: without a broker, and without decoding.

They hold the demo's people, as one whole snapshot sends them, and stay open for writing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from traffic import as_debezium

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.generations.create import create_store
from kycache.actors.rules.state import Identity, Position
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import FORMAT, Store
from kycache.demo.population.people import ACCOUNT_COLUMNS, KYC_COLUMNS, USER_COLUMNS, Person
from kycache.model.change import Beat, Change, Item, Origin, Snapshot
from kycache.model.definition import default_view
from kycache.model.partition import partition_of
from kycache.model.values import Value, decoder, uuid_bytes

VIEW = default_view()
MAP_BYTES = 1 << 34
BATCH = 20_000
SNAPSHOT_LSN = 1_000
COLUMNS: tuple[Sequence[str], ...] = tuple(
    columns.split(", ") for columns in (USER_COLUMNS, KYC_COLUMNS, ACCOUNT_COLUMNS)
)
"""Of the view's tables, in its order."""

_DECODERS = [{c.name: decoder(c.type) for c in table.columns} for table in VIEW.tables]


class Shards:
    """The shards of a data directory, filled, and open for writing by this thread or another, one at a time."""

    def __init__(self, root: Path, shards: int, crowd: Iterable[Person]) -> None:
        self.count = shards
        self.directory = DataDirectory(root)
        self.directory.found(VIEW.hash, "kyc.changes", "id", shards)
        self._environments = Environments(readonly=False, map_size=MAP_BYTES)
        self._offsets = [0] * shards
        self._lsn = SNAPSHOT_LSN
        self._stores = [self._made(number) for number in range(shards)]
        snapshot = Origin(Snapshot.WHOLE, None, SNAPSHOT_LSN, _now_ms(), None)
        for number in range(shards):
            self._apply(number, [Beat(self._offsets[number], snapshot, ())])
        waiting = iter(crowd)
        while batch := list(islice(waiting, BATCH)):
            self._write(batch, snapshot)
        self.commit([])

    def commit(self, batch: list[Person]) -> None:
        """One transaction: these users, and a beat on each shard."""
        self._lsn += 100
        streamed = Origin(Snapshot.STREAMED, self._lsn - 50, self._lsn, _now_ms(), self._lsn)
        self._write(batch, streamed)
        for number in range(self.count):
            self._apply(number, [Beat(self._offsets[number], streamed, ())])

    def blocks(self) -> int:
        """Bytes on disk."""
        return sum(512 * f.stat().st_blocks for f in self.directory.root.glob("shards/*/gen-*/data.mdb"))

    def close(self) -> None:
        for store in self._stores:
            store.close()

    def _made(self, number: int) -> Store:
        folder = self.directory.shard(number)
        folder.prepare()
        generation = folder.next_generation()
        identity = Identity(FORMAT, number, self.count, VIEW.hash)
        position = Position("kyc.changes", "id", number, 0)
        create_store(self._environments, generation, identity, position, from_start=True)
        folder.flip(generation)
        return Store(self._environments, generation, VIEW, identity, lambda _: None)

    def _write(self, batch: list[Person], origin: Origin) -> None:
        parts: list[list[Item]] = [[] for _ in range(self.count)]
        for person in batch:
            number = partition_of(person.user[0].encode(), self.count)
            parts[number] += _changes(person, origin, self._offsets[number] + len(parts[number]))
        for number, items in enumerate(parts):
            if items:
                self._apply(number, items)

    def _apply(self, number: int, items: list[Item]) -> None:
        self._offsets[number] += len(items)
        position = Position("kyc.changes", "id", number, self._offsets[number])
        assert self._stores[number].apply(items, position, self._offsets[number], Fence()) is not None


def _changes(person: Person, origin: Origin, offset: int) -> Iterator[Change]:
    """A person's rows, the user first."""
    kafka_key, user = person.user[0].encode(), uuid_bytes(person.user[0])
    assert isinstance(user, bytes)
    for number, rows in enumerate(((person.user,), person.kyc, person.accounts)):
        for row in rows:
            values = _stored(number, row)
            key = values[VIEW.tables[number].index_of(VIEW.tables[number].key)]
            yield Change(offset, origin, number, kafka_key, user, key, values)
            offset += 1


def _stored(number: int, row: tuple[Any, ...]) -> tuple[Value, ...]:
    """The values of a row of that table, as the view stores them."""
    given: dict[str, Any] = dict(zip(COLUMNS[number], row, strict=True))
    return tuple(
        None if given[name] is None else decode(as_debezium(given[name]))
        for name, decode in _DECODERS[number].items()
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
