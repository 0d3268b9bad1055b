"""FAULTS 1: kill -9 of ingest at seeded points; what is there afterwards is what a run never killed would have.

The process is real and its files are; Kafka is a list, so that hundreds of kills take minutes. The same on a real
Kafka, with few kills, is in test_ingest_on_kafka.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import trio
from simulation.check import check_index, check_sql
from simulation.log import Log
from simulation.member import Member
from simulation.seams import Fate
from support.faults import in_child, seeds
from support.pipeline.fake_source import FakeSource
from support.shards import MAP_BYTES, TOPIC, TOPIC_ID

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.reader import ShardReader, snapshots
from kycache.ingest import service
from kycache.ingest.consuming.topic import Topic
from kycache.model.definition import default_view

VIEW = default_view()
PARTITIONS = 2
KILLS = 3
POINTS_MAX = 60
"""A run to the end has some eighty: most kills hit, at its beginning, middle or end."""

LATE_S = 0.003
"""The most that passes between a point and the kill, so that it also strikes inside of LMDB's commit."""


class Reaper:
    """Kills its own process at a point, or a moment after."""

    def __init__(self, rng: random.Random) -> None:
        self._left = rng.randint(1, POINTS_MAX)
        self._late_s = rng.choice((0.0, rng.random() * LATE_S))

    def pass_by(self) -> None:
        """A point."""
        self._left -= 1
        if self._left == 0:
            if self._late_s == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=self._strike, daemon=True).start()

    def _strike(self) -> None:
        time.sleep(self._late_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Points before and after each call."""

        def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by()
            try:
                return function(*arguments, **options)
            finally:
                self.pass_by()

        return watched


# ruff: noqa: ARG002 (the methods of `simulation.member.Disk`)


class Disk:
    """What a member's commits ask (`simulation.member.Disk`): to be killed, nothing else."""

    def __init__(self, folder: Path, log: Log, reaper: Reaper | None) -> None:
        self.directory = DataDirectory(folder)
        self.node = self.directory.found(VIEW.hash, TOPIC, TOPIC_ID, PARTITIONS)
        self.view = VIEW
        self.log = log
        self.map_bytes = MAP_BYTES
        self._reaper = reaper
        self.positions = [-1] * PARTITIONS

    def fate(self, shard: int) -> Fate | None:
        return None

    def about_to_commit(self, shard: int) -> None:
        if self._reaper is not None:
            self._reaper.pass_by()

    def committed(self, member: Member, shard: int) -> None:
        if self._reaper is not None:
            self._reaper.pass_by()

    def opened(self, shard: int, offset: int) -> None:
        assert offset <= len(self.log.partitions[shard])

    def freeze(self, shards: list[int]) -> None: ...
    def thaw(self, shard: int) -> None: ...
    def broken(self, what: str) -> None:
        raise AssertionError(what)


async def ingest(disk: Disk, rng: random.Random) -> None:
    """Until every partition is read to its end."""
    async with trio.open_nursery() as nursery:
        member = Member(disk, "member", nursery)
        for shard in range(PARTITIONS):
            member.assign(shard)
        while True:
            actors = [holder.actor for holder in member.holders.values()]
            if [actor and actor.state.position.offset for actor in actors] == disk.log.ends():
                break
            await member.poll(rng)
            await trio.sleep(0.001)
        for shard in range(PARTITIONS):
            await member.revoke(shard)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seed", seeds(20))
def test_killed_anywhere_and_started_again(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = FakeSource(random.Random(seed), PARTITIONS)
    source.transactions(4)
    source.log.clear()
    source.snapshot()
    for _ in range(10):
        source.transactions(2)
    source.snapshot()
    source.transactions(2)
    source.beat()
    log = Log(source)
    log.take({})

    def live(reaper: Reaper | None) -> Callable[[], None]:
        def run() -> None:
            topic = Topic(TOPIC, TOPIC_ID, PARTITIONS, (0,) * PARTITIONS)
            patches = [patch.object(service, "describe_topic", lambda _: topic)]
            if reaper is not None:
                patches += [patch.object(os, name, reaper.around(getattr(os, name))) for name in WATCHED]
            for one in patches:
                one.start()
            trio.run(ingest, Disk(tmp_path, log, reaper), rng)

        return run

    for _ in range(KILLS):
        in_child(live(Reaper(rng)))
    assert in_child(live(None))
    environments = Environments(readonly=True, map_size=MAP_BYTES)
    directory = DataDirectory(tmp_path)
    readers = [ShardReader(environments, directory.shard(n), VIEW, PARTITIONS) for n in range(PARTITIONS)]
    with snapshots(readers) as taken:
        for shard, snapshot in enumerate(taken):
            check_index(shard, snapshot, VIEW)
        check_sql(source, taken, VIEW)
    for reader in readers:
        reader.close()


WATCHED = ("fsync", "truncate", "mkdir", "symlink")
"""Calls of the file system that the product makes by these names, beside its commits."""
