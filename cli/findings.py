"""What `kycache doctor` concludes from what it has seen. Pure: plain facts in, findings out.

Each rule stands for something that would make the view wrong or stale in silence; the remedies are what
`kycache connector` prints.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from kycache.actors.files import Node
from kycache.model.connector import ConnectorSettings
from kycache.model.partition import KeyForm, key_bytes, partition_of
from kycache.model.view import Table, View

RUN_SQL = "run what `kycache connector --sql` prints"
RUN_CONNECTOR = "give the connector what `kycache connector --connector` prints"

_NOT_COMPARED = ("database.", "topic.creation.")
"""How Debezium reaches the source is the operator's affair, and a topic that exists is not made again."""


class Finding(NamedTuple):
    """Something that is not as it must be: which check, what is wrong, what to do."""

    check: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """The topic as the broker describes it. `partitions` is 0 where there is none."""

    partitions: int
    id: str = ""
    cleanup_policy: str = ""
    """Empty where the broker does not tell."""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table at the source. `identity` is `pg_class.relreplident`: d, n, f or i."""

    identity: str
    columns: frozenset[str]
    identity_columns: frozenset[str] = frozenset()
    """Columns of the index that is the identity, where one is."""
    truncate_trigger: bool = True


@dataclass(frozen=True, slots=True)
class PublicationFacts:
    """A publication: the tables it covers in the schema, and what it publishes."""

    tables: frozenset[str]
    operations: frozenset[str]


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The source database. Tables that do not exist are left out."""

    wal_level: str
    in_recovery: bool
    tables: Mapping[str, TableFacts]
    publication: PublicationFacts | None
    heartbeat_rows: Mapping[str, int] | None
    """Each heartbeat row's key and the shard it names; None where there is no such table."""


@dataclass(frozen=True, slots=True)
class ConnectorFacts:
    """The connector in Kafka Connect. `state` is empty where it does not exist."""

    state: str
    failed_tasks: tuple[int, ...] = ()
    config: Mapping[str, str] = field(default_factory=dict)


def judge_topic(topic: TopicFacts, name: str, node: Node | None) -> Iterator[Finding]:
    """The topic itself, and against what the data directory was made for."""
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
            "set cleanup.policy=delete, then let Debezium take a whole snapshot into an empty topic",
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
            "run `kycache rebuild` once Debezium has sent a whole snapshot into it",
        )


def judge_source(
    source: SourceFacts, view: View, connector: ConnectorSettings, key_form: KeyForm, partitions: int
) -> Iterator[Finding]:
    """The source database. `partitions` is the topic's count, or what it is to be."""
    if source.in_recovery:
        yield Finding("source", "the source is a standby in recovery", "set `[source] dsn` to the primary")
    if source.wal_level != "logical":
        yield Finding(
            "wal_level",
            f"wal_level is {source.wal_level}",
            "set wal_level = logical and restart PostgreSQL",
        )
    for table in view.tables:
        yield from _judge_table(table, source.tables.get(table.name), connector.schema)
    names = [*(table.name for table in view.tables), connector.heartbeat_table]
    yield from _judge_publication(source.publication, names, connector)
    yield from _judge_heartbeat(
        source.heartbeat_rows, connector.heartbeat_table, key_form, view.root.key, partitions
    )


def _judge_table(table: Table, facts: TableFacts | None, schema: str) -> Iterator[Finding]:
    if facts is None:
        yield Finding(
            "tables",
            f"table {schema}.{table.name} does not exist, or its columns may not be seen by this role",
            "mend `[view] file`, `[connector] schema` or the role's grants",
        )
        return
    wanted = {*(column.name for column in table.columns), table.owner}
    if missing := sorted(wanted - facts.columns):
        yield Finding(
            "tables",
            f"table {schema}.{table.name} has no column {', '.join(missing)}",
            "mend the view definition, or add the column",
        )
    by_index = facts.identity == "i" and table.owner in facts.identity_columns
    if facts.identity != "f" and not by_index:
        yield Finding(
            "replica identity",
            f"table {schema}.{table.name} has no REPLICA IDENTITY FULL: a delete would not say whose row it was",
            RUN_SQL,
        )
    if not facts.truncate_trigger:
        yield Finding(
            "truncate trigger",
            f"table {schema}.{table.name} has no enabled trigger kycache_truncated: "
            "a truncate would not reach every shard",
            RUN_SQL,
        )


def _judge_publication(
    publication: PublicationFacts | None, tables: list[str], connector: ConnectorSettings
) -> Iterator[Finding]:
    if publication is None:
        yield Finding("publication", f"publication {connector.publication!r} does not exist", RUN_SQL)
        return
    if missing := [name for name in tables if name not in publication.tables]:
        yield Finding(
            "publication",
            f"publication {connector.publication!r} does not cover {', '.join(missing)}",
            RUN_SQL,
        )
    wanted = ("insert", "update", "delete", "truncate")
    if missing := [operation for operation in wanted if operation not in publication.operations]:
        yield Finding(
            "publication",
            f"publication {connector.publication!r} does not publish {', '.join(missing)}",
            RUN_SQL,
        )


def _judge_heartbeat(
    rows: Mapping[str, int] | None, table: str, key_form: KeyForm, column: str, partitions: int
) -> Iterator[Finding]:
    if rows is None:
        yield Finding(
            "heartbeat",
            f"table {table} does not exist: how fresh an idle shard is cannot be known",
            RUN_SQL,
        )
        return
    beaten: dict[int, int] = {}
    for key, shard in rows.items():
        belongs = partition_of(key_bytes(key_form, column, key), partitions)
        beaten[belongs] = beaten.get(belongs, 0) + 1
        if belongs != shard:
            yield Finding(
                "heartbeat",
                f"row {key!r} of {table} names shard {shard}, and lands in partition {belongs} of {partitions}",
                RUN_SQL,
            )
    if missing := [str(n) for n in range(partitions) if n not in beaten]:
        yield Finding(
            "heartbeat",
            f"table {table} has no row for partition {', '.join(missing)} of {partitions}",
            RUN_SQL,
        )
    if twice := [str(n) for n in sorted(beaten) if beaten[n] > 1]:
        yield Finding("heartbeat", f"table {table} has several rows for partition {', '.join(twice)}", RUN_SQL)


def judge_connector(facts: ConnectorFacts, name: str, expected: Mapping[str, str]) -> Iterator[Finding]:
    """The connector as Kafka Connect runs it, against what `kycache connector` prints."""
    if not facts.state:
        yield Finding("connector", f"Kafka Connect has no connector {name!r}", RUN_CONNECTOR)
        return
    if facts.state != "RUNNING":
        yield Finding("connector", f"connector {name!r} is {facts.state}", "see Kafka Connect's log; resume it")
    for task in facts.failed_tasks:
        yield Finding(
            "connector", f"task {task} of connector {name!r} has failed", "see Kafka Connect's log; restart it"
        )
    for key, value in expected.items():
        if key.startswith(_NOT_COMPARED) or facts.config.get(key) == value:
            continue
        there = f"is {facts.config[key]!r}" if key in facts.config else "is not set"
        yield Finding("connector", f"connector {name!r}: {key} {there}, expected {value!r}", RUN_CONNECTOR)
