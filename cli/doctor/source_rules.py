"""What `kycache doctor` concludes of the source database. Pure: plain facts in, findings out."""

from collections.abc import Iterator

from kycache.actors.rules.freshness import CLOCK_SKEW_S
from kycache.actors.rules.standing import SOURCE_REMEDY
from kycache.model.connector import ConnectorSettings, truncate_body
from kycache.model.fingerprint import FINGERPRINT, scope_of
from kycache.model.lsn import format_lsn
from kycache.model.partition import KeyForm, key_bytes, partition_of
from kycache.model.publication import trigger_name
from kycache.model.scalars.times import TIME_PROBE
from kycache.model.view import View

from .key_rules import judge_filters, judge_same_user
from .source_facts import HEARTBEAT_COLUMNS, SourceFacts, TableFacts
from .table_rules import judge_table
from .topic_rules import RUN_CONNECTOR, RUN_SQL, WARNING, Finding, several


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
    trigger, body = trigger_name(connector.heartbeat_table), truncate_body(view, connector)
    for table in view.tables:
        yield from judge_table(table, source, connector.schema, trigger, body, connector.times)
    yield from judge_same_user(source, view, connector.schema)
    yield from judge_filters(source, view, connector.schema)
    if source.empty_enums:
        yield Finding(
            "types",
            f"there are enum types without labels ({', '.join(source.empty_enums)}): Debezium reads all types of "
            "the database when it starts, and fails at these",
            "DROP TYPE, or ALTER TYPE … ADD VALUE",
        )
    yield from _judge_publication(source, view, connector)
    if not source.in_recovery:  # the slot is the primary's
        yield from _judge_slot(source, connector.slot, slot_wal_max_bytes)
    yield from _judge_heartbeat(source, view, connector, key_form, partitions)


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
            SOURCE_REMEDY,
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
        if published is None or published.columns is None or there is None:
            continue
        # Unpublished generated columns have a finding of their own.
        lacking = {c for c, column in there.columns.items() if not column.generated} - published.columns
        needed = lacking & {table.owner, *(c.name for c in table.columns)}
        refused = ": under REPLICA IDENTITY FULL PostgreSQL refuses every UPDATE and DELETE"
        if needed or (lacking and there.identity == "f"):
            yield Finding(
                "publication",
                f"publication {name!r} leaves out {', '.join(sorted(lacking))} of table {table.name}"
                + (refused if there.identity == "f" else ""),
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
    source: SourceFacts, view: View, connector: ConnectorSettings, key_form: KeyForm, partitions: int
) -> Iterator[Finding]:
    table, facts = connector.heartbeat_table, source.tables.get(connector.heartbeat_table)
    if facts is None:
        yield Finding(
            "heartbeat",
            f"table {table} does not exist: how fresh an idle shard is cannot be known",
            RUN_SQL,
        )
        return
    if missing := sorted(HEARTBEAT_COLUMNS - facts.columns.keys()):
        yield Finding(
            "heartbeat",
            f"table {table} has no column {', '.join(missing)}: no beat comes, and no TRUNCATE succeeds",
            f"drop the table, then {RUN_SQL}",
        )
        return
    if TIME_PROBE not in facts.columns:
        yield Finding(
            "heartbeat",
            f"table {table} has no column {TIME_PROBE}: no beat shows in which unit the log has its times",
            RUN_SQL,
            WARNING,
        )
    if lacking := sorted({"SELECT", "UPDATE"} - facts.rights):
        yield Finding(
            "heartbeat",
            f"Debezium's role {source.role!r} lacks {', '.join(lacking)} on table {table}: no beat comes, though "
            "the connector runs",
            f'GRANT SELECT, UPDATE ON {connector.schema}.{table} TO "{source.role}"',
        )
    yield from _judge_fingerprint(source, facts, table, view)
    # Rows of another partition count may stand there too, and beat here as well.
    keys = source.heartbeat_rows or {}
    beaten = {partition_of(key_bytes(key_form, view.root.key, key), partitions) for key in keys}
    if silent := [n for n in range(partitions) if n not in beaten]:
        yield Finding(
            "heartbeat",
            f"table {table} has no row for partition {several(silent)} of {partitions}",
            f"see that `[kafka] key` says how the connector writes keys, then {RUN_SQL}",
        )


def _judge_fingerprint(source: SourceFacts, facts: TableFacts, table: str, view: View) -> Iterator[Finding]:
    """Without it the view works, and what DDL does to rows goes unseen."""
    unseen = "DDL that changes rows without an event goes unseen"
    if FINGERPRINT not in facts.columns:
        yield Finding("fingerprint", f"table {table} has no column {FINGERPRINT}: {unseen}", RUN_SQL, WARNING)
    elif source.beaten_s is not None and not source.fingerprints:
        yield Finding(
            "fingerprint",
            f"no beat writes column {FINGERPRINT} of table {table}: {unseen}",
            f"{RUN_CONNECTOR} (heartbeat.action.query, snapshot.select.statement.overrides)",
            WARNING,
        )
    elif any(not found.startswith(scope_of(view)) for found in source.fingerprints):
        yield Finding(
            "fingerprint",
            f"the beats' column {FINGERPRINT} is of other tables or columns than the view's: {unseen}",
            f"{RUN_CONNECTOR} (heartbeat.action.query, snapshot.select.statement.overrides)",
            WARNING,
        )
