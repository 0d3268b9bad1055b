"""Orders to the consumer thread: what was polled before one was obeyed is not taken for what comes after it."""

import random
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from kafka import TopicPartition

from kycache.actors import shard
from kycache.actors.partition import Partition
from kycache.actors.shard import Batch
from kycache.actors.store.store import Store
from kycache.actors.store.turn import Turn
from kycache.ingest import opening, watching
from kycache.ingest.consuming.refusals import log_cut
from kycache.ingest.consuming.thread import _Listener, _Session
from kycache.ingest.consuming.topic import Topic
from simulation.log import Log, LogConsumer
from simulation.member import SETTINGS, Member, SteppedThread
from support.killing.reaper import PARTITIONS, VIEW, Disk
from support.pipeline.fake_source import FakeSource
from support.shards import TOPIC, TOPIC_ID
from support.waiting import until

WAIT_S = 20.0
TP = TopicPartition(TOPIC, 0)


class Taker:
    """Holders that take every batch of partition 0, or say that there is no room."""

    def __init__(self) -> None:
        self.partition: Partition | None = None
        self.runs: list[int] = []
        self.welcome = True

    def assigned(self, partition: Partition) -> None:
        self.partition = partition

    def offer(self, _partition: int, batch: Batch) -> bool:
        self.runs.append(batch.run)
        return self.welcome


class Reading:
    """A consumer thread that reads a log, one poll at a time."""

    def __init__(self) -> None:
        source = FakeSource(random.Random(3), 1)
        source.snapshot()
        source.transactions(20)
        self.log = Log(source)
        self.log.take({})
        self.consumer = LogConsumer(self.log)
        self.taker = Taker()
        holders: Any = self.taker
        self.thread = SteppedThread(SETTINGS, VIEW, "i", "p", holders, Turn())
        self.session = _Session(self.consumer, {})
        self.listener = _Listener(self.thread, self.session)

    def assign(self) -> Partition:
        """As a rebalance does; the partition's handle."""
        self.consumer.assign(0)
        self.listener.on_partitions_assigned([TP])
        assert self.taker.partition is not None
        return self.taker.partition

    def poll(self) -> list[int]:
        """The runs of the batches that a poll of one record brought."""
        self.thread._obey(self.session)
        before = len(self.taker.runs)
        self.thread._deliver(self.session, 0, self.consumer.poll_one(TP, 1))
        return self.taker.runs[before:]


def test_no_two_runs_have_the_same_number() -> None:
    """Not of two openings, nor of two assignments, nor of two sessions with the broker."""
    reading = Reading()
    first = reading.assign()
    assert reading.poll() == []  # parked
    assert first.read_from(0, -1) == 1
    assert reading.poll() == [1]
    assert first.read_from(0, -1) == 2
    assert reading.poll() == [2]
    second = reading.assign()
    assert reading.poll() == []
    assert second.read_from(0, -1) == 3
    reading.session = _Session(reading.consumer, {})
    assert reading.assign().read_from(0, -1) == 4
    assert reading.poll() == [4]


def test_orders_about_an_earlier_run_change_nothing() -> None:
    reading = Reading()
    partition = reading.assign()
    earlier, run = partition.read_from(0, -1), partition.read_from(0, -1)
    partition.pause(earlier)
    assert reading.poll() == [run]
    reading.taker.welcome = False
    assert reading.poll() == [run]
    assert reading.poll() == []  # no room
    partition.resume(earlier)
    assert reading.poll() == []
    partition.resume(run)
    assert reading.poll() == [run]
    partition.pause(run)
    partition.resume(run)
    assert reading.poll() == []  # the run has ended


async def test_a_full_mailbox_pauses_its_partition_until_half_of_it_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backpressure, from the store to what is polled: other partitions go on, and nothing is lost."""
    monkeypatch.setattr(shard, "MAILBOX_ITEMS_MAX", 4)
    monkeypatch.setattr(shard, "MAILBOX_ITEMS_RESUME", 2)
    monkeypatch.setattr(shard, "BATCH_ITEMS", 1)
    monkeypatch.setattr(shard, "BATCH_ITEMS_MAX", 1)
    monkeypatch.setattr(opening, "describe_topic", lambda _: Topic(TOPIC, TOPIC_ID, PARTITIONS, (0,) * PARTITIONS))
    permits, apply = threading.Semaphore(0), Store.apply
    taken = SimpleNamespace(count=0)

    def when_permitted(store: Store, *about: Any) -> Any:
        if store.shard == 0:
            taken.count += 1
            permits.acquire(timeout=WAIT_S)
        return apply(store, *about)

    monkeypatch.setattr(Store, "apply", when_permitted)
    source = FakeSource(random.Random(3), PARTITIONS)
    source.snapshot()
    source.transactions(20)
    log = Log(source)
    log.take({})
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            member = Member(Disk(tmp_path, log, None), "member", nursery)
            for number in range(PARTITIONS):
                member.assign(number)
            await until(lambda: len(list(member.holders.actors())) == PARTITIONS)

            def poll(number: int) -> int:
                member.thread._obey(member._session)
                records = member._consumer.poll_one(TopicPartition(TOPIC, number), 1)
                member.thread._deliver(member._session, number, records)
                return len(records)

            def position(number: int) -> int:
                actor = member.holders.by_shard[number].actor
                assert actor is not None
                return actor.state.position.offset

            assert poll(0) == 1
            await until(lambda: taken.count == 1)
            assert [poll(0) for _ in range(6)] == [1, 1, 1, 1, 0, 0]  # one in work, four wait
            while position(1) < log.ends()[1]:
                poll(1)
                await trio.sleep(0.001)
            permits.release()
            await until(lambda: taken.count == 2)
            assert poll(0) == 0  # three wait
            permits.release()
            await until(lambda: taken.count == 3)
            assert poll(0) == 1  # half of it waits
            permits.release(len(log.partitions[0]))
            while position(0) < log.ends()[0]:
                poll(0)
                await trio.sleep(0.001)
            for number in range(PARTITIONS):
                await member.revoke(number)
            nursery.cancel_scope.cancel()


async def test_a_poll_across_a_reopening_at_the_same_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation takes over, say, while a poll is under way: the shard must not stop there for ever (seen)."""
    topic = Topic(TOPIC, TOPIC_ID, PARTITIONS, (0,) * PARTITIONS)
    monkeypatch.setattr(opening, "describe_topic", lambda _: topic)
    source = FakeSource(random.Random(3), PARTITIONS)
    source.snapshot()
    log = Log(source)
    log.take({})
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            member = Member(Disk(tmp_path, log, None), "member", nursery)
            member.assign(0)

            def position() -> int:
                actor = member.holders.by_shard[0].actor
                return -1 if actor is None else actor.state.position.offset

            def polled(count: int) -> list[object]:
                return list(member._consumer.poll_one(TopicPartition(TOPIC, 0), count))

            async def read_to_the_end() -> None:
                while position() < log.ends()[0]:
                    member.thread._obey(member._session)
                    member.thread._deliver(member._session, 0, polled(100))
                    await trio.sleep(0.001)

            await read_to_the_end()
            source.transactions(5)
            log.take({})
            late = polled(2)
            assert late
            await member.holders.carry_out(0, lambda: None)
            await until(lambda: position() >= 0)
            member.thread._deliver(member._session, 0, late)
            await read_to_the_end()
            await member.revoke(0)
            nursery.cancel_scope.cancel()


async def test_a_topic_made_anew_is_told_from_a_log_that_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 17: whichever is noticed first, its id or that it does not hold what is to be read next."""
    first = Topic(TOPIC, TOPIC_ID, PARTITIONS, (0,) * PARTITIONS)
    monkeypatch.setattr(opening, "describe_topic", lambda _: first)
    source = FakeSource(random.Random(3), PARTITIONS)
    log = Log(source)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            member = Member(Disk(tmp_path, log, None), "member", nursery)
            member.assign(0)
            await until(lambda: member.holders.by_shard[0].actor is not None)
            anew = Topic(TOPIC, "00000000-0000-0000-0000-000000000002", PARTITIONS, (0,) * PARTITIONS)
            monkeypatch.setattr(watching, "describe_topic", lambda _: anew)
            nursery.start_soon(member.watch.run)
            member.holders.halt(0, log_cut(0, 7))
            folder = member.holders.by_shard[0].folder
            await until(lambda: (report := folder.report()) is not None and anew.id in report.reason)
            report = folder.report()
            assert report is not None
            assert report.state == "halted"
            assert "`kycache rebuild --epoch`" in report.remedy
            await member.revoke(0)
            nursery.cancel_scope.cancel()
