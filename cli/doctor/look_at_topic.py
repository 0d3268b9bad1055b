"""What `kycache doctor` looks at: the topic, its partitions' last records and the group. Decides nothing."""

import time
from collections.abc import Collection
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConfigurationError, KafkaError

from kycache.actors.files.directory import Node
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import foreign_members
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Beat, Change, Misrouted, Snapshot
from kycache.model.connector import ConnectorSettings, table_topics
from kycache.model.errors import ConfigurationError, Unreachable
from kycache.model.partition import partition_of
from kycache.model.view import View

from .topic_rules import LogFacts, PartitionFacts, TopicFacts

BROKER_WAIT_MS = 5_000
"""A broker that is up answers in milliseconds; a name that does not resolve should not be waited for long."""

SAMPLE_RECORDS = 500
"""Of each partition's end: hundreds of beats where nothing else happens, and read in well under a second."""

SAMPLES_RECORDS = 10_000
"""Of all partitions together, where there are many: read within a second or two. With 256 that are 39 of each."""

SAMPLE_WAIT_S = 5.0

BROKERS_MAX = 10
"""Whose limits are asked for: brokers of one cluster are set up alike."""

_CONFIGS = (
    "cleanup.policy",
    "max.message.bytes",
    "retention.ms",
    "retention.bytes",
    "unclean.leader.election.enable",
)
_REQUEST_LIMIT = "socket.request.max.bytes"


def look_at_topic(
    settings: KafkaSettings, view: View, connector: ConnectorSettings, node: Node | None, place: str
) -> TopicFacts:
    """The topic, as the broker describes it, and who else reads it as this node does (`place`: of its directory).

    Raises:
        Unreachable: no broker answers.
        ConfigurationError: the client refuses the settings.
    """
    try:
        admin = KafkaAdminClient(
            **settings.connection, request_timeout_ms=BROKER_WAIT_MS, bootstrap_timeout_ms=BROKER_WAIT_MS
        )
        try:
            described: list[dict[str, Any]] = admin.describe_topics([settings.topic])
            found = next((t for t in described if t.get("name") == settings.topic), None)
            if found is None or found.get("error_code") or not found.get("partitions"):
                return TopicFacts(0)
            configs = _configs(admin, ConfigResourceType.TOPIC, settings.topic, _CONFIGS)
            leaders = {p["leader_id"] for p in found["partitions"] if p.get("leader_id", -1) >= 0}
            requests = [
                int(limit)
                for leader in sorted(leaders)[:BROKERS_MAX]
                if (
                    limit := _configs(admin, ConfigResourceType.BROKER, str(leader), [_REQUEST_LIMIT])[
                        _REQUEST_LIMIT
                    ]
                )
            ]
            others = set(admin.list_topics()) & table_topics(view, connector) - {settings.topic}
            members = () if node is None else tuple(foreign_members(settings, f"kycache-{node.id}", place))
        finally:
            admin.close()
    except KafkaConfigurationError as error:
        raise ConfigurationError(f"kafka-python refuses the settings: {error}", "mend `[kafka]`") from None
    except (KafkaError, OSError, ValueError) as error:
        raise _unreachable(settings, error) from None
    return TopicFacts(
        len(found["partitions"]),
        str(found.get("topic_id") or ""),
        configs.get("cleanup.policy", ""),
        int(configs.get("retention.ms") or -1),
        int(configs.get("retention.bytes") or -1),
        configs.get("unclean.leader.election.enable") == "true",
        int(size) if (size := configs.get("max.message.bytes")) else None,
        min(requests, default=None),
        tuple(sorted(others)),
        members,
    )


def _configs(admin: KafkaAdminClient, kind: ConfigResourceType, of: str, names: Collection[str]) -> dict[str, str]:
    """Some settings of a topic or a broker; empty what it does not tell."""
    try:
        configs = admin.describe_configs([ConfigResource(kind, of, dict.fromkeys(names))], config_filter="all")
    except (KafkaError, OSError):
        return dict.fromkeys(names, "")  # brokers that are not Apache's need not answer this
    entries = configs.get(kind.name.lower(), {}).get(of, {})
    return {name: str(entries.get(name, {}).get("value") or "") for name in names}


def look_at_log(settings: KafkaSettings, view: View, partitions: int) -> LogFacts:
    """Each partition's bounds, and what its last records say.

    Raises:
        Unreachable: no broker answers.
    """
    try:
        consumer = KafkaConsumer(
            **settings.connection,
            bootstrap_timeout_ms=BROKER_WAIT_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            allow_auto_create_topics=False,
            metrics_enabled=False,
        )
        try:
            return _read_ends(consumer, settings, view, partitions)
        finally:
            consumer.close(autocommit=False)
    except (KafkaError, OSError, ValueError) as error:
        raise _unreachable(settings, error) from None


def _read_ends(consumer: KafkaConsumer, settings: KafkaSettings, view: View, partitions: int) -> LogFacts:
    sample = max(1, min(SAMPLE_RECORDS, SAMPLES_RECORDS // partitions))
    every = [TopicPartition(settings.topic, n) for n in range(partitions)]
    consumer.assign(every)
    starts, ends = consumer.beginning_offsets(every), consumer.end_offsets(every)
    for tp in every:
        consumer.seek(tp, max(starts[tp], ends[tp] - sample))
    assert settings.times is not None
    decode = RecordDecoder(view, settings.key_form, settings.heartbeat_table, settings.times).decode
    samples = {n: _Sample(n, partitions) for n in range(partitions)}
    deadline = time.monotonic() + SAMPLE_WAIT_S
    while time.monotonic() < deadline and any(consumer.position(tp) < ends[tp] for tp in every):
        for tp, records in consumer.poll(timeout_ms=100).items():
            for r in records:
                samples[tp.partition].take(decode(r))
    unread = {tp for tp in every if consumer.position(tp) < ends[tp]}
    facts = {
        tp.partition: PartitionFacts(
            starts[tp], ends[tp], s.read, tp in unread, s.beat_ms, s.streamed_ms, s.misrouted
        )
        for tp, s in zip(every, samples.values(), strict=True)
    }
    return LogFacts(facts, sample)


class _Sample:
    """What the records of one partition's end say together."""

    def __init__(self, partition: int, partitions: int) -> None:
        self.read = 0
        self.beat_ms: int | None = None
        self.streamed_ms: int | None = None
        self.misrouted = ""
        self._partition = partition
        self._partitions = partitions

    def take(self, item: object) -> None:
        self.read += 1
        match item:
            case Misrouted():
                self.misrouted = f"offset {item.offset}: {item.problem}"
            case Change() | Beat() if item.origin.snapshot is Snapshot.STREAMED:
                self.streamed_ms = max(self.streamed_ms or 0, item.origin.ts_ms)
                if isinstance(item, Beat):
                    self.beat_ms = max(self.beat_ms or 0, item.origin.ts_ms)
            case _:
                pass
        if isinstance(item, Change) and partition_of(item.kafka_key, self._partitions) != self._partition:
            self.misrouted = f"offset {item.offset}: a change with a key of another partition"


def _unreachable(settings: KafkaSettings, error: Exception) -> Unreachable:
    return Unreachable(
        f"no Kafka broker answers at {settings.bootstrap}: {type(error).__name__}",
        "check `[kafka] bootstrap` and that the broker runs",
    )
