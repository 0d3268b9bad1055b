"""What `kycache doctor` concludes of topic, log and snapshots. Pure: plain facts in, findings out.

Each rule stands for something that would make the view wrong or stale in silence; the remedies are what
`kycache connector` prints.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kycache.actors.files.directory import Node

RUN_SQL = "run what `kycache connector --sql` prints"
RUN_CONNECTOR = "give the connector what `kycache connector --connector` prints"

WARNING = "warning"

BEAT_AGE_MAX_S = 10.0
"""A beat comes every half second; that old, shards are `stale` too."""

DISK_FREE_BYTES_MIN = 64 << 20
"""A shard's largest batches take that much; below it any of them may find no room."""

NUMBERS_MAX = 8
"""Of partitions that a finding names: with more it is no longer about this one or that one."""


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
    message_bytes_max: int | None = None
    """What it takes of one message, by its own setting or the brokers'; None where they do not tell."""
    request_bytes_max: int | None = None
    """What its brokers take of one request."""
    table_topics: tuple[str, ...] = ()
    """Topics that bear the names of single tables."""
    foreign_members: tuple[str, ...] = ()
    """Members of the group that belong to another data directory, or to a copy of it."""

    @property
    def kept(self) -> str:
        """How long it keeps records; empty: for ever."""
        limits = {"retention.ms": self.retention_ms, "retention.bytes": self.retention_bytes}
        return ", ".join(f"{name}={value}" for name, value in limits.items() if value >= 0)


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


def judge_topic(
    topic: TopicFacts, name: str, node: "Node | None", *, snapshots: bool, sent_bytes_max: int = 0
) -> Iterator[Finding]:
    """The topic itself, and against what the data directory was made for.

    Args:
        sent_bytes_max: what the connector may send in one message.
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
    if topic.kept and not snapshots:
        yield Finding(
            "retention",
            f"topic {name!r} forgets ({topic.kept}) and there are no snapshots: a shard that is away for "
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
    yield from _judge_sizes(topic, name, sent_bytes_max)
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
    if node is not None and node.topic == name:
        yield from _judge_home(topic, name, node)


def _judge_sizes(topic: TopicFacts, name: str, sent_bytes_max: int) -> Iterator[Finding]:
    stops = f"and the connector sends up to {sent_bytes_max}: a row that takes more stops its task for good"
    if topic.message_bytes_max is not None and topic.message_bytes_max < sent_bytes_max:
        yield Finding(
            "topic",
            f"topic {name!r} takes messages of up to {topic.message_bytes_max} bytes, {stops}",
            f"set its max.message.bytes={sent_bytes_max}, or `[connector] message_max_mib` to what no row exceeds",
            WARNING,
        )
    if topic.request_bytes_max is not None and topic.request_bytes_max <= sent_bytes_max:
        yield Finding(
            "topic",
            f"the brokers take requests of up to {topic.request_bytes_max} bytes, {stops}",
            f"set socket.request.max.bytes of the brokers above {sent_bytes_max}",
            WARNING,
        )


def _judge_home(topic: TopicFacts, name: str, node: "Node") -> Iterator[Finding]:
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


def judge_store(kept: str, lacking: Mapping[int, str], store: str) -> Iterator[Finding]:
    """The snapshots of a topic that forgets.

    Args:
        kept: how long it keeps records.
        lacking: shards that no snapshot could bring back, and why.
        store: where the snapshots are, as it may be shown.
    """
    if lacking:
        why = next(iter(lacking.values()))
        yield Finding(
            "snapshots",
            f"the topic forgets ({kept}), and out of {store} shard {several(sorted(lacking))} could not come "
            f"back: {why}",
            "run `kycache snapshot create`, and set `[snapshots] every` well below what the topic keeps",
            WARNING,
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
    log: LogFacts,
    needed: Mapping[int, int],
    now_ms: int,
    *,
    heartbeat: bool = True,
    beaten_s: float | None = None,
) -> Iterator[Finding]:
    """What the topic's partitions hold, and say at their ends.

    Args:
        needed: per shard of this very topic the offset that it reads next, looked at before the log was.
        now_ms: this machine's clock.
        heartbeat: the source has the table; without it there is a finding already.
        beaten_s: how long ago the source's own heartbeat rows were written; None where that is not known.
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
                f"{RUN_CONNECTOR}, then run `kycache rebuild --shard {number} --epoch`; or, where `[kafka] key` "
                "is what is wrong, set it and restart ingest",
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
    newest = max((facts.beat_ms or 0 for facts in log.partitions.values()), default=0)
    if newest and beaten_s is not None and beaten_s - max(0.0, (now_ms - newest) / 1000) > BEAT_AGE_MAX_S:
        yield Finding(
            "source",
            f"the source's heartbeat rows were written {beaten_s:.0f} s ago, and newer beats stand in the topic: "
            "the connector reads another database",
            "set `[source] dsn` to the database that Debezium reads",
        )


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
