"""A join that kafka-python forgets is seen to its end: its own consumer, on a real Apache Kafka."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from kafka import KafkaConsumer
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from kycache.ingest.consuming.client import joining
from kycache.ingest.consuming.thread import POLL_WAIT_MS
from support.pipeline.ingest_process import WAIT_S, make_topic
from support.pipeline.stack import Pipeline

TOPIC = "joining"
PARTITIONS = 2
TRIES_MAX = 50


@pytest.fixture
def consumer(apache_stack: Pipeline) -> Iterator[Any]:
    """A static member of a group of its own, not joined yet."""
    make_topic(apache_stack.bootstrap, TOPIC, PARTITIONS)
    opened = KafkaConsumer(
        bootstrap_servers=apache_stack.bootstrap,
        group_id=TOPIC,
        group_instance_id="member",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        partition_assignment_strategy=[CooperativeStickyAssignor],
    )
    opened.partitions_for_topic(TOPIC)
    opened.subscribe([TOPIC])
    yield opened
    opened.close()


def poll_until_joined(consumer: Any) -> None:
    """As the consumer thread does."""
    deadline = time.monotonic() + WAIT_S
    while joining(consumer):
        assert time.monotonic() < deadline, "the group is not joined"
        consumer.poll(timeout_ms=POLL_WAIT_MS)


def is_forgotten(consumer: Any) -> bool:
    """Have a join begun whose cause is gone before it is done; whether the library then waits for it no more."""
    poll_until_joined(consumer)
    coordinator = consumer._coordinator
    as_assigned = coordinator._assignment_snapshot
    coordinator._assignment_snapshot = {TOPIC: set()}  # what a look at the topic amidst its change leaves behind
    consumer.poll(timeout_ms=0)
    coordinator._assignment_snapshot = as_assigned
    for _ in range(10):
        consumer.poll(timeout_ms=POLL_WAIT_MS)
    return bool(coordinator.rebalance_in_progress())


def test_a_join_whose_cause_is_gone_again_is_seen_to_its_end(consumer: Any) -> None:
    # A matter of chance, on a busy machine. Where no try does it, `joining` need not mend it any more either.
    assert any(is_forgotten(consumer) for _ in range(TRIES_MAX))
    assert not consumer._coordinator._heartbeat_enabled
    poll_until_joined(consumer)
    assert consumer._coordinator._heartbeat_enabled
    assert len(consumer.assignment()) == PARTITIONS
