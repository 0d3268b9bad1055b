"""What the source and Debezium must be told so that kycache's promises hold: one configuration, one SQL.

`connector_config` is the Debezium connector, `source_sql` what the source database needs before it.
`kycache connector` prints both and the demo runs exactly these, so what is tested is what is printed.
Each setting that is not Debezium's default stands here because a rule of the view depends on it; the
comments name the rule.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from kycache.model.scalars.times import TIME_PROBE, TimePrecision
from kycache.model.sql.text import added_column, dollar_quoted, literal, one_line, qualified, quoted

from .errors import ConfigurationError
from .fingerprint import FINGERPRINT, fingerprint_sql
from .partition import KeyForm, key_bytes, partition_of
from .publication import (
    identify_partitions,
    publication_sql,
    refuse_foreign_beats,
    refuse_foreign_publication,
    setting_name,
    trigger_name,
)
from .view import HEARTBEAT_TABLE, View

HEARTBEAT_INTERVAL_MS = 500
"""How stale an idle shard may look: a beat moves the watermark of every partition."""

POLL_INTERVAL_MS = 20
"""Debezium's default, 500, alone takes 429 ms at P50 from commit to event; 20 costs no measurable CPU."""

RESTART_WAIT_MS = 1_000

MESSAGE_BYTES_MAX = 32 << 20
"""What one change may take as it is sent: the row before and after it. Kafka's own megabyte stops the task for
good at a row of half of it, and no restart helps. Ingest reads no larger values."""

SESSION_SQL = "SET synchronous_commit = local"
"""For Debezium's sessions: where a synchronous standby stalls, the beat's commit would wait for it, and with it
the streaming thread. Nothing is lost with a beat. The role may serve others, so it is no setting of the role."""

BEAT_KEY_TRIES_PER_PARTITION = 1_000
"""A beat key hits its partition with probability 1/P, so P tries are expected; missing a thousand times that
means the partitioner is broken, not that luck is bad."""

KEY_FIELD = "user_id"
"""The column of the heartbeat table that becomes the Kafka key; the view's own owner columns are renamed to it."""

_SEPARATORS = re.compile(r"[\s,;:]")
"""What separates names in Debezium's and Kafka Connect's lists."""

EXACT_CASE = "(?-i)"
"""Debezium's lists match names in any case by default, and `users` and `"Users"` can stand in one schema."""


@dataclass(frozen=True, slots=True)
class ConnectorSettings:
    """Where the source is, and under which names Debezium reads it and writes to Kafka."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    dbname: str
    name: str = "kycache"
    topic_prefix: str = "kyc"
    topic: str = "kyc.changes"
    partitions: int = 4
    schema: str = "public"
    slot: str = "kycache"
    publication: str = "kycache"
    heartbeat_table: str = HEARTBEAT_TABLE
    key_form: KeyForm = KeyForm.PLAIN
    message_bytes_max: int = MESSAGE_BYTES_MAX
    producer_override: bool = True
    """Whether the connector itself says how large messages may be; else Kafka Connect's worker must."""
    tls: Mapping[str, str] = field(default_factory=dict, repr=False)
    """libpq's `ssl…` parameters; Debezium has the same names."""
    uncarried: tuple[str, ...] = ()
    """What the connection string says and Debezium has no setting for, in words."""
    times: TimePrecision = TimePrecision.MICROSECONDS

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise ConfigurationError(
                f"the topic {self.topic!r} cannot have {self.partitions} partitions", "give 1 or more"
            )


def connector_config(view: View, settings: ConnectorSettings) -> dict[str, str]:
    """The Debezium connector configuration for `view`, as Kafka Connect's REST interface takes it.

    Raises:
        ConfigurationError: a name cannot stand in the lists that it must stand in.
    """
    owners = dict(_owners(view, settings))
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "tasks.max": "1",
        "plugin.name": "pgoutput",
        "database.hostname": settings.host,
        "database.port": str(settings.port),
        "database.user": settings.user,
        "database.password": settings.password,
        "database.dbname": settings.dbname,
        **{f"database.{name}": value for name, value in settings.tls.items()},
        "database.initial.statements": SESSION_SQL,
        "topic.prefix": settings.topic_prefix,
        "slot.name": settings.slot,
        "publication.name": settings.publication,
        # The SQL makes the publication, so that what is published is what was reviewed.
        "publication.autocreate.mode": "disabled",
        "table.include.list": ",".join(_pattern(settings.schema, table) for table in owners),
        # Every partition must meet a whole snapshot, or its shard never becomes ready.
        "snapshot.mode": "initial",
        # TRUNCATE is skipped by default, and a truncated table would live on in the view.
        "skipped.operations": "none",
        "tombstones.on.delete": "true",
        # `precise` is base64 whose scale stands only in a schema that is switched off below.
        "decimal.handling.mode": "string",
        **_times(settings),
        "poll.interval.ms": str(POLL_INTERVAL_MS),
        # How soon it tries again after the source went away; its default is 10 s.
        "retriable.restart.connector.wait.ms": str(RESTART_WAIT_MS),
        "heartbeat.interval.ms": str(HEARTBEAT_INTERVAL_MS),
        "heartbeat.action.query": beat_query(view, settings),
        **_snapshot_of_beats(view, settings),
        **_limits(settings),
        **_converters(settings),
        **_transforms(view, owners, settings),
        **_topic_creation(settings),
    }


def _limits(settings: ConnectorSettings) -> dict[str, str]:
    if not settings.producer_override:
        return {}
    size = str(settings.message_bytes_max)
    return {"producer.override.max.request.size": size, "producer.override.buffer.memory": size}


def _times(settings: ConnectorSettings) -> dict[str, str]:
    # `adaptive` is Debezium's default, and left unsaid as it was when it was the only one here.
    if settings.times is TimePrecision.ADAPTIVE:
        return {}
    return {"time.precision.mode": settings.times.value}


def _converters(settings: ConnectorSettings) -> dict[str, str]:
    # A key must be computable from the user id alone, so it never carries a schema.
    key = {
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
    }
    if settings.key_form is KeyForm.PLAIN:
        key = {"key.converter": "org.apache.kafka.connect.storage.StringConverter"}
    return {
        **key,
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        # With true (the default!) a NULL in a column that has a DEFAULT is shown as that default.
        "value.converter.replace.null.with.default": "false",
    }


def _transforms(view: View, owners: dict[str, str], settings: ConnectorSettings) -> dict[str, str]:
    """All tables into one topic keyed by the user id: one total order per user.

    The router names the tables: a catch-all would catch signal and heartbeat topics too, whose keys have no
    user id, and the key transform would then stop the connector.
    """
    topics = "|".join(re.escape(_topic_part(table)) for table in owners)
    prefix = re.escape(f"{_topic_part(settings.topic_prefix)}.{_topic_part(settings.schema)}.")
    whole = settings.key_form is KeyForm.JSON  # the key stays an object, with the root's own column in it
    field = view.root.key if whole else KEY_FIELD
    renames: list[str] = []
    config: dict[str, str] = {}
    for table, owner in owners.items():
        if owner != field:
            # One field name for all tables. Each rename has its table's own topic as predicate, before the route:
            # two renames to one name fail on a record that has that name already, as the heartbeats have.
            name = f"rename{len(renames)}"
            config |= {
                f"transforms.{name}.type": "org.apache.kafka.connect.transforms.ReplaceField$Key",
                f"transforms.{name}.renames": f"{owner}:{field}",
                f"transforms.{name}.predicate": name,
                **_topic_predicate(name, prefix + re.escape(_topic_part(table))),
            }
            renames.append(name)
    if not whole:
        config |= {
            "transforms.key.type": "org.apache.kafka.connect.transforms.ExtractField$Key",
            "transforms.key.field": field,
            "transforms.key.predicate": "changes",
        }
    return {
        "message.key.columns": ";".join(
            f"{_pattern(settings.schema, table)}:{_escaped(owner)}" for table, owner in owners.items()
        ),
        "transforms": ",".join([*renames, "route", *([] if whole else ["key"])]),
        "transforms.route.type": "io.debezium.transforms.ByLogicalTableRouter",
        # The router matches whole names, then replaces the first find: of `users_tags` it would find `users`.
        "transforms.route.topic.regex": f"{prefix}(?:{topics})$",
        "transforms.route.topic.replacement": settings.topic,
        # With true (the default) the router adds a field to the key, and the key is no longer the user id.
        "transforms.route.key.enforce.uniqueness": "false",
        "predicates": ",".join(["changes", *renames]),
        **_topic_predicate("changes", re.escape(settings.topic)),
        **config,
    }


def _topic_predicate(name: str, pattern: str) -> dict[str, str]:
    return {
        f"predicates.{name}.type": "org.apache.kafka.connect.transforms.predicates.TopicNameMatches",
        f"predicates.{name}.pattern": pattern,
    }


def _pattern(schema: str, table: str) -> str:
    """A table in one of Debezium's lists: a regular expression over `schema.table`."""
    return EXACT_CASE + _escaped(f"{schema}.{table}")


def _escaped(name: str) -> str:
    """A name as a regular expression that no list takes apart."""
    return "".join(
        f"\\x{ord(char):02x}" if _SEPARATORS.match(char) and char.isascii() else re.escape(char) for char in name
    )


def _topic_creation(settings: ConnectorSettings) -> dict[str, str]:
    """For a broker that creates no topics by itself; a topic that exists is left as it is."""
    return {
        "topic.creation.groups": "changes",
        "topic.creation.default.replication.factor": "-1",
        "topic.creation.default.partitions": "1",
        "topic.creation.changes.include": re.escape(settings.topic),
        "topic.creation.changes.replication.factor": "-1",
        "topic.creation.changes.partitions": str(settings.partitions),
        # The key is the user, not the row: compaction would drop all but one of a user's rows.
        "topic.creation.changes.cleanup.policy": "delete",
        "topic.creation.changes.max.message.bytes": str(settings.message_bytes_max),
        # A shard is built from the log's start. Where snapshots are kept, the log may be shorter.
        "topic.creation.changes.retention.ms": "-1",
    }


def beat_query(view: View, settings: ConnectorSettings) -> str:
    """What Debezium runs at every heartbeat: touches each partition's row, clears the truncate mark, and says what
    the catalog is like.

    It runs in Debezium's streaming thread, so it must never wait for a lock: a plain UPDATE stops the
    connector for as long as a truncating transaction stays open.
    """
    beats = _qualified(settings, settings.heartbeat_table)
    return (
        f"UPDATE {beats} h SET beat_at = clock_timestamp(), truncated = NULL, "
        f"{FINGERPRINT} = {fingerprint_sql(view, settings.schema, settings.publication)} "
        f"FROM (SELECT user_id FROM {beats} FOR UPDATE SKIP LOCKED) f WHERE h.user_id = f.user_id"
    )


def _snapshot_of_beats(view: View, settings: ConnectorSettings) -> dict[str, str]:
    """A snapshot's heartbeat rows carry the fingerprint as of the snapshot itself, not as of the last beat before
    it: so a shard knows which catalog the snapshot's rows were read under."""
    name = f"{settings.schema}.{settings.heartbeat_table}"
    fingerprint = fingerprint_sql(view, settings.schema, settings.publication)
    return {
        "snapshot.select.statement.overrides": name,
        f"snapshot.select.statement.overrides.{name}": (
            f"SELECT user_id, shard, beat_at, truncated, {TIME_PROBE}, {fingerprint} AS {FINGERPRINT} "
            f"FROM {_qualified(settings, settings.heartbeat_table)}"
        ),
    }


def beat_keys(partitions: int, key_form: KeyForm = KeyForm.PLAIN, column: str = KEY_FIELD) -> list[str]:
    """One key per partition, in order, that Kafka's partitioner puts into that very partition.

    Args:
        partitions: how many the topic has.
        key_form: how the connector writes keys; the partition follows from the bytes it writes.
        column: the root table's key column, which the `json` form shows.

    Raises:
        ConfigurationError: no such key was found, which only a broken partitioner can cause.
    """
    keys: dict[int, str] = {}
    for n in range(BEAT_KEY_TRIES_PER_PARTITION * partitions):
        key = f"beat-{n}"
        keys.setdefault(partition_of(key_bytes(key_form, column, key), partitions), key)
        if len(keys) == partitions:
            return [keys[p] for p in range(partitions)]
    raise ConfigurationError(f"no heartbeat key found for each of {partitions} partitions")


def source_sql(view: View, settings: ConnectorSettings) -> list[str]:
    """The statements that make a source fit for `connector_config`, in order, for one transaction.

    Running them again is harmless. They refuse, before they change anything, to take from a publication or a
    heartbeat table what belongs to another view. `source_rights` says who may run them.

    Raises:
        ConfigurationError: a name cannot stand in the lists that it must stand in.
    """
    tables = list(dict(_owners(view, settings)))
    mine = [table.name for table in view.tables]
    beats, function = settings.heartbeat_table, _truncate_function(settings)
    return [
        refuse_foreign_publication(settings.publication, settings.schema, tables),
        refuse_foreign_beats(settings.schema, beats, function, mine),
        *_heartbeat_rows(view, settings),
        # Without FULL a deleted child's event does not say whose it was, and an update hides a move.
        *(f"ALTER TABLE {_qualified(settings, table)} REPLICA IDENTITY FULL" for table in tables),
        identify_partitions(settings.schema, mine),
        *_truncate_triggers(view, settings),
        publication_sql(settings.publication, settings.schema, tables),
    ]


def source_rights(view: View, settings: ConnectorSettings) -> str:
    """Who may run `source_sql`, and what Debezium's role needs; one line of text."""
    tables = ", ".join(quoted(table.name) for table in view.tables)
    schema, beats = quoted(settings.schema), quoted(settings.heartbeat_table)
    role = f" {quoted(settings.user)}" if settings.user else ""
    return one_line(
        f"Run as the owner of {tables}, with CREATE on the database (for the publication) and on schema {schema} "
        f"(for {beats} and its function). Debezium's role{role} needs LOGIN, REPLICATION, USAGE on schema "
        f"{schema}, SELECT on {tables}, and SELECT and UPDATE on {beats}."
    )


def _heartbeat_rows(view: View, settings: ConnectorSettings) -> list[str]:
    """Rows for another partition count stay: together they cover both, while two topics stand side by side."""
    beats = _qualified(settings, settings.heartbeat_table)
    keys = beat_keys(settings.partitions, settings.key_form, view.root.key)
    rows = ", ".join(f"({literal(k)}, {p})" for p, k in enumerate(keys))
    return [
        f"CREATE TABLE IF NOT EXISTS {beats} "
        f"(user_id text PRIMARY KEY, shard int NOT NULL, beat_at timestamptz, truncated text, {FINGERPRINT} text)",
        added_column(beats, FINGERPRINT, "text"),
        # In every beat it shows in which unit the log has its times.
        added_column(beats, TIME_PROBE, "timestamp(3) NOT NULL DEFAULT '2000-01-01'"),
        f"INSERT INTO {beats} (user_id, shard) VALUES {rows} ON CONFLICT (user_id) DO NOTHING",
    ]


def _truncate_triggers(view: View, settings: ConnectorSettings) -> list[str]:
    """TRUNCATE is one event on one partition; these put it into every partition, in the same transaction.

    The names gathered so far live in a transaction-local setting and not in the row: a mark of an earlier
    transaction that no beat has cleared yet must not be repeated, for that table may hold rows again. For the
    same reason a name is repeated within its transaction only while its table is still empty:
    `TRUNCATE a; INSERT INTO a …; TRUNCATE b` must not wipe the new rows of a.
    SECURITY DEFINER, because who may truncate need not be allowed to write heartbeats. The rows are locked in
    one order first, so that two truncating transactions wait for each other instead of deadlocking.
    """
    function = _qualified(settings, _truncate_function(settings))
    trigger = quoted(trigger_name(settings.heartbeat_table))
    body = truncate_body(view, settings)
    return [
        f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER "
        f"SET search_path = pg_catalog, pg_temp AS {dollar_quoted(body)}",
        *(
            f"CREATE OR REPLACE TRIGGER {trigger} AFTER TRUNCATE ON {_qualified(settings, table.name)} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION {function}()"
            for table in view.tables
        ),
    ]


def _truncate_function(settings: ConnectorSettings) -> str:
    return f"{settings.heartbeat_table}_truncated"


def truncate_body(view: View, settings: ConnectorSettings) -> str:
    """What the truncate trigger's function does, in PL/pgSQL."""
    beats = _qualified(settings, settings.heartbeat_table)
    known = ", ".join(literal(table.name) for table in view.tables)
    gathered = literal(setting_name(settings.heartbeat_table))
    return f"""
DECLARE
    earlier text;
    filled boolean;
    names text := '';
BEGIN
    FOREACH earlier IN ARRAY string_to_array(coalesce(current_setting({gathered}, true), ''), ',') LOOP
        IF earlier IN ({known}) AND earlier <> TG_TABLE_NAME THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I)', TG_TABLE_SCHEMA, earlier) INTO filled;
            IF NOT filled THEN
                names := names || earlier || ',';
            END IF;
        END IF;
    END LOOP;
    names := names || TG_TABLE_NAME;
    PERFORM set_config({gathered}, names, true);
    PERFORM 1 FROM {beats} ORDER BY user_id FOR UPDATE;
    UPDATE {beats} SET truncated = names;
    RETURN NULL;
END
"""


def _owners(view: View, settings: ConnectorSettings) -> Iterator[tuple[str, str]]:
    """Each captured table with the column that holds the user id; the heartbeat table comes last."""
    names = {t.name for t in view.tables}
    for table, owner in [(t.name, t.owner) for t in view.tables] + [(settings.heartbeat_table, KEY_FIELD)]:
        if "," in table and not names.isdisjoint(table.split(",")):
            raise ConfigurationError(
                f"the table name {table!r} holds another table's between commas, which separate names where a "
                "truncate is reported",
                "rename the table at the source",
            )
        # A rename is no regular expression, so nothing in it can be escaped; blanks at the ends are cut off.
        if "," in owner or ":" in owner or owner != owner.strip():
            raise ConfigurationError(
                f"the column name {owner!r} of table {table!r} cannot stand in Kafka Connect's list of renames",
                "rename the column at the source: there, , and : separate names, and blanks at the ends are lost",
            )
        yield table, owner


def table_topics(view: View, settings: ConnectorSettings) -> frozenset[str]:
    """The topics that Debezium would write the tables to if no transform routed them into one."""
    return frozenset(
        ".".join(map(_topic_part, (settings.topic_prefix, settings.schema, table)))
        for table, _ in _owners(view, settings)
    )


def _topic_part(name: str) -> str:
    """A name as Debezium writes it into a topic: what Kafka does not allow becomes an underscore."""
    return re.sub(r"[^a-zA-Z0-9._-]", "_", name)


def _qualified(settings: ConnectorSettings, table: str) -> str:
    return qualified(settings.schema, table)
