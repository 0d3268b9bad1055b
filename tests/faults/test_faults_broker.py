"""FAULTS 3, 7, 8 and 28 on a real Apache Kafka: lines that are cut, slow or dead, and records that are damaged."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kafka import KafkaProducer

from kycache.demo.servers.ports import free_ports
from support.faults import seeds
from support.pipeline.ingest_process import Home, offset
from support.pipeline.proxy import Proxy
from support.pipeline.scene import PARTITIONS, Scene
from support.pipeline.stack import Pipeline

GRACE_S = 10.0
"""What a process may take to end: `[http] grace` and the like are below it."""

LARGE_BYTES = 20 << 20


@pytest.fixture
def proxy(apache_stack: Pipeline) -> Iterator[Proxy]:
    made = Proxy(int(apache_stack.bootstrap.rpartition(":")[2]), *free_ports(1))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def scene(apache_stack: Pipeline, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    topic = f"f-{request.node.name.replace('[', '-').replace(']', '')[-60:]}-{time.time_ns() % 10**9}"
    made = Scene(tmp_path, apache_stack.bootstrap, topic)
    yield made
    made.feed.close()


@pytest.mark.parametrize("seed", seeds(1, at_most=20))
def test_a_broker_that_stops_delays_cuts_and_goes_deaf(scene: Scene, proxy: Proxy, seed: int) -> None:
    """FAULTS 3: reads go on, lag rises and returns to 0, and ingest ends by none of it."""
    rng = random.Random(seed)
    scene.home = Home(scene.home.folder, proxy.address, scene.home.topic)
    scene.begin()
    with scene.home.ingest() as process:
        scene.wait_caught_up()
        faults = ["cut", "delay", "deaf"]
        rng.shuffle(faults)
        for fault in faults:
            if fault == "delay":
                proxy.delay_s = rng.random() * 0.3
            elif fault == "deaf":
                proxy.deafen()
            scene.live(rng.randint(1, 10))
            if fault == "cut":
                for _ in range(rng.randint(1, 4)):
                    proxy.cut()
                    time.sleep(rng.random() * 0.1)  # in the midst of connecting, or of an answer
            elif fault == "deaf":
                shards = scene.home.status()  # reads go on
                assert all(shard["state"] == "stale" for shard in shards)
                assert sum(map(offset, shards)) < sum(scene.feed.end_offsets())
                proxy.hear()
            scene.wait_caught_up()
            proxy.delay_s = 0.0
        proxy.stop()
        scene.live()
        scene.home.status()
        assert process.poll() is None
    with scene.home.ingest():  # the broker is away, and there is data
        assert [shard["state"] for shard in scene.home.status()] == ["stale"] * PARTITIONS
        proxy.start()
        shards = scene.wait_caught_up()
        assert {shard["lag"] for shard in shards} == {0}
    scene.assert_equals_source()


def test_a_value_of_20_mb_and_sigterm_under_load(scene: Scene) -> None:
    """FAULTS 7 and 28."""
    scene.begin()
    user = next(iter(scene.source.users))
    producer = KafkaProducer(
        bootstrap_servers=scene.home.bootstrap, max_request_size=LARGE_BYTES + 1000, acks="all"
    )
    partition = scene.source._partition(user)
    producer.send(scene.home.topic, key=user.encode(), value=b"x" * LARGE_BYTES, partition=partition)
    producer.flush()
    producer.close()
    with scene.home.ingest() as process:
        shards = scene.wait_caught_up(more=1)
        assert [shard["quarantined"] for shard in shards] == [int(n == partition) for n in range(PARTITIONS)]
        assert shards[partition]["suspect"] == 1
        scene.live(60)
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        assert process.wait(GRACE_S) == 0, scene.home.log()
        assert time.monotonic() - began < GRACE_S
    with scene.home.ingest():
        scene.wait_caught_up(more=1)
        done = scene.home.run("quarantine", "drop", "--yes")
        assert done.returncode == 0, done.stderr
    scene.assert_equals_source()


def test_a_corrupt_batch_halts_its_partition_and_no_other(scene: Scene, apache_stack: Pipeline) -> None:
    """FAULTS 8: a byte of the log on the broker's disk is flipped; the broker sends it as it is."""
    scene.begin()
    with scene.home.ingest():
        before = scene.wait_caught_up()
    folder = apache_stack.directory / "kafka" / f"{scene.home.topic}-0"
    log = folder / f"{0:020}.log"
    intact = log.stat().st_size
    scene.live(20)
    with log.open("r+b") as file:
        file.seek(intact + (log.stat().st_size - intact) // 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x55]))
    ends = scene.feed.end_offsets()
    with scene.home.ingest():
        shards = scene.home.wait(
            lambda s: s[0]["state"] == "halted" and all(offset(s[n]) == ends[n] for n in range(1, PARTITIONS)),
            "the corrupt partition does not halt, or others do not go on",
        )
        assert "corrupt" in shards[0]["reason"]
        assert "rebuild --shard 0" in shards[0]["reason"]
        assert offset(before[0]) <= offset(shards[0]) < ends[0]
