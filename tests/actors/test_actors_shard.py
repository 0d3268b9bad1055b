"""How a shard cuts what waits into batches: at once where that is all there is, whole ones where it is behind."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from kycache.actors import shard
from kycache.actors.rules.state import Position
from kycache.actors.shard import Batch, Opened, ShardActor
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import Applied
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from support.pipeline.fake_source import FakeSource
from support.shards import Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()
WAIT_S = 10.0
BATCH_ITEMS = 4


class Running:
    """An actor of a real shard, and the sizes of the batches that it applied."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shard, "BATCH_ITEMS", BATCH_ITEMS)
        monkeypatch.setattr(shard, "BATCH_ITEMS_MAX", BATCH_ITEMS)
        monkeypatch.setattr(shard, "FILL_ITEMS_MIN", 2)
        self.shard = ShardUnderTest(folder, VIEW)
        self.sizes: list[int] = []
        store, apply = self.shard.store, self.shard.store.apply

        def recorded(items: Sequence[Item], position: Position, high_water: int, fence: Fence) -> Applied | None:
            self.sizes.append(len(items))
            return apply(items, position, high_water, fence)

        monkeypatch.setattr(store, "apply", recorded)
        self.orders = Orders()
        run = self.orders.partition.read_from(0, -1)
        self.actor = ShardActor(Opened(store, "id", 0), self.shard.fence, self.orders.partition, run)
        source = FakeSource(Random(1), 1)
        source.snapshot()
        source.transactions(3)
        source.beat()
        decoder = RecordDecoder(VIEW)
        self.items: list[Item] = [decoder.decode(record) for record in source.records()[0]]

    def offer(self, first: int, end: int, high_water: int, size_bytes: int = 1) -> None:
        batch = Batch(self.orders.run, self.items[first:end], size_bytes, end, -1, high_water)
        assert self.actor.offer(batch)


@asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Running]:
    run = Running(folder, monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run.actor.run)
        yield run
        nursery.cancel_scope.cancel()
    run.shard.close()


async def test_a_shard_that_is_far_behind_waits_for_a_full_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "FILL_WAIT_S", WAIT_S)
    async with running(tmp_path, monkeypatch) as run:
        run.offer(0, 2, high_water=7)
        run.offer(2, 3, high_water=7)
        await trio.testing.wait_all_tasks_blocked()
        assert not run.sizes
        run.offer(3, 4, high_water=7)
        await until(lambda: run.actor.state.position.offset == 4)
        assert run.sizes == [4]
        run.offer(4, 5, high_water=7)
        await trio.testing.wait_all_tasks_blocked()
        assert run.sizes == [4]
        run.offer(5, 6, high_water=7)  # nearly all that there is
        await until(lambda: run.actor.state.position.offset == 6)
        assert run.sizes == [4, 2]


async def test_what_does_not_come_is_not_waited_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is compacted, or its broker gone."""
    monkeypatch.setattr(shard, "FILL_WAIT_S", 0.01)
    async with running(tmp_path, monkeypatch) as run:
        run.offer(0, 3, high_water=100)
        await until(lambda: run.actor.state.position.offset == 3)


async def test_large_values_are_not_gathered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard, "FILL_WAIT_S", WAIT_S)
    async with running(tmp_path, monkeypatch) as run:
        run.offer(0, 3, high_water=100, size_bytes=shard.BATCH_BYTES)
        await until(lambda: run.actor.state.position.offset == 3)
