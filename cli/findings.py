"""What `kycache doctor` concludes of topic, log and connector. Pure: plain facts in, findings out.

Each rule stands for something that would make the view wrong or stale in silence; the remedies are what
`kycache connector` prints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kycache.actors.directory import Node

RUN_SQL = "run what `kycache connector --sql` prints"
RUN_CONNECTOR = "give the connector what `kycache connector --connector` prints"

WARNING = "warning"

BEAT_AGE_MAX_S = 10.0
"""A beat comes every half second; that old, shards are `stale` too."""

DISK_FREE_BYTES_MIN = 64 << 20
"""A shard's largest batches take that much; below it any of them may find no room."""

NUMBERS_MAX = 8
"""Of partitions that a finding names: with more it is no longer about this one or that one."""

_NOT_COMPARED = ("database.", "topic.creation.")
"""How Debezium reaches the source is the operator's affair, and a topic that exists is not made again."""


class Finding(NamedTuple):
    """Something that is not as it must be: which check, what is wrong, what to do."""

    check: str
    problem: str
    remedy: str
    severity: str = "error"
    """A `warning` stands for what is right today, and will not be, or may be meant so."""


def several(numbers: Sequence[int]) -> str:
    """Partitions, the first ones named."""
    named = ", ".join(map(str, numbers[:NUMBERS_MAX]))
    return named if len(numbers) <= NUMBERS_MAX else f"{named} and {len(numbers) - NUMBERS_MAX} more"


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """The topic as the broker describes it. `partitions` is 0 where there is none."""

    partitions: int
    id: str = ""
    cleanup_policy: str = ""
    """Empty where the broker does not tell."""
    retention_ms: int = -1
    retention_bytes: int = -1
    """-1: for ever; also where the broker does not tell."""
    unclean_election: bool = False
    table_topics: tuple[str, ...] = ()
    """Topics that bear the names of single tables."""
    foreign_members: tuple[str, ...] = ()
    """Members of the group that belong to another data directory, or to a copy of it."""


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """A partition, and what its last records say."""

    start: int
    end: int
    read: int
    """How many of the last records were looked at."""
    unread: bool = False
    """The end was not reached in time."""
    beat_ms: int | None = None
    """The source's clock at the newest streamed heartbeat among them."""
    streamed_ms: int | None = None
    """The same of any streamed change."""
    misrouted: str = ""
    """What is wrong with the key or the partition of one of them; names no user."""


@dataclass(frozen=True, slots=True)
class LogFacts:
    """The topic's partitions, of each of which so many last records were asked for."""

    partitions: Mapping[int, PartitionFacts]
    sample: int


@dataclass(frozen=True, slots=True)
class TaskFailure:
    """A task that has failed. Of its trace the exceptions' names only: a message may hold a row."""

    task: int
    exceptions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectorFacts:
    """The connector in Kafka Connect. `state` is empty where it does not exist."""

    state: str
    tasks: tuple[str, ...] = ("RUNNING",)
    """Their states."""
    failures: tuple[TaskFailure, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)


def judge_topic(topic: TopicFacts, name: str, node: Node | None, *, snapshots: bool) -> Iterator[Finding]:
    """The topic itself, and against what the data directory was made for.

    Args:
        snapshots: a store for them is configured, so that the log alone need not hold everything.
    """
    if node is not None and node.topic != name:
        yield Finding(
            "topic",
            f"the data directory holds topic {node.topic!r}, not {name!r}",
            "set `[kafka] topic` back, or use another data directory",
        )
    if topic.partitions == 0:
        yield Finding(
            "topic",
            f"topic {name!r} does not exist",
            "create it, or start the connector, which creates it; or set `[kafka] topic`",
        )
        return
    if "compact" in topic.cleanup_policy:
        yield Finding(
            "topic",
            f"topic {name!r} has cleanup.policy={topic.cleanup_policy}: the key is the user, so compaction "
            "drops all but the last row of each",
            "set cleanup.policy=delete, then run `kycache rebuild --epoch`",
        )
    if not snapshots and (topic.retention_ms >= 0 or topic.retention_bytes >= 0):
        kept = [f"retention.ms={topic.retention_ms}"] if topic.retention_ms >= 0 else []
        kept += [f"retention.bytes={topic.retention_bytes}"] if topic.retention_bytes >= 0 else []
        yield Finding(
            "retention",
            f"topic {name!r} forgets ({', '.join(kept)}) and there are no snapshots: a shard that is away for "
            "longer, or is lost, needs a whole snapshot from Debezium",
            "set retention.ms=-1 and retention.bytes=-1, or `[snapshots] store`",
            WARNING,
        )
    if topic.unclean_election:
        yield Finding(
            "topic",
            f"topic {name!r} has unclean.leader.election.enable=true: changes that were acknowledged can be lost",
            "set it to false; a shard that read what is lost halts, and is rebuilt",
            WARNING,
        )
    if topic.table_topics:
        yield Finding(
            "topics",
            f"there are topics of single tables ({', '.join(topic.table_topics)}): nothing on one says how far "
            "another is, and what stands there is not read",
            f"{RUN_CONNECTOR}, and delete them if they are left from before",
            WARNING,
        )
    if topic.foreign_members:
        yield Finding(
            "group",
            "the group has members of another data directory, or of a copy of this one: "
            f"{', '.join(topic.foreign_members)}",
            "give this node a `[kafka] group` of its own, or let it share their data directory",
        )
    if node is None or node.topic != name:
        return
    if node.shards != topic.partitions:
        yield Finding(
            "partitions",
            f"topic {name!r} has {topic.partitions} partitions, the data directory was made for {node.shards}",
            "start over with an empty data directory and a topic of its own",
        )
    if topic.id and node.topic_id != topic.id:
        yield Finding(
            "topic",
            f"topic {name!r} is not the one that was read: it has id {topic.id}, not {node.topic_id}",
            "run `kycache rebuild` once Debezium has sent a whole snapshot into it, "
            "or `kycache rebuild --epoch`, which orders one",
        )


def judge_disk(free_bytes: int, folder: Path) -> Iterator[Finding]:
    """The data directory's disk. `status` cannot tell that it is full: the reason is written down there."""
    if free_bytes < DISK_FREE_BYTES_MIN:
        yield Finding(
            "disk",
            f"the disk of {folder} has {free_bytes >> 20} MiB left: a shard that finds no room commits nothing",
            "free some space; ingest goes on by itself",
        )


def judge_log(
    log: LogFacts, needed: Mapping[int, int], now_ms: int, *, heartbeat: bool = True
) -> Iterator[Finding]:
    """What the topic's partitions hold, and say at their ends.

    Args:
        needed: per shard of this very topic the offset that it reads next, looked at before the log was.
        now_ms: this machine's clock.
        heartbeat: the source has the table; without it there is a finding already.
    """
    for number, facts in sorted(log.partitions.items()):
        if needed.get(number, facts.start) < facts.start:
            yield Finding(
                "log",
                f"partition {number} begins at offset {facts.start}, its shard reads on from {needed[number]}",
                f"run `kycache rebuild --shard {number} --epoch`, or `kycache snapshot restore`",
            )
        if needed.get(number, 0) > facts.end:
            yield Finding(
                "log",
                f"partition {number} ends at offset {facts.end}, its shard has read up to {needed[number]}: the "
                "broker lost records, and other partitions may lack some too",
                "run `kycache rebuild --epoch`",
            )
        if facts.misrouted:
            yield Finding(
                "key",
                f"partition {number}: {facts.misrouted}",
                f"{RUN_CONNECTOR}, or set `[kafka] key`; then run `kycache rebuild --shard {number} --epoch`",
            )
    if unread := [number for number, facts in sorted(log.partitions.items()) if facts.unread]:
        yield Finding(
            "log",
            f"the last records of partition {several(unread)} could not be read in time: nothing is known of them",
            "see that broker and network keep up, then run `kycache doctor` again",
            WARNING,
        )
    if heartbeat:
        yield from _judge_beats(log, now_ms)


def _judge_beats(log: LogFacts, now_ms: int) -> Iterator[Finding]:
    silent, old, oldest_s = [], [], 0.0
    for number, facts in sorted(log.partitions.items()):
        # Under load the end of a partition may hold no beat; then its changes say the same.
        newest = facts.beat_ms if facts.beat_ms is not None or facts.read < log.sample else facts.streamed_ms
        if facts.unread:
            continue
        if newest is None:
            silent.append(number)
        elif now_ms - newest > BEAT_AGE_MAX_S * 1000:
            old.append(number)
            oldest_s = max(oldest_s, (now_ms - newest) / 1000)
    if silent:
        yield Finding(
            "heartbeats",
            f"partition {several(silent)} has no heartbeat among its last {log.sample} records",
            f"{RUN_CONNECTOR} (heartbeat.action.query), and {RUN_SQL}; see that the connector runs",
        )
    if old:
        yield Finding(
            "heartbeats",
            f"the newest heartbeat of partition {several(old)} is {oldest_s:.0f} s old",
            "see that the connector runs and keeps up: nothing newer than that is known",
        )


_HARMFUL = {
    "snapshot.include.collection.list": "a whole snapshot would leave tables out, and their rows be swept",
    "snapshot.select.statement.overrides": "a whole snapshot would leave rows out, and they be swept",
    "column.include.list": "rows come without columns that the view has",
    "column.exclude.list": "rows come without columns that the view has",
    "table.exclude.list": "tables are left out",
    "schema.include.list": "tables may be left out",
    "schema.exclude.list": "tables may be left out",
    "unavailable.value.placeholder": "an unchanged large value is taken for the placeholder's text",
    "time.precision.mode": "times come in units that are not expected",
    "skip.messages.without.change": "changes are dropped",
    "event.processing.failure.handling.mode": "changes that fail are dropped",
    "errors.tolerance": "changes that fail are dropped",
    "producer.override.partitioner.class": "users come in partitions where they are not looked for",
    "producer.override.partitioner.ignore.keys": "users come in partitions where they are not looked for",
    "producer.override.acks": "changes that the broker lost are not sent again",
    "snapshot.query.mode": "a whole snapshot may leave rows out, and they be swept",
    "converters": "values come otherwise than the view expects them",
    "topic.naming.strategy": "tables come to topics that are not routed",
    "slot.drop.on.stop": "what is written while the connector is stopped reaches nobody",
    "internal.log.position.check.enable": "a slot that lost changes is read on from without a word",
}
"""Settings that `kycache connector` leaves at their defaults, and what they do."""

_HARMFUL_PREFIXES = {
    "column.mask.": "values come masked",
    "column.truncate.": "values come cut off",
    "snapshot.select.statement.overrides.": "a whole snapshot would leave rows out, and they be swept",
    "transforms.": "records come changed, or under other keys",
    "predicates.": "records come changed, or under other keys",
}

_HARMLESS = {
    "time.precision.mode": ("adaptive", "adaptive_time_microseconds"),
    "event.processing.failure.handling.mode": ("fail",),
    "errors.tolerance": ("none",),
    "skip.messages.without.change": ("false",),
    "unavailable.value.placeholder": ("__debezium_unavailable_value",),
    "producer.override.partitioner.ignore.keys": ("false",),
    "producer.override.acks": ("all", "-1"),
    "snapshot.query.mode": ("select_all",),
    "topic.naming.strategy": ("io.debezium.schema.SchemaTopicNamingStrategy",),
    "slot.drop.on.stop": ("false",),
    "internal.log.position.check.enable": ("true",),
}
"""Their defaults and what comes to the same, which may as well be written down."""


def judge_connector(facts: ConnectorFacts, name: str, expected: Mapping[str, str]) -> Iterator[Finding]:
    """The connector as Kafka Connect runs it, against what `kycache connector` prints."""
    if not facts.state:
        yield Finding("connector", f"Kafka Connect has no connector {name!r}", RUN_CONNECTOR)
        return
    restart = f"POST /connectors/{name}/restart?includeTasks=true&onlyFailed=true"
    if facts.state != "RUNNING":
        ordered = facts.state in ("PAUSED", "STOPPED")
        yield Finding(
            "connector",
            f"connector {name!r} is {facts.state}",
            f"resume it: PUT /connectors/{name}/resume" if ordered else f"see Kafka Connect's log, then {restart}",
        )
    elif not facts.tasks:
        yield Finding("connector", f"connector {name!r} has no task", "see Kafka Connect's log; restart it")
    elif idle := [state for state in facts.tasks if state not in ("RUNNING", "FAILED")]:
        yield Finding(
            "connector",
            f"the task of connector {name!r} is {idle[0]}",
            "wait while Kafka Connect's workers divide their tasks; if it stays so, see their logs",
        )
    for failure in facts.failures:
        of = f" of {', caused by '.join(failure.exceptions)}" if failure.exceptions else ""
        yield Finding(
            "connector",
            f"task {failure.task} of connector {name!r} has failed{of}",
            f"see Kafka Connect's log, then {restart}",
        )
    for key, value in expected.items():
        if key.startswith(_NOT_COMPARED) or facts.config.get(key) == value:
            continue
        there = f"is {facts.config[key]!r}" if key in facts.config else "is not set"
        yield Finding("connector", f"connector {name!r}: {key} {there}, expected {value!r}", RUN_CONNECTOR)
    for key, value in facts.config.items():
        if key in expected or not value or value in _HARMLESS.get(key, ()):
            continue
        harm = _HARMFUL.get(key) or next((h for p, h in _HARMFUL_PREFIXES.items() if key.startswith(p)), "")
        if harm:
            yield Finding("connector", f"connector {name!r}: {key} is set: {harm}", f"remove it: {RUN_CONNECTOR}")
