"""Real shard stores for tests: made in a folder, fed with items or records, read back as clients see them."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.generations.create import create_store
from kycache.actors.order.reader import page, total
from kycache.actors.order.recount import check
from kycache.actors.partition import Order, Partition, Pause, ReadFrom
from kycache.actors.reader import ShardReader, ShardSnapshot
from kycache.actors.rules.reports import Doubt
from kycache.actors.rules.state import Identity, Position, ShardState
from kycache.actors.shard import Batch
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import FORMAT, Applied, Store
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from kycache.model.render import Renderer
from kycache.model.view import View
from support.pipeline.fake_source import FakeSource

TOPIC = "kyc.changes"
TOPIC_ID = "00000000-0000-0000-0000-000000000001"
MAP_BYTES = 1 << 30
DEFAULT_VIEW = default_view()
LATE_S = 4_000_000_000.0
"""In 2096."""


class ShardUnderTest:
    """One shard of a view in a data directory of its own."""

    def __init__(
        self,
        root: Path,
        view: View,
        *,
        shard: int = 0,
        shards: int = 1,
        map_bytes: int = MAP_BYTES,
        environments: Environments | None = None,
    ) -> None:
        self.view = view
        self.renderer = Renderer(view)
        self.directory = DataDirectory(root)
        times = self.directory.found(view.hash, TOPIC, TOPIC_ID, shards).times
        self.environments = environments or Environments(readonly=False, map_size=map_bytes)
        self.identity = Identity(FORMAT, shard, shards, view.hash, times=times)
        self.folder = self.directory.shard(shard)
        self.folder.prepare()
        if self.folder.current() is None:
            generation = self.folder.next_generation()
            position = Position(TOPIC, TOPIC_ID, shard, 0)
            create_store(self.environments, generation, self.identity, position, from_start=True)
            self.folder.flip(generation)
        self.fence = Fence()
        self.doubts: list[Doubt] = []
        self.reader = ShardReader(self.environments, self.folder, view, shards)
        self.store = self._open()
        self._offset = self.store.opened_at.position.offset

    def _open(self) -> Store:
        generation = self.folder.current()
        assert generation is not None
        about = (self.environments, generation, self.view, self.identity, self.doubts.extend)
        return Store(*about, clock=lambda: LATE_S)  # whatever the day of the test: its source is never ahead

    def apply(self, items: Iterable[Item]) -> Applied:
        """Apply one batch; it must commit."""
        batch = list(items)
        offset = batch[-1].offset + 1 if batch else self._offset
        self._offset = max(self._offset, offset)
        position = Position(TOPIC, TOPIC_ID, self.identity.shard, self._offset)
        applied = self.store.apply(batch, position, self._offset, self.fence)
        assert applied is not None
        return applied

    def reopen(self) -> None:
        """Close and open the store, as a restart does."""
        self.store.close()
        self.store = self._open()

    def close(self) -> None:
        """Check what every scenario must leave behind, then close."""
        with self.reader.snapshot() as snapshot:
            check(snapshot.order)
            listed = total([snapshot.order], (None,) * len(self.view.filters))
            assert listed == snapshot.state.users
        self.reader.close()
        self.store.close()

    @contextmanager
    def snapshot(self) -> Iterator[ShardSnapshot]:
        with self.reader.snapshot() as snapshot:
            yield snapshot

    @property
    def state(self) -> ShardState:
        with self.snapshot() as snapshot:
            return snapshot.state

    def detail(self, user: bytes) -> dict[str, Any] | None:
        """The 200 body of a user; None for a 404."""
        with self.snapshot() as snapshot:
            profile = snapshot.profile(user)
            if profile is None or not profile.exists:
                return None
            found: dict[str, Any] = json.loads(self.renderer.body(profile))
            return found

    def suspect(self, user: bytes) -> bool:
        """The profile is under suspicion."""
        with self.snapshot() as snapshot:
            profile = snapshot.profile(user)
            return profile is not None and bool(profile.suspicions)

    def listed(self, **filters: str) -> list[dict[str, Any]]:
        """Every row of the list, newest first."""
        where = tuple(filters[f.name].encode() if f.name in filters else None for f in self.view.filters)
        with self.snapshot() as snapshot:
            count = total([snapshot.order], where)
            rows = page([snapshot.order], where, newest=True, skip=0, size=count)
            assert len(rows) == count
            return [json.loads(row) for _, row in rows]


class Orders:
    """A partition without a consumer thread: what a shard ordered of it, and batches for its runs."""

    def __init__(self) -> None:
        self.given: list[Order] = []
        self.partition = Partition(0, count(1), self.given.append)

    @property
    def read_from(self) -> list[int]:
        """The offsets from which it was ordered to read, in order."""
        return [order.offset for order in self.given if isinstance(order, ReadFrom)]

    @property
    def paused(self) -> list[int]:
        """The runs that were ended."""
        return [order.run for order in self.given if isinstance(order, Pause)]

    @property
    def run(self) -> int:
        """The number of the latest run."""
        return max(order.run for order in self.given if isinstance(order, ReadFrom))

    def batch(self, items: list[Item], first: int, end: int, *, run: int | None = None) -> Batch:
        """Items from `first` to before `end`, polled for a run, of a log that holds all of them.

        Args:
            run: None: the latest.
        """
        return Batch(self.run if run is None else run, items[first:end], 1, end, -1, len(items))


def items_of(source: FakeSource) -> list[Item]:
    decoder = RecordDecoder(DEFAULT_VIEW)
    return [decoder.decode(record) for record in source.records()[0]]


def filled(folder: Path, rounds: int = 30) -> tuple[ShardUnderTest, FakeSource]:
    source = FakeSource(Random(5), 1)
    source.snapshot()
    for _ in range(rounds):
        source.transactions(3)
    source.beat()
    shard = ShardUnderTest(folder, DEFAULT_VIEW)
    shard.apply(items_of(source))
    return shard, source
