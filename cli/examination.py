"""What `kycache doctor` looks at: the broker, the source and Kafka Connect, as plain facts. Decides nothing."""

from typing import Any

import psycopg
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaConfigurationError, KafkaError
from psycopg import sql

from kycache.ingest.settings import KafkaSettings
from kycache.model.connector import ConnectorSettings
from kycache.model.errors import ConfigurationError, Unreachable
from kycache.model.view import View

from .connect import KafkaConnect
from .findings import ConnectorFacts, PublicationFacts, SourceFacts, TableFacts, TopicFacts

BROKER_WAIT_MS = 5_000
"""A broker that is up answers in milliseconds; a name that does not resolve should not be waited for long."""

SOURCE_WAIT_S = 5

HEARTBEAT_ROWS_MAX = 100_000
"""More rows than any topic has partitions: the table is another one that happens to bear the name."""

_TABLES = """
SELECT c.relname, c.relreplident,
       ARRAY(SELECT a.attname FROM pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
       ARRAY(SELECT a.attname FROM pg_index i
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
             WHERE i.indrelid = c.oid AND i.indisreplident),
       -- 32: for truncate; 1: for each row; O and A: enabled, also for a session that is no replica
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'kycache_truncated'
               AND t.tgtype & 32 <> 0 AND t.tgtype & 1 = 0 AND t.tgenabled IN ('O', 'A'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p')
"""

_PUBLICATION = """
SELECT pubinsert, pubupdate, pubdelete, pubtruncate,
       ARRAY(SELECT t.tablename FROM pg_publication_tables t WHERE t.pubname = p.pubname AND t.schemaname = %s)
FROM pg_publication p WHERE p.pubname = %s
"""


def look_at_topic(settings: KafkaSettings) -> TopicFacts:
    """The topic, as the broker describes it.

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
            return TopicFacts(
                len(found["partitions"]), str(found.get("topic_id") or ""), _cleanup_policy(admin, settings.topic)
            )
        finally:
            admin.close()
    except KafkaConfigurationError as error:
        raise ConfigurationError(f"kafka-python refuses the settings: {error}", "mend `[kafka]`") from None
    except (KafkaError, OSError, ValueError) as error:
        raise Unreachable(
            f"no Kafka broker answers at {settings.bootstrap}: {type(error).__name__}",
            "check `[kafka] bootstrap` and that the broker runs",
        ) from None


def _cleanup_policy(admin: KafkaAdminClient, topic: str) -> str:
    try:
        configs = admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, {"cleanup.policy": None})], config_filter="all"
        )
    except (KafkaError, OSError):
        return ""  # brokers that are not Apache's need not answer this
    entry = configs.get("topic", {}).get(topic, {}).get("cleanup.policy", {})
    return str(entry.get("value") or "")


def look_at_source(dsn: str, view: View, connector: ConnectorSettings) -> SourceFacts:
    """The source database.

    Raises:
        Unreachable: it does not answer, or does not let this role in.
        ConfigurationError: the role may not read what must be looked at.
    """
    names = [table.name for table in view.tables]
    try:
        with psycopg.connect(dsn, connect_timeout=SOURCE_WAIT_S, autocommit=True) as database:
            database.execute(sql.SQL("SET statement_timeout = {}").format(SOURCE_WAIT_S * 1000))
            settings = database.execute("SELECT current_setting('wal_level'), pg_is_in_recovery()").fetchone()
            tables = database.execute(_TABLES, [connector.schema, names]).fetchall()
            publication = database.execute(_PUBLICATION, [connector.schema, connector.publication]).fetchone()
            beats = _heartbeat_rows(database, connector)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the role of `[source] dsn` may not look: {error.diag.message_primary}", "grant it SELECT there"
        ) from None
    except psycopg.Error as error:
        raise Unreachable(
            f"the source does not answer: {str(error).strip() or type(error).__name__}",
            "check `[source] dsn` and that PostgreSQL runs",
        ) from None
    assert settings is not None
    return SourceFacts(
        wal_level=settings[0],
        in_recovery=settings[1],
        tables={
            name: TableFacts(identity, frozenset(columns), frozenset(indexed), trigger)
            for name, identity, columns, indexed, trigger in tables
        },
        publication=None if publication is None else _publication(publication),
        heartbeat_rows=beats,
    )


def _publication(row: tuple[Any, ...]) -> PublicationFacts:
    words = ("insert", "update", "delete", "truncate")
    published = frozenset(word for word, on in zip(words, row, strict=False) if on)
    return PublicationFacts(frozenset(row[4]), published)


def _heartbeat_rows(database: "psycopg.Connection[Any]", connector: ConnectorSettings) -> dict[str, int] | None:
    table = sql.Identifier(connector.schema, connector.heartbeat_table)
    rows = sql.SQL("SELECT user_id, shard FROM {} LIMIT {}").format(table, sql.Literal(HEARTBEAT_ROWS_MAX))
    try:
        return dict(database.execute(rows).fetchall())
    except psycopg.errors.UndefinedTable:
        return None


def look_at_connector(url: str, name: str) -> ConnectorFacts:
    """The connector, as Kafka Connect's REST interface tells.

    Raises:
        Unreachable: Kafka Connect does not answer.
    """
    connect = KafkaConnect(url, name)
    status, config = connect.status(), connect.config()
    if status is None or config is None:
        return ConnectorFacts("")
    return ConnectorFacts(
        state=str(status["connector"]["state"]),
        failed_tasks=tuple(int(task["id"]) for task in status["tasks"] if task["state"] == "FAILED"),
        config={key: str(value) for key, value in config.items()},
    )
