"""Fixtures: the real pipeline without kycache, as the demo starts it: PostgreSQL, Debezium, a Kafka broker.

`embedded_stack` and `apache_stack` run for the whole session, on the packaged view's empty tables, and are given
out when Debezium streams: every partition has had a beat. `pipeline` is each of them in turn. A test leaves the
servers running and the tables as it found them, or takes rows of its own.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from kycache.demo.servers.jars import fetch
from kycache.demo.servers.layout import TOPIC, Layout, Ports
from kycache.demo.servers.ports import free_ports
from kycache.demo.servers.postgres import new_password
from kycache.demo.servers.stack import Kind, Stack, open_stack
from kycache.model.definition import default_view
from kycache.model.errors import Unreachable

PARTITIONS = 4
STREAMING_TIMEOUT_S = 180.0
"""Connect alone takes half a minute on two busy cores."""

REQUIRE_KAFKA = "KYCACHE_REQUIRE_KAFKA"
"""Set to 1 (CI does), the apache stack fails where it would be skipped."""


@dataclass(frozen=True)
class Pipeline:
    """A running stack and how to reach it."""

    stack: Stack
    dsn: str
    bootstrap: str
    topic: str
    partitions: int
    connect_url: str | None

    @property
    def directory(self) -> Path:
        """The folder of the stack's data and logs."""
        return self.stack.layout.directory

    def consumer(self) -> Any:
        """A consumer at the beginning of every partition; the caller closes it."""
        return open_consumer(self.bootstrap, self.topic, self.partitions)


def open_consumer(bootstrap: str, topic: str, partitions: int, timeout_s: float = 30.0) -> Any:
    """A kafka-python consumer assigned to all partitions, from offset 0; waits for a broker that comes up."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            consumer = KafkaConsumer(
                bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
            )
            break
        except KafkaError:
            if time.monotonic() > deadline:
                raise
    consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
    return consumer


def records(consumer: Any, timeout_s: float) -> Iterator[Any]:
    """Every record as it comes, until `timeout_s` have passed."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for batch in consumer.poll(timeout_ms=100).values():
            yield from batch


def wait_streaming(pipeline: Pipeline) -> None:
    """Waits until each partition has had a streamed beat."""
    consumer = pipeline.consumer()
    missing = set(range(pipeline.partitions))
    try:
        for record in records(consumer, STREAMING_TIMEOUT_S):
            value = json.loads(record.value) if record.value else None
            if value and value["op"] == "u" and value["source"]["table"] == "kycache_heartbeat":
                missing.discard(record.partition)
            if not missing:
                return
            pipeline.stack.revive()
    finally:
        consumer.close()
    log = pipeline.stack.debezium.program.log.read_text(encoding="utf-8")
    raise AssertionError(f"no beat on partitions {sorted(missing)}; Debezium says:\n{log[-4000:]}")


@contextmanager
def run_pipeline(kind: Kind, directory: Path, partitions: int = PARTITIONS) -> Iterator[Pipeline]:
    """A stack of one's own, for tests that kill its parts."""
    directory.chmod(0o711)  # run by root, PostgreSQL has another account
    layout = Layout(directory, Ports(*free_ports(4)), new_password(), partitions)
    with open_stack(kind, layout, default_view()) as stack:
        stack.start_servers()
        stack.create_tables()
        stack.start_debezium()
        pipeline = Pipeline(stack, stack.dsn, layout.bootstrap, TOPIC, partitions, stack.connect_url)
        wait_streaming(pipeline)
        yield pipeline


def require_apache() -> None:
    """Skips the test where the jars cannot be had; fails it where they are required."""
    try:
        fetch()
    except Unreachable as error:
        if os.environ.get(REQUIRE_KAFKA) == "1":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def embedded_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The stack of Python wheels."""
    with run_pipeline(Kind.EMBEDDED, tmp_path_factory.mktemp("embedded")) as pipeline:
        yield pipeline


@pytest.fixture(scope="session")
def apache_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Apache Kafka and Kafka Connect; skipped, or failed, where they cannot be had."""
    require_apache()
    with run_pipeline(Kind.APACHE, tmp_path_factory.mktemp("apache")) as pipeline:
        yield pipeline


@pytest.fixture(params=list(Kind))
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    """Each stack in turn."""
    running: Pipeline = request.getfixturevalue(f"{request.param}_stack")
    return running
