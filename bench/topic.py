"""An Apache Kafka of a bench's own with the view's topic in it, and how far shards have read that."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from traffic import Sent

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits
from kycache.demo.servers import apache
from kycache.demo.servers.layout import Layout, Ports
from kycache.demo.servers.ports import free_ports
from kycache.demo.servers.postgres import new_password
from kycache.model.definition import default_view

PARTITIONS = 4
TOPIC = "kyc.changes"
LOOK_S = 0.05
BROKER_S = 60.0
"""A broker's JVM comes up in some ten seconds on two busy cores."""

MAP_BYTES = 1 << 34


@contextmanager
def broker(folder: Path) -> Iterator[str]:
    """An Apache Kafka of its own."""
    layout = Layout(folder, Ports(*free_ports(4)), new_password(), PARTITIONS)
    layout.logs.mkdir(parents=True, exist_ok=True)
    child = apache.broker(layout)
    child.start()
    try:
        admin = connected(layout.bootstrap)
        admin.create_topics([NewTopic(name=TOPIC, num_partitions=PARTITIONS, replication_factor=1)])
        admin.close()
        yield layout.bootstrap
    finally:
        child.stop()


def connected(bootstrap: str) -> KafkaAdminClient:
    """An admin client, as soon as the broker answers."""
    deadline = time.monotonic() + BROKER_S
    while True:
        try:
            return KafkaAdminClient(bootstrap_servers=bootstrap)
        except KafkaError:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_S)


def produce(bootstrap: str, records: Iterable[Sent]) -> tuple[int, float]:
    """Send them all; how many, and their values' mean size in bytes."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, linger_ms=50, batch_size=1 << 18)
    count = size = 0
    for record in records:
        producer.send(TOPIC, record.value, record.key, partition=record.partition)
        count += 1
        size += len(record.value or b"")
    producer.close()
    return count, size / max(1, count)


def positions(data: Path) -> dict[int, int]:
    """What each shard has read."""
    router = Router(DataDirectory(data), Environments(readonly=True, map_size=MAP_BYTES), default_view(), Limits())
    try:
        states = {n: router.state(n) for n in range(router.shard_count or 0)}
    finally:
        router.close()
    return {n: state.position.offset for n, state in states.items() if state is not None}


def held(data: Path) -> bool:
    """Every shard is held by a process: whoever ends ingest before that has not paid for its start."""
    directory = DataDirectory(data)
    return all(directory.shard(n).holder() is not None for n in range(PARTITIONS))


def end_offsets(bootstrap: str) -> dict[int, int]:
    consumer = KafkaConsumer(bootstrap_servers=bootstrap)
    ends = consumer.end_offsets([TopicPartition(TOPIC, n) for n in range(PARTITIONS)])
    consumer.close()
    return {tp.partition: end for tp, end in ends.items()}
