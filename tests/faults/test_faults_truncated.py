"""FAULTS 18 on a real Apache Kafka of its own: it comes back without the end of a log that had been read.

What an unclean leader election does to a follower's readers, power loss does to those of a single broker: it leads
again, in a new epoch, with fewer records, and then goes on from there with others.
"""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kycache.cli.doctor.command import Look
from kycache.demo.servers import apache, broker
from kycache.demo.servers.children import Child, stopping
from kycache.demo.servers.layout import Layout, Ports
from kycache.demo.servers.ports import free_ports
from support.pipeline.ingest_process import Feed, offset
from support.pipeline.scene import PARTITIONS, Scene
from support.pipeline.stack import require_apache

HURT = 0
"""The partition whose end is lost."""


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[tuple[Layout, Child]]:
    require_apache()
    layout = Layout(_folder(tmp_path / "broker"), Ports(*free_ports(4)), "")
    child = apache.broker(layout)
    with stopping(child):
        child.start()
        broker.wait_ready(layout.ports.broker, child)
        yield layout, child


def test_records_that_were_read_and_are_lost_halt_their_shard(kafka: tuple[Layout, Child], tmp_path: Path) -> None:
    """Whether ingest runs meanwhile or comes when others stand in their place; and the remedy converges."""
    layout, child = kafka
    scene = Scene(_folder(tmp_path / "home"), layout.bootstrap, "t")
    log = layout.directory / "kafka" / f"t-{HURT}" / f"{0:020}.log"
    scene.begin()
    kept_bytes, kept = log.stat().st_size, scene.feed.end_offsets()[HURT]
    scene.live(2)
    read = scene.feed.end_offsets()
    with scene.home.ingest():
        before = scene.wait_caught_up()
        scene.feed.close()
        os.killpg(child.pid, signal.SIGKILL)
        while child.is_running():
            time.sleep(0.01)
        os.truncate(log, kept_bytes)
        child.start()
        broker.wait_ready(layout.ports.broker, child)
        (found,) = scene.doctor(Look.TOPIC, Look.LOG)
        assert f"partition {HURT} ends at offset {kept}, its shard has read up to {read[HURT]}" in found.problem
        scene.feed = Feed(layout.bootstrap, "t", scene.source, sent=scene.feed.sent)
        scene.live(30)
        ends = scene.feed.end_offsets()
        assert kept + ends[HURT] - read[HURT] > read[HURT], "what came since does not reach behind what was read"
        _wait_halted(scene, before, ends)
    with scene.home.ingest():
        _wait_halted(scene, before, ends)
        scene.start_over_by_hand()
        scene.wait_equal(more=kept - read[HURT])
    scene.feed.close()


def _wait_halted(scene: Scene, before: list[dict[str, Any]], ends: list[int]) -> None:
    def done(shards: list[dict[str, Any]]) -> bool:
        others = all(offset(shards[n]) == ends[n] for n in range(PARTITIONS) if n != HURT)
        return shards[HURT]["state"] == "halted" and shards[HURT]["owner"] is not None and others

    hurt = scene.home.wait(done, "the shard does not halt, or others do")[HURT]
    assert "the broker lost records that were read" in hurt["reason"]
    assert "`kycache rebuild --epoch`" in hurt["reason"]
    assert hurt["position"] == before[HURT]["position"]


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
