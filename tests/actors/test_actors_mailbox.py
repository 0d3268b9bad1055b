"""A shard's mailbox: offered in order, applied in order; what waits is bounded; no batch cuts a transaction."""

import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio

from kycache.actors import shard
from kycache.actors.partition import ReadFrom, Resume
from kycache.actors.shard import Opened, ShardActor
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Change, Item
from kycache.model.definition import default_view
from support.faults import seeds
from support.pipeline.fake_source import FakeSource
from support.shards import Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()


def of_transactions(*sizes: int) -> list[Item]:
    """Changes of one row, so many of each transaction: the same image again and again."""
    source = FakeSource(Random(1), 1)
    source.transactions(3)
    decoder = RecordDecoder(VIEW)
    decoded = (decoder.decode(record) for record in source.records()[0])
    change = next(item for item in decoded if isinstance(item, Change) and not item.deletes)
    made: list[Item] = []
    for tx, size in enumerate(sizes, start=700):
        origin = msgspec.structs.replace(change.origin, tx=tx)
        for _ in range(size):
            made.append(msgspec.structs.replace(change, offset=len(made), origin=origin))
    return made


def transaction(item: Item) -> int | None:
    assert isinstance(item, Change)
    return item.origin.tx


class Mailbox:
    """An actor of a real shard, whose batches wait for `permits` before they are applied."""

    def __init__(self, folder: Path, items: Sequence[Item], monkeypatch: pytest.MonkeyPatch) -> None:
        self.items = list(items)
        self.shard = ShardUnderTest(folder, VIEW)
        self.orders = Orders()
        self.run = self.orders.partition.read_from(0, -1)
        self.taken = 0
        """Batches taken from the mailbox; the last of them may wait for its permit."""
        self.applied: list[list[Item]] = []
        self.permits = threading.Semaphore(0)
        opened = Opened(self.shard.store, "id", 0)
        self.actor = ShardActor(opened, self.shard.fence, self.orders.partition, self.run)
        apply = self.shard.store.apply

        def when_permitted(items: Sequence[Item], *rest: Any) -> Any:
            self.taken += 1
            self.permits.acquire()
            self.applied.append(list(items))
            return apply(items, *rest)

        monkeypatch.setattr(self.shard.store, "apply", when_permitted)
        self._offered = 0

    def offer(self, count: int, *, size_bytes: int = 1, run: int | None = None) -> bool:
        """A poll's records, the next ones."""
        end = self._offered + count
        batch = self.orders.batch(self.items, self._offered, end, run=run)
        welcome = self.actor.offer(batch._replace(size_bytes=size_bytes))
        if run is None:
            self._offered = end
        return welcome

    def permit(self, batches: int) -> None:
        self.permits.release(batches)

    @property
    def resumed(self) -> int:
        """How often the partition was resumed, for the actor's run and no other."""
        resumed = [order for order in self.orders.given if not isinstance(order, ReadFrom)]
        assert all(order == Resume(0, self.run) for order in resumed)
        return len(resumed)

    def offsets(self) -> list[int]:
        return [item.offset for batch in self.applied for item in batch]

    async def wait_taken(self, batches: int) -> None:
        await until(lambda: self.taken == batches)


@asynccontextmanager
async def running(mailbox: Mailbox) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mailbox.actor.run)
        try:
            yield
        finally:
            mailbox.permit(len(mailbox.items))  # a thread that waits could not be cancelled
            nursery.cancel_scope.cancel()
    mailbox.shard.close()


def limits(monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    for name, value in values.items():
        monkeypatch.setattr(shard, name.upper(), value)


async def test_what_is_offered_is_applied_in_order_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, batch_items=4)
    mailbox = Mailbox(tmp_path, of_transactions(*[1] * 12), monkeypatch)
    assert all(mailbox.offer(count) for count in (1, 2, 3, 1, 5))
    async with running(mailbox):
        mailbox.permit(12)
        await until(lambda: mailbox.actor.state.position.offset == 12)
    assert mailbox.offsets() == list(range(12))
    # Whole polls: four more items would be too many for the first batch, five are one alone.
    assert [len(batch) for batch in mailbox.applied] == [3, 4, 5]
    assert mailbox.resumed == 0  # it was never full


async def test_a_mailbox_with_its_items_is_full_and_has_room_again_at_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, mailbox_items_max=4, mailbox_items_resume=2, batch_items=1, batch_items_max=1)
    mailbox = Mailbox(tmp_path, of_transactions(*[1] * 9), monkeypatch)
    assert [mailbox.offer(1) for _ in range(4)] == [True, True, True, False]  # the one that fills it is taken
    async with running(mailbox):
        await mailbox.wait_taken(1)
        assert mailbox.resumed == 0  # three wait
        mailbox.permit(1)
        await mailbox.wait_taken(2)
        assert mailbox.resumed == 1  # half of it waits
        mailbox.permit(2)
        await mailbox.wait_taken(4)
        assert [mailbox.offer(1) for _ in range(3)] == [True] * 3
        mailbox.permit(4)
        await until(lambda: mailbox.actor.state.position.offset == 7)
        assert mailbox.resumed == 1  # it was not full a second time
    assert mailbox.offsets() == list(range(7))


async def test_a_mailbox_is_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, mailbox_bytes_max=100, batch_items=1, batch_items_max=1)
    mailbox = Mailbox(tmp_path, of_transactions(*[1] * 3), monkeypatch)
    assert [mailbox.offer(1, size_bytes=size) for size in (40, 59, 1)] == [True, True, False]
    async with running(mailbox):
        await mailbox.wait_taken(1)
        assert mailbox.resumed == 1  # 60 bytes wait
        mailbox.permit(3)
        await until(lambda: mailbox.actor.state.position.offset == 3)
    assert mailbox.offsets() == [0, 1, 2]


async def test_a_batch_of_another_run_is_dropped_and_takes_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, mailbox_items_max=2)
    mailbox = Mailbox(tmp_path, of_transactions(*[1] * 4), monkeypatch)
    for other in (mailbox.run - 1, mailbox.run + 1):
        assert not mailbox.offer(4, run=other)
    assert mailbox.offer(1)
    assert not mailbox.offer(1, run=mailbox.run + 1)
    assert not mailbox.offer(1)  # full by its own two
    async with running(mailbox):
        mailbox.permit(2)
        await until(lambda: mailbox.actor.state.position.offset == 2)
    assert mailbox.offsets() == [0, 1]


@pytest.mark.parametrize("seed", seeds(10))
async def test_no_batch_ends_inside_a_source_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Wherever polls cut it, and although a batch is full by then."""
    limits(monkeypatch, batch_items=5, batch_items_max=1_000)
    rng = Random(seed)
    items = of_transactions(*(rng.choice((1, 1, 2, 3, 9, 20)) for _ in range(15)))
    mailbox = Mailbox(tmp_path, items, monkeypatch)
    while mailbox._offered < len(items):
        mailbox.offer(min(rng.randint(1, 7), len(items) - mailbox._offered))
    async with running(mailbox):
        mailbox.permit(len(items))
        await until(lambda: mailbox.actor.state.position.offset == len(items))
    assert mailbox.offsets() == list(range(len(items)))
    ends = [transaction(batch[-1]) for batch in mailbox.applied]
    begins = [transaction(batch[0]) for batch in mailbox.applied]
    assert all(end != begin for end, begin in zip(ends, begins[1:], strict=False))
    assert len(mailbox.applied) > 1


async def test_a_transaction_longer_than_the_bound_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or one that writes the whole table would be held in memory whole."""
    limits(monkeypatch, batch_items=4, batch_items_max=10)
    mailbox = Mailbox(tmp_path, of_transactions(3, 20, 2), monkeypatch)
    for count in (3, 5, 5, 5, 5, 2):
        mailbox.offer(count)
    async with running(mailbox):
        mailbox.permit(6)
        await until(lambda: mailbox.actor.state.position.offset == 25)
    # Past 4 items a batch goes on only inside of the transaction, and never past 10.
    assert [len(batch) for batch in mailbox.applied] == [3, 10, 10, 2]
