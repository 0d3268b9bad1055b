"""The fingerprint on a real PostgreSQL, in the beat's own statement, under a role that may no more than beat."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from kycache.model.connector import ConnectorSettings, beat_query, connector_config, source_sql
from kycache.model.definition import default_view, parse_view
from kycache.model.fingerprint import FINGERPRINT, scope_of
from kycache.model.scalars.times import TIME_PROBE
from kycache.model.view import View
from support.pipeline.cluster import Cluster

ROLE = "debezium"
SETTINGS = ConnectorSettings(host="db", port=5432, user=ROLE, password="", dbname="kyc")

TOML = """
name = "clients"
[root]
table = "Client"
key = "id"
[root.columns]
id = { name = "id", type = "int" }
phone = { name = "phone", type = "text" }
tier = { name = "tier", type = "enum(LOW,HIGH)" }
made = { name = "made", type = "timestamp" }
[[children]]
table = "purse"
key = "no"
owner = "client_id"
name = "purses"
[children.columns]
no = { name = "no", type = "int" }
kind = { name = "kind", type = "text" }
[list]
order = "made"
fields = ["id"]
"""
VIEW = parse_view(TOML, "clients")

TABLES = """
CREATE TYPE tier AS ENUM ('LOW', 'HIGH');
CREATE TYPE kind AS ENUM ('CASH', 'CARD');
CREATE DOMAIN any_kind AS kind;
CREATE DOMAIN purse_kind AS any_kind;
CREATE TABLE "Client" (id bigint PRIMARY KEY, phone varchar(20), tier tier, made timestamp, note text);
CREATE TABLE purse (no bigint, client_id bigint NOT NULL, kind purse_kind, born int NOT NULL,
    PRIMARY KEY (no, born)) PARTITION BY RANGE (born);
CREATE TABLE purse_old PARTITION OF purse FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (born);
CREATE TABLE purse_oldest PARTITION OF purse_old FOR VALUES FROM (0) TO (5);
CREATE TABLE purse_new PARTITION OF purse FOR VALUES FROM (10) TO (20);
CREATE TABLE apart (LIKE purse INCLUDING ALL);
CREATE TABLE other (LIKE "Client" INCLUDING ALL);
INSERT INTO "Client" VALUES (1, '7', 'LOW', now());
INSERT INTO purse VALUES (1, 1, 'CASH', 1);
"""

CHANGES = {
    "rename and update": 'ALTER TABLE "Client" RENAME phone TO tel; UPDATE "Client" SET tel = \'8\'',
    "drop a column": 'ALTER TABLE "Client" DROP phone',
    "drop a column and make it again": 'ALTER TABLE "Client" DROP phone, ADD phone varchar(20)',
    "swap two columns": 'ALTER TABLE "Client" RENAME phone TO x; ALTER TABLE "Client" RENAME note TO phone',
    "type USING": 'ALTER TABLE "Client" ALTER phone TYPE varchar(20) USING reverse(phone)',
    "another type": 'ALTER TABLE "Client" ALTER phone TYPE text',
    "another precision": 'ALTER TABLE "Client" ALTER made TYPE timestamp(3)',
    "of a partitioned table": "ALTER TABLE purse ALTER kind TYPE text USING lower(kind::text)",
    "the owner's column": "ALTER TABLE purse RENAME client_id TO owner",
    "drop a table and make it again": (
        'DROP TABLE "Client"; CREATE TABLE "Client" (LIKE other INCLUDING ALL); GRANT SELECT ON "Client" TO PUBLIC'
    ),
    "swap tables": 'ALTER TABLE "Client" RENAME TO former; ALTER TABLE other RENAME TO "Client"',
    "move a table away": 'CREATE SCHEMA elsewhere; ALTER TABLE "Client" SET SCHEMA elsewhere',
    "rename a label": "ALTER TYPE tier RENAME VALUE 'LOW' TO 'BASIC'",
    "rename a label of a domain's type that is declared as text": "ALTER TYPE kind RENAME VALUE 'CASH' TO 'COIN'",
    "attach a partition": "ALTER TABLE purse ATTACH PARTITION apart FOR VALUES FROM (20) TO (30)",
    "detach a partition": "ALTER TABLE purse DETACH PARTITION purse_new",
    "drop a partition's partition": "DROP TABLE purse_oldest",
    "attach the table to another": (
        'CREATE TABLE parent (LIKE "Client") PARTITION BY RANGE (id); '
        'ALTER TABLE parent ATTACH PARTITION "Client" DEFAULT'
    ),
    "let a table inherit": 'CREATE TABLE heir () INHERITS ("Client")',
    "replica identity": 'ALTER TABLE "Client" REPLICA IDENTITY DEFAULT',
    "a partition's replica identity": "ALTER TABLE purse_oldest REPLICA IDENTITY NOTHING",
    "unlogged": 'ALTER PUBLICATION kycache DROP TABLE "Client"; ALTER TABLE "Client" SET UNLOGGED',
    "out of the publication": 'ALTER PUBLICATION kycache DROP TABLE "Client"',
    "out of the publication and back": (
        'ALTER PUBLICATION kycache DROP TABLE "Client"; ALTER PUBLICATION kycache ADD TABLE "Client"'
    ),
    "a row filter": 'ALTER PUBLICATION kycache SET TABLE purse, kycache_heartbeat, "Client" WHERE (id > 1)',
    "a column list": 'ALTER PUBLICATION kycache SET TABLE purse, kycache_heartbeat, "Client" (id, made)',
    "the schema's membership": "ALTER PUBLICATION kycache ADD TABLES IN SCHEMA public",
    "what is published": "ALTER PUBLICATION kycache SET (publish = 'insert')",
    "how partitions are published": "ALTER PUBLICATION kycache SET (publish_via_partition_root = false)",
    "drop the publication": "DROP PUBLICATION kycache",
    # False alarms: only `xmin` tells of `USING` with the same type.
    "a default": "ALTER TABLE \"Client\" ALTER phone SET DEFAULT '0'",
    "not null": 'ALTER TABLE "Client" ALTER phone SET NOT NULL',
    "a statistics target": 'ALTER TABLE "Client" ALTER phone SET STATISTICS 500',
    "a column's privilege": 'GRANT SELECT (phone) ON "Client" TO PUBLIC',
}

NO_CHANGES = {
    "rows": 'INSERT INTO "Client" VALUES (2); UPDATE "Client" SET phone = \'9\'; DELETE FROM purse',
    "truncate": 'TRUNCATE "Client", purse',
    "truncate of a partition": "TRUNCATE purse_oldest",
    "an index": 'CREATE INDEX ON "Client" (phone); CREATE INDEX ON purse (kind); REINDEX TABLE "Client"',
    "analyze": "ANALYZE",
    "vacuum full": (
        'VACUUM FULL "Client"; VACUUM FULL purse_new; VACUUM (FREEZE) pg_attribute; VACUUM FULL pg_attribute'
    ),
    "cluster": 'CLUSTER "Client" USING "Client_pkey"',
    "comments": "COMMENT ON TABLE \"Client\" IS 'c'; COMMENT ON COLUMN \"Client\".phone IS 'p'",
    "undeclared columns": (
        'ALTER TABLE "Client" ADD more text DEFAULT \'x\'; ALTER TABLE "Client" ALTER note TYPE varchar(9) '
        'USING reverse(note); ALTER TABLE "Client" RENAME note TO remark; ALTER TABLE "Client" DROP more'
    ),
    "temporary tables": (
        'CREATE TEMP TABLE "Client" (id int); CREATE TEMP TABLE heir () INHERITS (public."Client"); '
        "DROP TABLE heir"
    ),
    "a temporary heir of a session": 'CREATE TEMP TABLE heir () INHERITS (public."Client")',
    "privileges": 'GRANT ALL ON "Client", purse TO PUBLIC; ALTER TABLE "Client" OWNER TO debezium',
    "row level security": (
        'ALTER TABLE "Client" ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON "Client" USING (true)'
    ),
    "triggers and constraints": 'ALTER TABLE "Client" ADD CHECK (id > 0), DISABLE TRIGGER ALL',
    "one more label that the view does not know": "ALTER TYPE tier ADD VALUE 'TOP'",
    "another table": "CREATE TABLE more (id int); ALTER TABLE other ADD c int; DROP TABLE apart",
    "another table in the publication": "ALTER PUBLICATION kycache ADD TABLE other",
    "the publication's owner": "ALTER PUBLICATION kycache OWNER TO admin",
    "the printed SQL once more": "\n;".join(source_sql(VIEW, SETTINGS)),
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("postgres"))
    running.start()
    try:
        running.run(
            f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD '{running.settings.password}'",
            "CREATE ROLE admin SUPERUSER",
        )
        yield running
    finally:
        running.server.stop()
        running.server.wait_stopped()


class Source:
    """A fresh schema, as the printed SQL leaves it, and a connection as Debezium's role."""

    def __init__(self, cluster: Cluster, beats: "psycopg.Connection[Any]", view: View = VIEW) -> None:
        self.cluster = cluster
        self.view = view
        self._beats = beats

    def beat(self, settings: ConnectorSettings = SETTINGS) -> str:
        """One beat; what every row says then."""
        cursor = self._beats.execute(beat_query(self.view, settings).encode())
        assert cursor.rowcount == settings.partitions
        rows = self._beats.execute("SELECT DISTINCT fingerprint FROM kycache_heartbeat").fetchall()
        ((fingerprint,),) = rows
        assert isinstance(fingerprint, str)
        return fingerprint


@pytest.fixture
def source(cluster: Cluster) -> Iterator[Source]:
    cluster.run(
        "DROP SCHEMA IF EXISTS elsewhere CASCADE; DROP SCHEMA public CASCADE; CREATE SCHEMA public; "
        "DROP PUBLICATION IF EXISTS kycache",
        f"GRANT USAGE ON SCHEMA public TO {ROLE}",
        TABLES,
        *source_sql(VIEW, SETTINGS),
        f"GRANT SELECT, UPDATE ON kycache_heartbeat TO {ROLE}",
    )
    with psycopg.connect(role_dsn(cluster), autocommit=True) as beats:
        yield Source(cluster, beats)


def role_dsn(cluster: Cluster) -> str:
    return cluster.settings.dsn.replace("//postgres:", f"//{ROLE}:")


@pytest.mark.parametrize("what", CHANGES)
def test_what_may_change_rows_without_a_row_event_changes_it(source: Source, what: str) -> None:
    before = source.beat()
    assert source.beat() == before
    source.cluster.run(CHANGES[what])
    assert source.beat() != before


@pytest.mark.parametrize("what", NO_CHANGES)
def test_what_changes_no_row_so_leaves_it(source: Source, what: str) -> None:
    before = source.beat()
    with psycopg.connect(source.cluster.settings.dsn, autocommit=True) as db:  # temporary tables live as long
        for statement in NO_CHANGES[what].split("; ") if "VACUUM" in NO_CHANGES[what] else [NO_CHANGES[what]]:
            db.execute(statement.encode())
        assert source.beat() == before


def test_a_detach_counts_from_its_first_transaction_on(source: Source) -> None:
    """CONCURRENTLY hides the partition's rows in one transaction, and lets go of it in another."""
    before = source.beat()
    with psycopg.connect(source.cluster.settings.dsn) as reading:
        reading.execute("SELECT FROM purse")
        with psycopg.connect(source.cluster.settings.dsn, autocommit=True) as db:
            db.execute("SET lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                db.execute("ALTER TABLE purse DETACH PARTITION purse_new CONCURRENTLY")
        assert source.beat() != before


@pytest.mark.parametrize(
    "open_ddl",
    [
        'ALTER TABLE "Client" ALTER phone TYPE text',
        "ALTER TABLE purse ATTACH PARTITION apart FOR VALUES FROM (20) TO (30)",
        "ALTER TYPE tier RENAME VALUE 'LOW' TO 'BASIC'",
        'ALTER PUBLICATION kycache DROP TABLE "Client"',
        'LOCK TABLE "Client", purse, purse_new, purse_oldest',
    ],
)
def test_no_open_ddl_stops_it(source: Source, open_ddl: str) -> None:
    before = source.beat()
    source._beats.execute("SET lock_timeout = '1s'")
    with psycopg.connect(source.cluster.settings.dsn) as db:
        db.execute(open_ddl.encode())
        assert source.beat() == before  # not committed: not true yet
        db.commit()
    assert (source.beat() != before) == (not open_ddl.startswith("LOCK"))


def test_a_rolled_back_change_is_none(source: Source) -> None:
    before = source.beat()
    with psycopg.connect(source.cluster.settings.dsn) as db:
        db.execute('ALTER TABLE "Client" RENAME phone TO tel')
        db.rollback()
    assert source.beat() == before


def test_a_snapshot_reads_it_as_of_itself(source: Source) -> None:
    """What the connector has a snapshot ask of the heartbeat table, in a transaction begun before the DDL."""
    before = source.beat()
    config = connector_config(VIEW, SETTINGS)
    name = config["snapshot.select.statement.overrides"]
    assert name == "public.kycache_heartbeat"
    select = config[f"snapshot.select.statement.overrides.{name}"]
    with psycopg.connect(source.cluster.settings.dsn) as db:
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        rows = db.execute(select.encode()).fetchall()
        assert {row[-1] for row in rows} == {before}
        source.cluster.run('ALTER TABLE "Client" RENAME phone TO tel')
        assert db.execute(select.encode()).fetchall() == rows
        db.commit()
        cursor = db.execute(select.encode())
        assert [column.name for column in cursor.description or ()] == [
            "user_id",
            "shard",
            "beat_at",
            "truncated",
            TIME_PROBE,
            FINGERPRINT,
        ]
        assert {row[-1] for row in cursor} == {source.beat()} != {before}


def test_a_heartbeat_table_of_before_gets_the_column(source: Source) -> None:
    source.cluster.run("ALTER TABLE kycache_heartbeat DROP COLUMN fingerprint", *source_sql(VIEW, SETTINGS))
    assert source.beat().startswith(scope_of(VIEW))


def test_the_sql_takes_no_lock_where_the_column_is_there(source: Source) -> None:
    """Beats would queue up behind it, for as long as a truncating transaction stays open."""
    with psycopg.connect(source.cluster.settings.dsn) as truncating:
        truncating.execute("TRUNCATE purse")
        with psycopg.connect(source.cluster.settings.dsn, autocommit=True) as db:
            db.execute("SET lock_timeout = '1s'")
            for statement in source_sql(VIEW, SETTINGS):
                if "kycache_heartbeat" in statement and "COLUMN" in statement:
                    db.execute(statement.encode())


def test_another_definition_has_another_scope() -> None:
    assert scope_of(VIEW) == scope_of(parse_view(TOML.replace('name = "phone"', 'name = "tel"'), "other"))
    for old, new in (("[root.columns]", '[root.columns]\nnote = { name = "note", type = "text" }'), ("LOW,", "")):
        assert scope_of(VIEW) != scope_of(parse_view(TOML.replace(old, new), "other"))
    assert scope_of(VIEW) != scope_of(default_view())


def test_a_table_that_is_not_there_fails_no_beat(source: Source) -> None:
    before = source.beat()
    source.cluster.run('DROP TABLE "Client", purse CASCADE; DROP PUBLICATION kycache')
    assert source.beat() != before


def test_a_view_without_enums_beats_too(source: Source) -> None:
    view = parse_view(TOML.replace("enum(LOW,HIGH)", "text"), "clients")
    assert Source(source.cluster, source._beats, view).beat().startswith(scope_of(view))


def test_names_that_need_quotes(source: Source) -> None:
    source.cluster.run('CREATE SCHEMA "o\'dd ""\\\\"', 'DROP SCHEMA "o\'dd ""\\\\"')
    odd = replace(SETTINGS, publication='it\'s \\ "mine"')
    assert source.beat(odd) != source.beat()


def test_it_costs_little(source: Source) -> None:
    """0.4 ms were measured, planning included; the limit leaves room for a busy machine."""
    source.beat()
    config = connector_config(default_view(), SETTINGS)
    query = config["heartbeat.action.query"]
    assert len(json.dumps(query)) < 8_000
    took = []
    for _ in range(50):
        began = time.perf_counter()
        source._beats.execute(query.encode())
        took.append(time.perf_counter() - began)
    assert sorted(took)[len(took) // 2] < 0.05
