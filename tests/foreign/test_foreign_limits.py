"""What only a bad day shows: rows larger than Kafka's megabyte, and a synchronous standby that stalls."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from kycache.model.connector import MESSAGE_BYTES_MAX
from support.pipeline.foreign import deployed
from support.pipeline.stack import Pipeline
from support.waiting import wait_until

SCHEMA = """
CREATE TABLE files (id int PRIMARY KEY, content text, made timestamptz NOT NULL);
INSERT INTO files VALUES (1, repeat('a', 600000), '2024-01-01Z'), (2, repeat('b', 9000000), '2024-01-02Z');
"""

VIEW = """
name = "files"
[root]
table = "files"
key = "id"
[root.columns]
id = { name = "id", type = "int" }
content = { name = "content", type = "text" }
made = { name = "made", type = "timestamptz" }
[list]
order = "made"
fields = ["id"]
"""


def test_rows_above_a_megabyte(apache_stack: Pipeline, tmp_path: Path) -> None:
    """An update carries the row twice: 1.2 MB, and 18 MB."""
    with deployed(apache_stack, tmp_path, "files", SCHEMA, VIEW) as tables:
        tables.assert_equal()
        tables.sql("UPDATE files SET content = content || 'x'")
        tables.sql("INSERT INTO files VALUES (3, repeat('c', 600000), now())")
        tables.sql("UPDATE files SET content = repeat('d', 600000) WHERE id = 3")
        tables.assert_equal()
        assert topic_setting(apache_stack, tables.topic, "max.message.bytes") == str(MESSAGE_BYTES_MAX)
        assert tables.findings() == []


def topic_setting(pipeline: Pipeline, topic: str, name: str) -> str:
    admin = KafkaAdminClient(bootstrap_servers=pipeline.bootstrap)
    try:
        found = admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic, {name: None})])
    finally:
        admin.close()
    return str(found["topic"][topic][name]["value"])


def test_a_synchronous_standby_that_stalls(apache_stack: Pipeline, tmp_path: Path) -> None:
    """Everyone's commits wait for it, and the view goes on: the beat waits for nobody."""
    with deployed(apache_stack, tmp_path, "standby", SCHEMA.partition("INSERT")[0], VIEW) as tables:
        with stalled_standby(apache_stack), psycopg.connect(tables.dsn, autocommit=True) as db:
            db.execute("SET synchronous_commit = local")  # so that the test does not wait
            assert_commits_wait(tables.dsn, db)
            db.execute("INSERT INTO files VALUES (1, 'written meanwhile', now())")
            tables.assert_equal()
            assert tables.findings() == []
        tables.assert_equal()


@contextmanager
def stalled_standby(pipeline: Pipeline) -> Iterator[None]:
    """A standby that commits are to wait for, and that never answers."""
    with psycopg.connect(pipeline.dsn, autocommit=True) as db:
        db.execute("SET synchronous_commit = local")
        set_standby(db, "nobody")
        try:
            yield
        finally:
            set_standby(db, "")


def assert_commits_wait(dsn: str, db: "psycopg.Connection[Any]") -> None:
    """An ordinary commit hangs until it is cancelled."""
    with psycopg.connect(dsn, autocommit=True) as waiting:
        pid = waiting.info.backend_pid
        waiting.pgconn.send_query(b"INSERT INTO files VALUES (2, 'waits', now())")
        query = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'"
        wait_until(lambda: db.execute(query, [pid]).fetchone() is not None, "the commit waits")
        db.execute("SELECT pg_cancel_backend(%s)", [pid])
        while waiting.pgconn.get_result() is not None:
            pass


def set_standby(db: "psycopg.Connection[Any]", name: str) -> None:
    db.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'".encode())
    db.execute("SELECT pg_reload_conf()")
