"""One shard held by its task: what fails stays in it, what waits is bounded, and every remedy gets its answer."""

import errno
import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest
import trio

from kycache.actors import supervisor
from kycache.actors.files.shard_folder import holder_name
from kycache.actors.partition import Pause
from kycache.actors.rules.state import Position
from kycache.actors.shard import Batch, Opened
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import Applied
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from kycache.model.errors import HaltShard, Refused, Unreachable
from support.pipeline.fake_source import FakeSource
from support.shards import Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()
WAIT_S = 10.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without their waits."""
    monkeypatch.setattr(supervisor, "BROKER_RETRY_S", 0.0)
    monkeypatch.setattr(supervisor, "RESTART_WAIT_S", 0.0)
    monkeypatch.setattr(supervisor, "LOCK_RETRY_S", (0.0,))


class Desk:
    """A holder of a real shard; `failures` are raised by its next openings, one each."""

    def __init__(self, folder: Path) -> None:
        made = ShardUnderTest(folder, VIEW)
        made.store.close()
        self.shard = made
        self.failures: list[Exception] = []
        self.make: Callable[[], ShardUnderTest] | None = None
        self.opened = 0
        self.orders = Orders()
        self.holder = ShardHolder(made.folder, self.open, self.orders.partition)
        source = FakeSource(Random(1), 1)
        source.snapshot()
        source.transactions(3)
        source.beat()
        decoder = RecordDecoder(VIEW)
        self.items: list[Item] = [decoder.decode(record) for record in source.records()[0]]

    @property
    def asked(self) -> list[int]:
        return self.orders.read_from

    async def open(self) -> Opened:
        return await trio.to_thread.run_sync(self._open)

    def _open(self) -> Opened:
        self.opened += 1
        if self.failures:
            raise self.failures.pop(0)
        if self.make is not None:
            self.shard = self.make()
        else:
            self.shard.store = self.shard._open()
        return Opened(self.shard.store, "id", self.shard.store.opened_at.position.offset)

    def batch(self, first: int, end: int, *, run: int | None = None) -> Batch:
        return self.orders.batch(self.items, first, end, run=run)

    def offer(self, batch: Batch) -> bool:
        assert self.holder.actor is not None
        return self.holder.actor.offer(batch)

    def report(self) -> str:
        report = self.shard.folder.report()
        return "" if report is None else report.state

    def position(self) -> int:
        return self.shard.state.position.offset


@asynccontextmanager
async def held(desk: Desk) -> AsyncIterator[ShardHolder]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.holder.run)
        yield desk.holder
        await desk.holder.release()


async def test_batches_are_applied_and_a_restart_goes_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with held(desk):
        await until(lambda: desk.asked)
        assert desk.offer(desk.batch(0, 3))
        await until(lambda: desk.position() == 3)
    assert desk.report() == "closed"
    assert desk.shard.folder.holder() is None


async def test_a_batch_of_another_run_is_dropped(tmp_path: Path) -> None:
    """It was polled before the shard was opened again: taking it would commit a gap, or meet itself later."""
    desk = Desk(tmp_path)
    async with held(desk) as holder:
        await until(lambda: desk.asked)
        assert desk.offer(desk.batch(0, 2))
        late = [desk.batch(2, 4), desk.batch(4, 6)]
        await until(lambda: desk.position() == 2)
        await holder.remedy(lambda: None, WAIT_S)
        await until(lambda: len(desk.asked) == 2)
        assert [order for order in desk.orders.given if isinstance(order, Pause)] == [Pause(0, 1)]
        assert not any(desk.offer(batch) for batch in late)
        assert desk.offer(desk.batch(2, 4))
        await until(lambda: desk.position() == 4)
        assert not desk.offer(late[1])
        assert desk.offer(desk.batch(4, 6))
        await until(lambda: desk.position() == 6)
    assert desk.orders.paused == [1, 2]


async def test_an_unreachable_broker_is_waited_for(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.failures = [Unreachable("no broker", "") for _ in range(20)]
    async with held(desk) as holder:
        await until(lambda: desk.asked)
        assert desk.opened == 21
        assert holder.halted is None


async def test_a_shard_that_keeps_failing_is_halted_and_a_remedy_wakes_it(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.failures = [ValueError("Lovelace") for _ in range(supervisor.RESTARTS_MAX)]
    async with held(desk) as holder:
        await until(lambda: desk.report() == "halted")
        report = desk.shard.folder.report()
        assert report is not None
        assert "5 times within a minute: ValueError" in report.reason
        assert "Lovelace" not in json.dumps([report.reason, report.remedy])
        await holder.remedy(lambda: None, WAIT_S)
        await until(lambda: desk.asked)
        assert holder.halted is None


async def test_every_remedy_is_run_once_and_answered(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    ran: list[int] = []

    def full() -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async with held(desk) as holder:
        await until(lambda: desk.asked)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(holder.remedy, lambda n=number: ran.append(n), WAIT_S)
        assert sorted(ran) == [0, 1, 2, 3, 4]
        with pytest.raises(Refused, match="cannot be changed: no space left; make room there"):
            await holder.remedy(full, WAIT_S)
        await holder.remedy(lambda: ran.append(9), WAIT_S)
        assert ran[-1] == 9


@pytest.mark.parametrize("by", ["look", "commit"])
async def test_a_removed_folder_is_noticed_and_locked_again(
    tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was open would go on in files that nobody else sees, and another process could lock a new folder."""
    desk = Desk(tmp_path)
    async with held(desk) as holder:
        await until(lambda: desk.asked)
        holder.look_at_lock()
        shutil.rmtree(desk.shard.folder.path)
        assert desk.shard.folder.holder() is None
        desk.make = partial(ShardUnderTest, tmp_path, VIEW, environments=desk.shard.environments)
        if by == "look":
            holder.look_at_lock()
        else:
            monkeypatch.setattr(holder, "_log_failure", None)  # it is none
            desk.offer(desk.batch(0, 1))
        await until(lambda: len(desk.asked) == 2)
        assert desk.shard.folder.holder() is not None
        assert desk.offer(desk.batch(0, 3))
        await until(lambda: desk.position() == 3)


async def test_a_remedy_goes_before_filling_a_shard(tmp_path: Path) -> None:
    """A snapshot store that is waited for keeps no operator waiting."""
    desk = Desk(tmp_path)
    began = 0
    open_shard = desk.open

    async def filled_first() -> Opened:
        nonlocal began
        began += 1
        if began == 1:
            await trio.sleep_forever()
        return await open_shard()

    desk.holder._open_store = filled_first
    async with held(desk) as holder:
        await until(lambda: began == 1)
        assert desk.opened == 0
        await holder.remedy(lambda: None, WAIT_S)
        await until(lambda: desk.asked)
        assert began == 2


async def test_a_remedy_that_cannot_be_run_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    lock = desk.shard.folder.lock()
    assert lock is not None
    ran: list[int] = []
    async with held(desk) as holder:
        await until(lambda: desk.report() == "halted")  # another holds it, and is named
        report = desk.shard.folder.report()
        assert report is not None
        assert "is held by" in report.reason
        assert report.reason.endswith(f", and {holder_name()} waits for it")
        with pytest.raises(Refused, match="busy"):
            await holder.remedy(lambda: ran.append(1), 0.05)
        async with trio.open_nursery() as nursery:

            async def asked_too_late() -> None:
                with pytest.raises(Refused, match="not held by this process any more"):
                    await holder.remedy(lambda: ran.append(2), WAIT_S)

            nursery.start_soon(asked_too_late)
            await until(lambda: holder._remedies)
            await holder.release()
    lock.release()
    assert ran == []


async def test_a_report_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)

    def full(_report: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(desk.shard.folder, "write_report", full)
    async with held(desk) as holder:
        await until(lambda: desk.asked)
        desk.offer(desk.batch(0, 2))
        await until(lambda: desk.position() == 2)
        holder.halt(HaltShard("because", "do this"))
        await until(lambda: holder.actor is None)


async def test_no_room_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 9, the deciding part: the same batch again, and nothing lost."""
    monkeypatch.setattr("kycache.actors.shard.NO_ROOM_RETRY_S", 0.0)
    desk = Desk(tmp_path)
    async with held(desk):
        await until(lambda: desk.asked)
        apply, tries = desk.shard.store.apply, list[int]()

        def full(items: Sequence[Item], position: Position, high_water: int, fence: Fence) -> Applied | None:
            tries.append(1)
            if len(tries) < 4:
                raise OSError(errno.ENOSPC, "no space left")
            return apply(items, position, high_water, fence)

        monkeypatch.setattr(desk.shard.store, "apply", full)
        desk.offer(desk.batch(0, 3))
        await until(lambda: desk.position() == 3)
        assert len(tries) == 4
