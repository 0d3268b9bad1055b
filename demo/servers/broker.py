"""What both stacks ask of their Kafka broker: that it answers, and that the topic is there."""

import time
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

from kycache.model.errors import Refused, Unreachable

from .children import POLL_S, Child
from .ports import is_listening

BROKER_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_MS = 5_000


def wait_ready(port: int, child: Child) -> None:
    """Waits until the broker accepts connections.

    Raises:
        Unreachable: it ended, or took too long.
    """
    deadline = time.monotonic() + BROKER_TIMEOUT_S
    while not is_listening(port):
        if not child.is_running():
            raise child.failure("ended at its start")
        if time.monotonic() > deadline:
            raise Unreachable(
                f"the demo's broker did not listen on port {port} within {BROKER_TIMEOUT_S:.0f} s",
                f"look into {child.program.log}",
            )
        time.sleep(POLL_S)


def ensure_topic(bootstrap: str, topic: str, partitions: int) -> None:
    """Makes the topic, or finds it with the same partition count.

    Raises:
        Refused: it exists with another partition count.
        Unreachable: the broker does not answer as Kafka.
    """
    deadline = time.monotonic() + BROKER_TIMEOUT_S
    while True:
        try:
            _ensure_topic(bootstrap, topic, partitions)
            return
        except KafkaError as error:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the broker at {bootstrap} does not make the topic {topic}: {error}",
                    "look into the broker's log",
                ) from None
        time.sleep(POLL_S)


def _ensure_topic(bootstrap: str, topic: str, partitions: int) -> None:
    admin: Any = KafkaAdminClient(
        bootstrap_servers=bootstrap, client_id="kycache-demo", request_timeout_ms=REQUEST_TIMEOUT_MS
    )
    try:
        if topic not in admin.list_topics():
            kept = {"cleanup.policy": "delete", "retention.ms": "-1"}  # as `kycache connector` prints it
            options = {"num_partitions": partitions, "replication_factor": 1, "configs": kept}
            admin.create_topics({topic: options}, wait_for_metadata=True)
            return
        (found,) = admin.describe_topics([topic])
    finally:
        admin.close()
    count = len(found["partitions"])
    if count != partitions:
        raise Refused(
            f"the topic {topic} has {count} partitions, not {partitions}: the count is fixed for a view's life",
            f"give --shards {count}, or another --dir",
        )
