"""FAULTS 1: kill -9 of ingest at seeded points; what is there afterwards is what a run never killed would have.

The process is real and its files are; Kafka is a list, so that hundreds of kills take minutes. The same on a real
Kafka, with few kills, is in test_ingest_on_kafka.
"""

import os
import random
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.reader import ShardReader, snapshots
from kycache.ingest import opening
from kycache.ingest.consuming.topic import Topic
from simulation.check import check_index, check_sql
from simulation.log import Log
from simulation.member import Member
from support.faults import in_child, seeds
from support.killing.reaper import PARTITIONS, VIEW, Disk, Reaper
from support.pipeline.fake_source import FakeSource
from support.shards import MAP_BYTES, TOPIC, TOPIC_ID

KILLS = 3


async def ingest(disk: Disk, rng: random.Random) -> None:
    """Until every partition is read to its end."""
    async with trio.open_nursery() as nursery:
        member = Member(disk, "member", nursery)
        for shard in range(PARTITIONS):
            member.assign(shard)
        while True:
            actors = [holder.actor for holder in member.holders.by_shard.values()]
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
            patches = [patch.object(opening, "describe_topic", lambda _: topic)]
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
