"""Orders to the consumer thread: what was polled before one was obeyed is not taken for what comes after it."""

import random
from pathlib import Path

import pytest
import trio
from kafka import TopicPartition

from kycache.ingest import opening, watching
from kycache.ingest.consuming.refusals import log_cut
from kycache.ingest.consuming.topic import Topic
from simulation.log import Log
from simulation.member import Member
from support.pipeline.fake_source import FakeSource
from support.reaper import PARTITIONS, Disk
from support.shards import TOPIC, TOPIC_ID
from support.waiting import until

WAIT_S = 20.0


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
