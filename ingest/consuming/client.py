"""kafka-python's consumer, opened as ingest needs it, and what version 3.0 of it does not do right by itself.

All that reaches behind its public surface is here; each function names what was seen, and a test that fails
where it is not needed any more.
"""

from kafka import KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from .fetched import PartitionRecords
from .settings import KafkaSettings

POLL_RECORDS_MAX = 2_000
"""Records of one poll: what decodes in some tens of milliseconds, so that orders and heartbeats get their turn."""

FETCH_BYTES_MAX = 16 << 20
"""Buffered by the client in all; a backlog of large values must not fill the memory."""

SESSION_TIMEOUT_MS = 10_000
HEARTBEAT_INTERVAL_MS = 2_000
RECONNECT_BACKOFF_MAX_MS = 1_000
"""Also the most by which a returning broker is noticed late."""

BOOTSTRAP_WAIT_MS = 5_000
"""For the first answer of a broker, before the next try."""


def open_consumer(settings: KafkaSettings, instance_id: str, place: str) -> KafkaConsumer:
    """A member-to-be of the group, named `instance_id`, at `place` (`DataDirectory.place`).

    Raises:
        KafkaError, OSError: no broker answers.
    """
    consumer = KafkaConsumer(
        **settings.connection,
        group_id=settings.group,
        group_instance_id=instance_id,
        client_id=f"{instance_id}.{place}",
        auto_offset_reset="none",
        enable_auto_commit=False,
        isolation_level="read_committed",
        allow_auto_create_topics=False,
        partition_assignment_strategy=[CooperativeStickyAssignor],
        session_timeout_ms=SESSION_TIMEOUT_MS,
        heartbeat_interval_ms=HEARTBEAT_INTERVAL_MS,
        reconnect_backoff_max_ms=RECONNECT_BACKOFF_MAX_MS,
        bootstrap_timeout_ms=BOOTSTRAP_WAIT_MS,
        fetch_max_bytes=FETCH_BYTES_MAX,
        max_poll_records=POLL_RECORDS_MAX,
        metrics_enabled=False,
    )
    # A member that leads the group before it knows the topic assigns nothing, and for ever: kafka-python 3.0
    # takes the partitions that it learns of meanwhile for those it has assigned (seen, 2 starts of 40).
    consumer.partitions_for_topic(settings.topic)
    # Looked up on the fetcher for each fetch; there is no setting for it.
    consumer._fetcher.PartitionRecords = PartitionRecords
    return consumer


def seek(consumer: KafkaConsumer, tp: TopicPartition, offset: int, leader_epoch: int) -> None:
    """Read on at `offset`; `leader_epoch` is that of the record before it, -1: unknown.

    With the epoch the client asks a new leader first whether it has what was read (KIP-320); else others in its
    place are taken for what follows (seen). Its own `seek` takes none.
    """
    consumer.seek(tp, offset)
    if leader_epoch >= 0:
        consumer._subscription.seek(tp, OffsetAndMetadata(offset, "", leader_epoch))


def joining(consumer: KafkaConsumer) -> bool:
    """Whether the member is not, or no more, in the group; a join that was begun is then seen to its end.

    kafka-python 3.0 forgets one that it is in the midst of where what called for it, a change of the topic's
    partitions as it knows them, is gone again: without a heartbeat since, the member goes on polling while the
    broker has given its partitions away (seen, one start of a hundred on busy cores).
    """
    coordinator = consumer._coordinator
    if coordinator.rebalance_in_progress():
        coordinator.request_rejoin()
    return not coordinator.stable()


def go_on(consumer: KafkaConsumer, tp: TopicPartition) -> None:
    """Resume, and have what was set aside of a paused partition fetched again.

    kafka-python 3.0 sets aside what it had parsed of it, takes that up again only where it has parsed nothing of
    another partition since, and asks for no more of it meanwhile: for ever, where others have changes (seen).
    """
    consumer._fetcher._paused_partition_records.pop(tp, None)
    consumer.resume(tp)
