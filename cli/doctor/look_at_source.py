"""What `kycache doctor` looks at: the source and Kafka Connect, as plain facts. Decides nothing."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import psycopg
from psycopg import sql

from kycache.cli.settings.kafka_connect import KafkaConnect
from kycache.model.connector import ConnectorSettings
from kycache.model.errors import ConfigurationError, Unreachable
from kycache.model.fingerprint import FINGERPRINT
from kycache.model.lsn import parse_lsn
from kycache.model.publication import trigger_name
from kycache.model.view import Kind, View

from .connector_rules import ConnectorFacts, TaskFailure
from .failure_rules import exceptions_of, reason_of
from .source_facts import (
    HEARTBEAT_COLUMNS,
    ColumnFacts,
    PublicationFacts,
    PublishedFacts,
    SlotFacts,
    SourceFacts,
    TableFacts,
)
from .table_rules import odd_dates_query

SOURCE_WAIT_S = 5

HEARTBEAT_ROWS_MAX = 100_000
"""More rows than any topic has partitions: the table is another one that happens to bear the name."""

_TABLES = """
SELECT c.relname, c.relreplident,
       (SELECT jsonb_object_agg(a.attname, jsonb_build_object(
            'type', t.typname, 'generated', a.attgenerated, 'plain', t.typtype IN ('b', 'e'),
            'nullable', NOT (a.attnotnull OR (SELECT typnotnull FROM pg_type WHERE oid = a.atttypid)),
            -- as PostgreSQL packs what stands in the type's parentheses; a scale has a sign since version 15
            'precision', CASE WHEN t.typname IN ('timestamp', 'time') AND t.modifier >= 0 THEN t.modifier END,
            'scale', CASE WHEN t.typname = 'numeric' AND t.modifier >= 0
                          THEN ((((t.modifier - 4) & 2047) # 1024) - 1024) END,
            'length', CASE WHEN t.typname = 'bpchar' AND t.modifier >= 4 THEN t.modifier - 4 END,
            'deterministic', (SELECT coalesce(bool_and(l.collisdeterministic), true)
                              FROM pg_collation l WHERE l.oid = a.attcollation),
            'labels', ARRAY(SELECT e.enumlabel FROM pg_enum e WHERE e.enumtypid = t.oid ORDER BY e.enumsortorder)))
        FROM pg_attribute a
        -- Debezium sees through domains, and domains of domains, to what they are of
        CROSS JOIN LATERAL (
            WITH RECURSIVE base(oid, modifier) AS (
                SELECT a.atttypid, a.atttypmod
                UNION ALL
                SELECT d.typbasetype, d.typtypmod FROM base JOIN pg_type d ON d.oid = base.oid AND d.typtype = 'd')
            SELECT p.*, base.modifier FROM base JOIN pg_type p ON p.oid = base.oid AND p.typtype <> 'd') t
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       ARRAY(SELECT a.attname FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
             WHERE i.indrelid = c.oid AND i.indisreplident),
       -- 32: for truncate; 1: for each row; O and A: enabled, also for a session that is no replica
       (SELECT p.prosrc FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgrelid = c.oid AND t.tgname = %s
              AND t.tgtype & 32 <> 0 AND t.tgtype & 1 = 0 AND t.tgenabled IN ('O', 'A')),
       c.relkind = 'p',
       ARRAY(SELECT l.relname FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
             WHERE t.isleaf AND t.level > 0 AND l.relreplident <> 'f' ORDER BY l.relname LIMIT 5),
       (SELECT coalesce(jsonb_agg(ARRAY(SELECT a.attname FROM pg_attribute a
                                        WHERE a.attrelid = c.oid
                                              AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]))), '[]')
        FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid
                              AND i.indpred IS NULL AND i.indexprs IS NULL),
       ARRAY(SELECT r FROM unnest(ARRAY['SELECT', 'UPDATE']) r
             WHERE d.oid IS NULL
                   OR has_schema_privilege(d.oid, n.oid, 'USAGE') AND has_table_privilege(d.oid, c.oid, r)),
       ARRAY(SELECT l.relname FROM pg_inherits i JOIN pg_class l ON l.oid = i.inhrelid
             WHERE i.inhparent = c.oid AND c.relkind = 'r' ORDER BY l.relname LIMIT 5),
       d.oid IS NOT NULL AND c.relrowsecurity AND NOT d.rolsuper AND NOT d.rolbypassrls
           AND (c.relforcerowsecurity OR NOT pg_has_role(d.oid, c.relowner, 'USAGE'))
           -- unless a policy shows it every row, and none takes some away
           AND (SELECT bool_or(NOT p.polpermissive)
                       OR NOT bool_or(p.polpermissive AND pg_get_expr(p.polqual, p.polrelid) = 'true')
                FROM pg_policy p WHERE p.polrelid = c.oid AND p.polcmd IN ('r', '*')
                     AND EXISTS (SELECT FROM unnest(p.polroles) r
                                 WHERE r = 0 OR pg_has_role(d.oid, r, 'USAGE'))) IS NOT FALSE
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_roles d ON d.rolname = %s
WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p')
"""

# Somebody's own type may be called as others are: with its schema where it must be.
_EMPTY_ENUMS = """
SELECT oid::regtype::text FROM pg_type
WHERE typtype = 'e' AND NOT EXISTS (SELECT FROM pg_enum WHERE enumtypid = pg_type.oid) ORDER BY 1 LIMIT 5
"""

# The names of other roles' sessions are everyone's to see.
_ROLE = """
SELECT coalesce((SELECT a.usename FROM pg_replication_slots s JOIN pg_stat_activity a ON a.pid = s.active_pid
                 WHERE s.slot_name = %s),
                (SELECT rolname FROM pg_roles WHERE rolname = %s), '')
"""

# Through jsonb, as row filters came with PostgreSQL 15 and generated columns with 18.
_PUBLICATION = """
SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
       coalesce(to_jsonb(p) ->> 'pubgencols' = 's', true),
       (SELECT coalesce(jsonb_object_agg(t.tablename, jsonb_build_object(
            'columns', to_jsonb(t) -> 'attnames', 'filter', to_jsonb(t) ->> 'rowfilter')), '{}')
        FROM pg_publication_tables t WHERE t.pubname = p.pubname AND t.schemaname = %s)
FROM pg_publication p WHERE p.pubname = %s
"""

_SLOT = """
SELECT coalesce(plugin, ''), coalesce(database, ''), active, coalesce(wal_status, ''),
       coalesce(pg_wal_lsn_diff(
            CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn() ELSE pg_current_wal_lsn() END,
            restart_lsn), 0)::bigint,
       (SELECT setting::bigint << 20 FROM pg_settings WHERE name = 'max_slot_wal_keep_size' AND setting <> '-1'),
       coalesce(to_jsonb(s) ->> 'invalidation_reason', '')
FROM pg_replication_slots s WHERE slot_name = %s
"""


def look_at_source(
    dsn: str, view: View, connector: ConnectorSettings, clock: Callable[[], float] = time.time
) -> SourceFacts:
    """The source database.

    Args:
        clock: this machine's, seconds since 1970.

    Raises:
        Unreachable: it does not answer, or does not let this role in.
        ConfigurationError: the role may not read what must be looked at.
    """
    names = [*(table.name for table in view.tables), connector.heartbeat_table]
    trigger = trigger_name(connector.heartbeat_table)
    try:
        with psycopg.connect(dsn, connect_timeout=SOURCE_WAIT_S, autocommit=True) as database:
            database.execute(sql.SQL("SET statement_timeout = {}").format(SOURCE_WAIT_S * 1000))
            settings = database.execute(
                "SELECT current_setting('wal_level'), pg_is_in_recovery(), current_database(),"
                " CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END"
            ).fetchone()
            (role,) = database.execute(_ROLE, [connector.slot, connector.user]).fetchone() or ("",)
            tables = look_at_tables(database, connector.schema, names, role, trigger)
            publication = database.execute(_PUBLICATION, [connector.schema, connector.publication]).fetchone()
            slot = database.execute(_SLOT, [connector.slot]).fetchone()
            there = tables.get(connector.heartbeat_table)
            told = there is not None and there.columns.keys() >= HEARTBEAT_COLUMNS
            beats = _heartbeat_rows(database, connector) if told else {}
            empty = look_at_empty_enums(database)
            odd_dates = _odd_dates(database, view, connector, tables)
            ahead, error = _clock_ahead(database, clock)
            version = database.info.server_version
    except psycopg.errors.InsufficientPrivilege as error_:
        raise ConfigurationError(
            f"the role of `[source] dsn` may not look: {error_.diag.message_primary}", "grant it SELECT there"
        ) from None
    except psycopg.Error as error_:
        raise Unreachable(
            f"the source does not answer: {str(error_).strip() or type(error_).__name__}",
            "check `[source] dsn` and that PostgreSQL runs",
        ) from None
    assert settings is not None
    return SourceFacts(
        wal_level=settings[0],
        in_recovery=settings[1],
        tables=tables,
        publication=None if publication is None else _publication(publication),
        heartbeat_rows={key: row.shard for key, row in beats.items()} if told else None,
        beaten_s=min((row.age_s for row in beats.values() if row.age_s is not None), default=None),
        fingerprints=frozenset(row.fingerprint for row in beats.values() if row.fingerprint is not None),
        odd_dates=odd_dates,
        slot=None if slot is None else SlotFacts(*slot),
        database=settings[2],
        role=role,
        version=version,
        lsn=None if settings[3] is None else parse_lsn(settings[3]),
        empty_enums=empty,
        clock_ahead_s=ahead,
        clock_error_s=error,
    )


def look_at_tables(
    database: "psycopg.Connection[Any]", schema: str, names: list[str], role: str, trigger: str
) -> dict[str, TableFacts]:
    """The tables of these names that are there.

    Args:
        role: Debezium's, whose rights are asked for; one that does not exist has all.
        trigger: the truncate trigger's name.
    """
    return {row[0]: _table(row) for row in database.execute(_TABLES, [trigger, role, schema, names])}


def look_at_empty_enums(database: "psycopg.Connection[Any]") -> tuple[str, ...]:
    """Enum types without a label, anywhere in the database."""
    return tuple(row[0] for row in database.execute(_EMPTY_ENUMS))


def _table(row: tuple[Any, ...]) -> TableFacts:
    _, identity, columns, indexed, trigger, partitioned, without, unique, rights, heirs, hides_rows = row
    return TableFacts(
        identity,
        {
            name: ColumnFacts(
                c["type"],
                tuple(c["labels"]),
                c["generated"],
                c["plain"],
                c["precision"],
                c["scale"],
                c["nullable"],
                c["length"],
                c["deterministic"],
            )
            for name, c in (columns or {}).items()
        },
        frozenset(indexed),
        trigger,
        partitioned,
        tuple(without),
        tuple(map(frozenset, unique)),
        frozenset(rights),
        tuple(heirs),
        hides_rows,
    )


def _publication(row: tuple[Any, ...]) -> PublicationFacts:
    words = ("insert", "update", "delete", "truncate")
    published = frozenset(word for word, on in zip(words, row, strict=False) if on)
    tables = {
        name: PublishedFacts(None if t["columns"] is None else frozenset(t["columns"]), t["filter"] is not None)
        for name, t in row[6].items()
    }
    return PublicationFacts(tables, published, row[4], row[5])


class _Beat(NamedTuple):
    """A heartbeat row: its shard, how many seconds ago it was written, and what it says of the catalog."""

    shard: int
    age_s: float | None
    fingerprint: str | None


def _heartbeat_rows(database: "psycopg.Connection[Any]", connector: ConnectorSettings) -> dict[str, _Beat]:
    """Each row by its key."""
    table = sql.Identifier(connector.schema, connector.heartbeat_table)
    age = sql.SQL("extract(epoch FROM clock_timestamp() - beat_at)::float8")
    limit = sql.Literal(HEARTBEAT_ROWS_MAX)
    # Through jsonb, as a table of before lacks the column.
    fingerprint = sql.SQL("to_jsonb(h) ->> {}").format(sql.Literal(FINGERPRINT))
    rows = sql.SQL("SELECT user_id, shard, {}, {} FROM {} h LIMIT {}").format(age, fingerprint, table, limit)
    return {key: _Beat(*row) for key, *row in database.execute(rows)}


def _odd_dates(
    database: "psycopg.Connection[Any]", view: View, connector: ConnectorSettings, tables: Mapping[str, TableFacts]
) -> dict[tuple[str, str], bool | None]:
    """Of each declared date, whether the table has some that a snapshot shifts."""
    found: dict[tuple[str, str], bool | None] = {}
    for table in view.tables:
        there = tables[table.name].columns if table.name in tables else {}
        for column in table.columns:
            if column.type.kind is not Kind.DATE or column.name not in there or there[column.name].type != "date":
                continue
            named = (sql.Identifier(connector.schema, table.name), sql.Identifier(column.name))
            query = odd_dates_query(*(name.as_string(database) for name in named))
            try:
                row = database.execute(query.encode()).fetchone()
            except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege):
                row = None  # of a great table, or of one that this role may not read
            found[table.name, column.name] = None if row is None else bool(row[0])
    return found


def _clock_ahead(database: "psycopg.Connection[Any]", clock: Callable[[], float]) -> tuple[float, float]:
    """By how many seconds the source's clock is ahead of ours, and how wrong that may be."""
    asked = clock()
    row = database.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    answered = clock()
    assert row is not None
    return row[0] - (asked + answered) / 2, (answered - asked) / 2


def look_at_connector(connect: KafkaConnect) -> ConnectorFacts:
    """The connector, as Kafka Connect's REST interface tells.

    Raises:
        Unreachable: Kafka Connect does not answer.
        ConfigurationError: it does not let us in.
    """
    status, config = connect.status(), connect.config()
    if status is None or config is None:
        return ConnectorFacts("")
    return ConnectorFacts(
        state=str(status["connector"]["state"]),
        reason=reason_of(str(status["connector"].get("trace", ""))),
        tasks=tuple(str(task["state"]) for task in status["tasks"]),
        failures=tuple(failure_of(task) for task in status["tasks"] if task["state"] == "FAILED"),
        config={key: str(value) for key, value in config.items()},
    )


def failure_of(task: Mapping[str, Any]) -> TaskFailure:
    """A failed task, as Kafka Connect's status shows it."""
    trace = str(task.get("trace", ""))
    return TaskFailure(int(task["id"]), exceptions_of(trace), reason_of(trace))
