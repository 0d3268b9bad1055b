"""What `kycache doctor` concludes of the source database. Pure: plain facts in, findings out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kycache.actors.freshness import CLOCK_SKEW_S
from kycache.model.connector import ConnectorSettings, truncate_body
from kycache.model.lsn import format_lsn
from kycache.model.partition import KeyForm, key_bytes, partition_of
from kycache.model.view import Column, Kind, Table, View

from .findings import RUN_SQL, WARNING, Finding

_STRINGS = frozenset({"text", "varchar", "bpchar", "name", "citext"})
_TYPES: dict[Kind, frozenset[str]] = {
    Kind.UUID: frozenset({"uuid"}) | _STRINGS,
    Kind.BOOL: frozenset({"bool"}),
    Kind.INT: frozenset({"int2", "int4", "int8"}),
    Kind.DATE: frozenset({"date"}),
    Kind.TIMESTAMP: frozenset({"timestamp"}),
    Kind.TIMESTAMPTZ: frozenset({"timestamptz"}),
    Kind.NUMERIC: frozenset({"numeric"}),
    Kind.JSON: frozenset({"json", "jsonb"}),
    Kind.ENUM: _STRINGS,
}
"""What Debezium sends for a column that is declared as the kind. Text may be anything that comes as one."""

_NO_TEXT = frozenset({"bool", "int2", "int4", "int8", "float4", "float8", "date", "timestamp", "bytea"})
"""Types that do not come as text."""


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column: its type's name and, for an enum, its labels. `generated` is `pg_attribute.attgenerated`."""

    type: str
    labels: tuple[str, ...] = ()
    generated: str = ""
    plain: bool = True
    """A base type or an enum; of a domain or a composite nothing is concluded."""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table at the source. `identity` is `pg_class.relreplident`: d, n, f or i."""

    identity: str
    columns: Mapping[str, ColumnFacts]
    identity_columns: frozenset[str] = frozenset()
    """Columns of the index that is the identity, where one is."""
    truncate_trigger: str | None = None
    """The body of the function that the enabled trigger calls; None where there is no such trigger."""
    partitioned: bool = False
    partitions_without: tuple[str, ...] = ()
    """Its partitions without REPLICA IDENTITY FULL: each has its own, and the parent's says nothing."""


@dataclass(frozen=True, slots=True)
class PublishedFacts:
    """A table of a publication."""

    columns: frozenset[str]
    row_filter: bool = False


@dataclass(frozen=True, slots=True)
class PublicationFacts:
    """A publication: the tables it covers in the schema, and what it publishes of them."""

    tables: Mapping[str, PublishedFacts]
    operations: frozenset[str]
    via_root: bool = True
    generated: bool = True
    """Stored generated columns are published (PostgreSQL 18)."""


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A replication slot, as `pg_replication_slots` shows it."""

    plugin: str
    database: str
    active: bool
    wal_status: str
    retained_bytes: int
    keep_bytes_max: int | None
    """`max_slot_wal_keep_size`: what it may retain before PostgreSQL gives it up; None: without end."""
    why_lost: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The source database. Tables that do not exist are left out."""

    wal_level: str
    in_recovery: bool
    tables: Mapping[str, TableFacts]
    publication: PublicationFacts | None
    heartbeat_rows: Mapping[str, int] | None
    """Each heartbeat row's key and the shard it names; None where there is no such table."""
    slot: SlotFacts | None
    database: str = ""
    version: int = 180_000
    clock_ahead_s: float = 0.0
    """Of this machine's clock."""
    lsn: int | None = None
    """Where its log ends; None for a standby."""
    clock_error_s: float = 0.0
    """By how much that may be wrong: half of what asking took."""


def judge_source(
    source: SourceFacts,
    view: View,
    connector: ConnectorSettings,
    key_form: KeyForm,
    partitions: int,
    slot_wal_max_bytes: int,
) -> Iterator[Finding]:
    """The source database.

    Args:
        partitions: the topic's count, or what it is to be.
        slot_wal_max_bytes: what the slot may retain before it is worth a word.
    """
    if source.in_recovery:
        yield Finding("source", "the source is a standby in recovery", "set `[source] dsn` to the primary")
    elif source.wal_level != "logical":
        yield Finding(
            "wal_level",
            f"wal_level is {source.wal_level}",
            "set wal_level = logical and restart PostgreSQL",
        )
    if abs(source.clock_ahead_s) - source.clock_error_s > CLOCK_SKEW_S:
        ahead = source.clock_ahead_s > 0
        outcome = "what it commits does not count as fresh" if ahead else "staleness is overstated by that"
        yield Finding(
            "clock",
            f"the source's clock is {abs(source.clock_ahead_s):.2f} s {'ahead of' if ahead else 'behind'} this "
            f"machine's: {outcome}",
            "let both keep their time by NTP",
            WARNING,
        )
    body = truncate_body(view, connector)
    for table in view.tables:
        yield from _judge_table(table, source, connector.schema, body)
    yield from _judge_publication(source, view, connector)
    if not source.in_recovery:  # the slot is the primary's
        yield from _judge_slot(source, connector.slot, slot_wal_max_bytes)
    yield from _judge_heartbeat(
        source.heartbeat_rows, connector.heartbeat_table, key_form, view.root.key, partitions
    )


def judge_history(source: SourceFacts, watermark: int) -> Iterator[Finding]:
    """Whether what was read can come from this source as it is now.

    Debezium passes over whatever lies below the LSN that it has stored, so that a source which was set back looks
    like one that sends nothing, and later like a sound one.

    Args:
        watermark: the greatest of the shards, looked at before the source was.
    """
    if source.lsn is not None and source.lsn < watermark:
        yield Finding(
            "source",
            f"the source is at LSN {format_lsn(source.lsn)}, before {format_lsn(watermark)}, which was read from "
            "it already: a restored backup, or another database; Debezium passes over its changes",
            "make sure the source is the right one, then run `kycache rebuild --epoch`",
        )


def _judge_table(table: Table, source: SourceFacts, schema: str, body: str) -> Iterator[Finding]:
    facts = source.tables.get(table.name)
    if facts is None:
        yield Finding(
            "tables",
            f"table {schema}.{table.name} does not exist, or its columns may not be seen by this role",
            "mend `[view] file`, `[connector] schema` or the role's grants",
        )
        return
    wanted = {*(column.name for column in table.columns), table.owner}
    if missing := sorted(wanted - facts.columns.keys()):
        yield Finding(
            "tables",
            f"table {schema}.{table.name} has no column {', '.join(missing)}",
            "mend the view definition, or add the column",
        )
    for column in table.columns:
        if column.name in facts.columns:
            yield from _judge_column(f"{schema}.{table.name}", column, facts.columns[column.name])
    by_index = facts.identity == "i" and {table.owner, table.key} <= facts.identity_columns
    if facts.identity != "f" and not by_index:
        yield Finding(
            "replica identity",
            f"table {schema}.{table.name} has no REPLICA IDENTITY FULL: a delete would not say whose row it was, "
            "nor which",
            RUN_SQL,
        )
    if facts.identity == "f" and facts.partitions_without:
        yield Finding(
            "replica identity",
            f"partitions of table {schema}.{table.name} have no REPLICA IDENTITY FULL of their own "
            f"({', '.join(facts.partitions_without)}): a delete there would not say whose row it was",
            "ALTER TABLE … REPLICA IDENTITY FULL for each of them, and for every partition that is made later",
        )
    if facts.truncate_trigger is None:
        yield Finding(
            "truncate trigger",
            f"table {schema}.{table.name} has no enabled trigger kycache_truncated: "
            "a truncate would not reach every shard",
            RUN_SQL,
        )
    elif facts.truncate_trigger.strip() != body.strip():
        yield Finding(
            "truncate trigger",
            f"trigger kycache_truncated of table {schema}.{table.name} calls another function than the one "
            "printed for this view",
            RUN_SQL,
        )
    yield from _judge_generated(f"{schema}.{table.name}", facts, source)


def _judge_column(table: str, column: Column, facts: ColumnFacts) -> Iterator[Finding]:
    if not facts.plain:
        return
    kind = column.type.kind
    if facts.labels and kind is Kind.ENUM:
        if unknown := [label for label in facts.labels if label not in column.type.labels]:
            yield Finding(
                "types",
                f"column {column.name} of table {table} may be {', '.join(unknown)}, which the view does not "
                "know: such rows go to quarantine",
                "add the label to `[view] file`, and run `kycache rebuild`",
                WARNING,
            )
        return
    fits = facts.type not in _NO_TEXT if kind is Kind.TEXT else facts.type in _TYPES[kind]
    if not fits and not (facts.labels and kind in (Kind.TEXT, Kind.UUID)):
        yield Finding(
            "types",
            f"column {column.name} of table {table} is a {facts.type}, the view declares {column.type}",
            "mend `[view] file`",
        )


def _judge_generated(table: str, facts: TableFacts, source: SourceFacts) -> Iterator[Finding]:
    """Since PostgreSQL 18 a table under FULL refuses UPDATE and DELETE for columns that are not published."""
    if source.version < 180_000 or facts.identity != "f" or source.publication is None:
        return
    if virtual := sorted(name for name, column in facts.columns.items() if column.generated == "v"):
        yield Finding(
            "generated columns",
            f"table {table} has virtual generated columns ({', '.join(virtual)}), which cannot be published: "
            "under REPLICA IDENTITY FULL PostgreSQL refuses every UPDATE and DELETE",
            "make them STORED, or give the table a replica identity by an index that holds the user id",
        )
    stored = sorted(name for name, column in facts.columns.items() if column.generated == "s")
    if stored and not source.publication.generated:
        yield Finding(
            "generated columns",
            f"the publication does not publish the generated columns of table {table} ({', '.join(stored)}): "
            "under REPLICA IDENTITY FULL PostgreSQL refuses every UPDATE and DELETE",
            RUN_SQL,
        )


def _judge_publication(source: SourceFacts, view: View, connector: ConnectorSettings) -> Iterator[Finding]:
    publication, name = source.publication, connector.publication
    if publication is None:
        yield Finding("publication", f"publication {name!r} does not exist", RUN_SQL)
        return
    tables = [*(table.name for table in view.tables), connector.heartbeat_table]
    if not publication.via_root:  # then it lists the partitions, and not their table
        for parent in [t for t in tables if t in source.tables and source.tables[t].partitioned]:
            tables.remove(parent)
            yield Finding(
                "publication",
                f"table {parent} is partitioned, and publication {name!r} names each partition by itself",
                RUN_SQL,
            )
    if missing := [table for table in tables if table not in publication.tables]:
        yield Finding("publication", f"publication {name!r} does not cover {', '.join(missing)}", RUN_SQL)
    wanted = ("insert", "update", "delete", "truncate")
    if missing := [operation for operation in wanted if operation not in publication.operations]:
        yield Finding("publication", f"publication {name!r} does not publish {', '.join(missing)}", RUN_SQL)
    if filtered := [t for t in tables if t in publication.tables and publication.tables[t].row_filter]:
        yield Finding(
            "publication",
            f"publication {name!r} has a row filter on {', '.join(filtered)}: rows that leave it would stay here",
            RUN_SQL,
        )
    for table in view.tables:
        published = publication.tables.get(table.name)
        there = source.tables.get(table.name)
        if published is None or there is None:
            continue
        listed = {c.name for c in table.columns if c.name in there.columns}
        # Unpublished generated columns have a finding of their own.
        lacking = sorted(c for c in listed - published.columns if not there.columns[c].generated)
        if lacking:
            yield Finding(
                "publication",
                f"publication {name!r} leaves out {', '.join(lacking)} of table {table.name}",
                RUN_SQL,
            )


def _judge_slot(source: SourceFacts, name: str, wal_max_bytes: int) -> Iterator[Finding]:
    slot = source.slot
    if slot is None:
        yield Finding(
            "slot",
            f"replication slot {name!r} does not exist: what is written now reaches nobody",
            "start the connector, which makes it; where it had been there, run `kycache rebuild --epoch` then",
        )
        return
    if slot.plugin != "pgoutput" or slot.database != source.database:
        yield Finding(
            "slot",
            f"replication slot {name!r} is of plugin {slot.plugin or 'none'} and database "
            f"{slot.database or 'none'}, not of pgoutput and {source.database}",
            "set `[connector] slot` to a name of its own",
        )
    if slot.wal_status == "lost":
        yield Finding(
            "slot",
            f"replication slot {name!r} is lost{f' ({slot.why_lost})' if slot.why_lost else ''}: "
            "PostgreSQL removed what Debezium had not read",
            f"SELECT pg_drop_replication_slot('{name}'), then run `kycache rebuild --epoch`",
        )
        return
    if not slot.active:
        yield Finding(
            "slot",
            f"nobody reads replication slot {name!r}, and it retains {slot.retained_bytes >> 20} MiB of WAL",
            "start the connector; a slot that is not needed any more is dropped, or the source's disk fills",
        )
    limit = wal_max_bytes if slot.keep_bytes_max is None else min(wal_max_bytes, slot.keep_bytes_max // 2)
    if slot.retained_bytes > limit or slot.wal_status == "unreserved":
        end = "until its disk is full" if slot.keep_bytes_max is None else f"up to {slot.keep_bytes_max >> 20} MiB"
        yield Finding(
            "slot",
            f"replication slot {name!r} retains {slot.retained_bytes >> 20} MiB of WAL "
            f"(status {slot.wal_status}); the source keeps it {end}",
            "see why Debezium does not keep up: `kycache doctor`, Kafka Connect's log, long transactions",
            WARNING,
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
