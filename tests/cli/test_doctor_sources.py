"""`kycache doctor` on PostgreSQL clusters of its own: what cannot be done to one that others use too.

A slot has a real reader (`pg_recvlogical`), so that a sound source is found sound.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from kycache.cli.doctor.key_rules import judge_same_user
from kycache.cli.doctor.look_at_source import look_at_source
from kycache.cli.doctor.table_rules import judge_table
from kycache.cli.doctor.topic_rules import WARNING, Finding
from kycache.demo.servers import postgres
from kycache.demo.servers.children import Child, Program, stopping
from kycache.demo.servers.ports import free_ports
from support.pipeline.cluster import CONNECTOR, Cluster
from support.tables.foreign import view_of
from support.waiting import wait_until

NOTE = 'note = { name = "note", type = "text" }'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    with stopping(cluster.server):
        cluster.start()
        cluster.make_tables()
        yield cluster


@pytest.fixture
def cluster(running: Cluster, no_settings: Path) -> Cluster:
    """The cluster, without this machine's settings."""
    del no_settings
    return running


def problem(found: list[Finding], check: str) -> str:
    """The problem of the one finding of a check."""
    (one,) = [finding for finding in found if finding.check == check]
    return one.problem


def test_a_sound_source_and_one_without_heartbeats(cluster: Cluster) -> None:
    with cluster.slot_is_read():
        assert cluster.findings() == []
        cluster.run("DROP TABLE kycache_heartbeat")
        found = cluster.findings()
        assert {finding.check for finding in found} == {"heartbeat", "publication"}
        assert problem(found, "heartbeat").startswith("table kycache_heartbeat does not exist")
        assert problem(found, "publication") == "publication 'kycache' does not cover kycache_heartbeat"
        cluster.prepare_source()
        assert cluster.findings() == []


LOOSE = (
    "CREATE COLLATION loose (provider = libc, locale = 'C'); SET allow_system_table_mods = on;"
    "UPDATE pg_collation SET collisdeterministic = false WHERE collname = 'loose'"
)
"""As `deterministic = false` makes it, which takes ICU, and this PostgreSQL is built without."""

OTHERS = "users, kyc_records, kycache_heartbeat"

BROKEN: list[tuple[str, str, str, str]] = [
    # what breaks it, what the printed SQL does not mend, the check, the problem
    (f"ALTER PUBLICATION kycache SET TABLE {OTHERS}", "", "publication", "does not cover accounts"),
    (
        f"ALTER PUBLICATION kycache SET TABLE {OTHERS}, accounts WHERE (status = 'OPEN')",
        "",
        "publication",
        "has a row filter on accounts",
    ),
    (
        f"ALTER PUBLICATION kycache SET TABLE {OTHERS}, accounts (account_id, user_id, balance)",
        "",
        "publication",
        "leaves out account_no, account_type, opened_at, status of table accounts: under REPLICA IDENTITY FULL",
    ),
    (
        "ALTER TABLE accounts ADD COLUMN note text;"
        "ALTER PUBLICATION kycache SET TABLE users, kyc_records, kycache_heartbeat, accounts"
        " (account_id, user_id, account_type, account_no, balance, status, opened_at)",
        "ALTER TABLE accounts DROP COLUMN note",
        "publication",
        "leaves out note of table accounts: under REPLICA IDENTITY FULL PostgreSQL refuses every UPDATE",
    ),
    (
        "ALTER PUBLICATION kycache SET (publish = 'insert, update, delete')",
        "",
        "publication",
        "does not publish truncate",
    ),
    ("ALTER TABLE accounts REPLICA IDENTITY DEFAULT", "", "replica identity", "public.accounts has no REPLICA"),
    ("DROP TRIGGER kycache_truncated ON users", "", "truncate trigger", "public.users has no enabled trigger"),
    (
        "ALTER TABLE users DISABLE TRIGGER kycache_truncated",
        "",
        "truncate trigger",
        "public.users has no enabled trigger",
    ),
    (
        "CREATE OR REPLACE FUNCTION kycache_heartbeat_truncated() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN RETURN NULL; END'",
        "",
        "truncate trigger",
        "calls another function",
    ),
    ("DELETE FROM kycache_heartbeat WHERE shard = 2", "", "heartbeat", "has no row for partition 2 of 4"),
    (
        "ALTER TABLE kycache_heartbeat DROP COLUMN fingerprint",
        "",
        "fingerprint",
        "table kycache_heartbeat has no column fingerprint",
    ),
    (
        "UPDATE kycache_heartbeat SET beat_at = now()",
        "UPDATE kycache_heartbeat SET beat_at = NULL",
        "fingerprint",
        "no beat writes column fingerprint of table kycache_heartbeat",
    ),
    (
        "UPDATE kycache_heartbeat SET fingerprint = '00000000:1'",
        "UPDATE kycache_heartbeat SET fingerprint = NULL",
        "fingerprint",
        "is of other tables or columns than the view's",
    ),
    (
        "ALTER TABLE accounts ALTER COLUMN opened_at TYPE timestamptz",
        "ALTER TABLE accounts ALTER COLUMN opened_at TYPE timestamp",
        "types",
        "column opened_at of table public.accounts is a timestamptz, the view declares timestamp",
    ),
    (
        "ALTER TABLE accounts RENAME COLUMN balance TO credit",
        "ALTER TABLE accounts RENAME COLUMN credit TO balance",
        "tables",
        "public.accounts has no column balance",
    ),
    (
        "ALTER TABLE accounts ADD COLUMN twice numeric GENERATED ALWAYS AS (balance * 2) VIRTUAL",
        "ALTER TABLE accounts DROP COLUMN twice",
        "generated columns",
        "virtual generated columns (twice)",
    ),
    (
        "ALTER TABLE accounts ADD COLUMN twice numeric GENERATED ALWAYS AS (balance * 2) STORED;"
        "ALTER PUBLICATION kycache SET (publish_generated_columns = none)",
        "ALTER TABLE accounts DROP COLUMN twice",
        "generated columns",
        "does not publish the generated columns of table public.accounts (twice)",
    ),
    *(
        (
            "INSERT INTO users(user_id, first_name, last_name, date_of_birth) "
            f"VALUES (gen_random_uuid(), '', '', '{date}')",
            "DELETE FROM users",
            "dates",
            "column date_of_birth of table public.users has dates before Christ, or from 1582-10-05 to 14",
        )
        for date in ("0001-12-31 BC", "4714-11-24 BC", "1582-10-05", "1582-10-14")
    ),
    (
        "ALTER TABLE kycache_heartbeat DROP COLUMN time_probe",
        "",
        "heartbeat",
        "table kycache_heartbeat has no column time_probe",
    ),
    (
        "CREATE TABLE accounts_of_before () INHERITS (accounts)",
        "DROP TABLE accounts_of_before",
        "tables",
        "tables inherit from public.accounts (accounts_of_before)",
    ),
    (
        "CREATE DOMAIN moment AS timestamptz(0); CREATE DOMAIN birth AS moment;"
        "ALTER TABLE users ALTER COLUMN created_at TYPE birth",
        "ALTER TABLE users ALTER COLUMN created_at TYPE timestamp; DROP DOMAIN birth; DROP DOMAIN moment",
        "types",
        "column created_at of table public.users is a timestamptz, the view declares timestamp",
    ),
    (
        "CREATE DOMAIN named AS text NOT NULL; ALTER TABLE users ALTER COLUMN first_name TYPE named;"
        "CREATE DOMAIN owned AS uuid NOT NULL; ALTER TABLE accounts ALTER COLUMN user_id DROP NOT NULL,"
        "ALTER COLUMN user_id TYPE owned, DROP CONSTRAINT accounts_pkey",  # found for that alone
        "ALTER TABLE users ALTER COLUMN first_name TYPE varchar(255); DROP DOMAIN named;"
        "ALTER TABLE accounts ALTER COLUMN user_id TYPE uuid, ALTER COLUMN user_id SET NOT NULL,"
        "ADD PRIMARY KEY (account_id); DROP DOMAIN owned",
        "keys",
        "no index keeps account_id of table public.accounts unique",
    ),
    (
        "ALTER TABLE accounts ALTER COLUMN balance TYPE numeric(18,2)",
        "ALTER TABLE accounts ALTER COLUMN balance TYPE numeric(18,4)",
        "types",
        "column balance of table public.accounts is a numeric of scale 2, the view declares numeric(18,4)",
    ),
    (
        "ALTER TABLE users DROP COLUMN phone, ADD COLUMN phone time",
        "ALTER TABLE users DROP COLUMN phone, ADD COLUMN phone varchar(20)",
        "types",
        "column phone of table public.users is a time, the view declares text",
    ),
    (
        "ALTER TABLE accounts ALTER COLUMN user_id DROP NOT NULL",
        "ALTER TABLE accounts ALTER COLUMN user_id SET NOT NULL",
        "keys",
        "column user_id of table public.accounts may be NULL",
    ),
    (
        "ALTER TABLE accounts DROP CONSTRAINT accounts_pkey;"
        "CREATE UNIQUE INDEX odd ON accounts (account_id, balance);"
        "CREATE UNIQUE INDEX open ON accounts (account_id) WHERE status = 'OPEN'",
        "DROP INDEX odd; DROP INDEX open; ALTER TABLE accounts ADD PRIMARY KEY (account_id)",
        "keys",
        "no index keeps account_id of table public.accounts unique",
    ),
    (
        "ALTER TABLE accounts DROP CONSTRAINT accounts_user_id_fkey, ALTER COLUMN user_id TYPE varchar",
        "ALTER TABLE accounts ALTER COLUMN user_id TYPE uuid USING user_id::uuid,"
        "ADD FOREIGN KEY (user_id) REFERENCES users ON UPDATE CASCADE ON DELETE CASCADE",
        "keys",
        "column user_id of table public.accounts is varchar, and the users' key user_id of table public.users",
    ),
    (
        "CREATE TYPE hollow AS ENUM (); CREATE SCHEMA elsewhere; CREATE TYPE elsewhere.hollow AS ENUM ()",
        "DROP TYPE hollow; DROP TYPE elsewhere.hollow; DROP SCHEMA elsewhere",
        "types",
        "there are enum types without labels (elsewhere.hollow, hollow): Debezium reads all types",
    ),
    (
        f"{LOOSE}; ALTER TABLE users ALTER COLUMN region TYPE text COLLATE loose",
        'ALTER TABLE users ALTER COLUMN region TYPE text COLLATE "default"; DROP COLLATION loose',
        "filters",
        "filter 'region' is by column region of table public.users, a text of a collation that is not",
    ),
    (
        "ALTER TABLE users ALTER COLUMN region TYPE char(9)",
        "ALTER TABLE users ALTER COLUMN region TYPE text",
        "filters",
        "char(9), padded with blanks: a list finds only what is written byte by byte",
    ),
    *[
        (
            f"ALTER TABLE accounts DROP COLUMN status, ADD COLUMN status {kind}",
            "ALTER TABLE accounts DROP COLUMN status, ADD COLUMN status text DEFAULT 'OPEN'",
            "types",
            f"column status of table public.accounts is a {kind}, the view declares text: it would not print as",
        )
        for kind in ("numeric", "timestamptz", "timetz", "money")
    ],
    (
        "ALTER TABLE kycache_heartbeat DROP COLUMN truncated",
        "DROP TABLE kycache_heartbeat",
        "heartbeat",
        "table kycache_heartbeat has no column truncated",
    ),
]


@pytest.mark.parametrize(
    ("broken", "mended", "check", "problem"), BROKEN, ids=[str(n) for n, _ in enumerate(BROKEN)]
)
def test_what_is_broken(cluster: Cluster, broken: str, mended: str, check: str, problem: str) -> None:
    with cluster.slot_is_read():
        cluster.run(broken)
        try:
            found = cluster.findings()
            assert {finding.check for finding in found} == {check}
            assert problem in found[0].problem
        finally:
            cluster.run(mended)
            cluster.prepare_source()
        assert cluster.findings() == []


def test_columns_in_milliseconds(cluster: Cluster) -> None:
    """In a log that is `adaptive`; in microseconds a column's precision says nothing."""
    cluster.run(
        "INSERT INTO users(user_id, first_name, last_name, date_of_birth) "
        "SELECT gen_random_uuid(), '', '', day::date FROM "
        "unnest(ARRAY['0001-01-01', '-infinity', 'infinity', '1582-10-04', '1582-10-15', NULL]) day",
        "CREATE DOMAIN moment AS timestamp(0); CREATE DOMAIN birth AS moment",
    )
    with cluster.slot_is_read():
        for kind, shown in (("timestamp(3)", "timestamp(3)"), ("birth", "timestamp(0)"), ("timestamp(4)", "")):
            cluster.run(f"ALTER TABLE users ALTER COLUMN created_at TYPE {kind}")
            assert cluster.findings() == []
            found = cluster.findings(times="adaptive")
            assert [finding.check for finding in found] == (["types"] if shown else [])
            for finding in found:
                there = f"column created_at of table public.users is a {shown}, the view declares timestamp"
                assert finding.problem.startswith(there)
    cluster.run("ALTER TABLE users ALTER COLUMN created_at TYPE timestamp")
    cluster.run("DROP DOMAIN birth, moment", "DELETE FROM users")


def test_a_publication_of_all_tables(cluster: Cluster) -> None:
    """Somebody's own: it covers the view's tables already, and PostgreSQL lets none be named."""
    cluster.run("DROP PUBLICATION kycache; CREATE PUBLICATION kycache FOR ALL TABLES WITH (publish = 'insert')")
    try:
        with cluster.slot_is_read():
            assert problem(cluster.findings(), "publication").endswith("does not publish update, delete, truncate")
            cluster.prepare_source()
            assert cluster.findings() == []
    finally:
        cluster.run("DROP PUBLICATION kycache")
        cluster.prepare_source()


def test_an_enum_that_grew(cluster: Cluster) -> None:
    change = "ALTER TABLE accounts ALTER COLUMN account_type TYPE {0} USING account_type::text::{0}"
    with cluster.slot_is_read():
        cluster.run("CREATE TYPE grown AS ENUM ('SAVINGS', 'CURRENT', 'WALLET', 'INVESTMENT', 'FROZEN')")
        cluster.run(change.format("grown"))
        try:
            (found,) = cluster.findings()
            assert (found.check, found.severity) == ("types", WARNING)
            assert "may be FROZEN, which the view does not know" in found.problem
        finally:
            cluster.run(change.format("account_type"), "DROP TYPE grown")
        assert cluster.findings() == []


def test_what_debeziums_role_may_not(cluster: Cluster) -> None:
    """Told by who reads the slot. Streaming needs none of these rights, so that nothing else shows it."""
    cluster.run(
        f"CREATE ROLE debezium LOGIN REPLICATION PASSWORD '{cluster.settings.password}'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO debezium",
    )

    def hidden() -> bool:
        return "row level security of table public.users may hide rows" in str(cluster.findings())

    try:
        with cluster.slot_is_read(role="debezium"):
            (beats,) = cluster.findings()
            assert "role 'debezium' lacks UPDATE on table kycache_heartbeat: no beat comes" in beats.problem
            cluster.run(beats.remedy, "REVOKE SELECT ON accounts FROM debezium")
            (unread,) = cluster.findings()
            assert "may not read table public.accounts" in unread.problem
            cluster.run(unread.remedy.partition(", and")[0], "ALTER TABLE users ENABLE ROW LEVEL SECURITY")
            (hiding,) = cluster.findings()  # without a policy: all of them
            cluster.run(hiding.remedy.partition(", or ")[2].partition(";")[0])
            assert cluster.findings() == []
            cluster.run("CREATE POLICY most ON users AS RESTRICTIVE USING (region = 'EMEA')")
            assert hidden()
            cluster.run("ALTER ROLE debezium BYPASSRLS")
            assert cluster.findings() == []
    finally:
        cluster.run("DROP POLICY IF EXISTS kycache ON users", "DROP POLICY IF EXISTS most ON users")
        cluster.run("ALTER TABLE users DISABLE ROW LEVEL SECURITY", "DROP OWNED BY debezium", "DROP ROLE debezium")


def test_a_slot_of_another_database(cluster: Cluster) -> None:
    cluster.run("CREATE DATABASE other")
    cluster.run("CREATE PUBLICATION kycache", database="other")
    with cluster.slot_is_read("other"):
        (found,) = cluster.findings()
        assert found.check == "slot"
        assert "is of plugin pgoutput and database other, not of pgoutput and kyc" in found.problem


def test_a_standby(cluster: Cluster, tmp_path: Path) -> None:
    """A real one that follows; its primary is sound."""
    account = cluster.server.program.account
    [port] = free_ports(1)
    copy = cluster.folder / "standby"
    copy.mkdir(mode=0o700)
    if account is not None:
        os.chown(copy, account.uid, account.gid)
    source = cluster.settings.dsn_of("postgres")
    subprocess.run(
        [str(postgres.binary("pg_basebackup")), "-d", source, "-D", str(copy), "-R", "--checkpoint=fast"],
        check=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
        cwd="/",
    )
    argv = (str(postgres.binary("postgres")), "-D", str(copy), "-p", str(port))
    log = tmp_path / "standby.log"
    standby = Child(Program("standby", argv, log, account=account, stop_signal=cluster.server.program.stop_signal))
    with cluster.slot_is_read(), stopping(standby):
        standby.start()
        wait_until(lambda: _answers(replace(cluster.settings, port=port).dsn), "the standby answers")
        (found,) = cluster.findings(port)
        assert (found.check, found.problem) == ("source", "the source is a standby in recovery")
        assert cluster.findings() == []


def _answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn, connect_timeout=2):
            return True
    except psycopg.OperationalError:
        return False


def test_wal_without_what_logical_decoding_needs(cluster: Cluster) -> None:
    cluster.restart(wal_level="replica")
    try:
        found = cluster.findings()
        assert {finding.check for finding in found} == {"wal_level", "slot"}  # nobody could have made the slot
        assert problem(found, "wal_level") == "wal_level is replica"
    finally:
        cluster.restart(wal_level="logical")
    with cluster.slot_is_read():
        assert cluster.findings() == []


PARTITIONED = """
ALTER TABLE accounts RENAME TO accounts_as_they_were;
CREATE TABLE accounts (LIKE accounts_as_they_were INCLUDING DEFAULTS, PRIMARY KEY (account_id))
    PARTITION BY HASH (account_id);
CREATE TABLE accounts_0 PARTITION OF accounts FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE accounts_1 PARTITION OF accounts FOR VALUES WITH (MODULUS 2, REMAINDER 1);
"""


FORGOTTEN = "ALTER PUBLICATION kycache DROP TABLE {0}; DROP TRIGGER kycache_truncated ON {0}"
"""What the printed SQL asks for where a table has left the view."""


def test_partitioned_tables(cluster: Cluster) -> None:
    cluster.run(PARTITIONED)
    try:
        with pytest.raises(psycopg.errors.RaiseException, match="does not know: accounts_as_they_were"):
            cluster.prepare_source()
        cluster.run(*FORGOTTEN.format("accounts_as_they_were").split(";"))
        cluster.prepare_source()
        with cluster.slot_is_read():
            assert cluster.findings() == []
            cluster.run(*(f"ALTER TABLE accounts_{n} REPLICA IDENTITY DEFAULT" for n in (0, 1)))
            found = cluster.findings()
            assert {finding.check for finding in found} == {"replica identity"}
            assert "(accounts_0, accounts_1)" in problem(found, "replica identity")
            cluster.prepare_source()
            assert cluster.findings() == []
            cluster.run("ALTER PUBLICATION kycache SET (publish_via_partition_root = false)")
            assert [finding.problem for finding in cluster.findings()] == [
                "table accounts is partitioned, and publication 'kycache' names each partition by itself"
            ]
            cluster.prepare_source()
            assert cluster.findings() == []
    finally:
        cluster.run("DROP TABLE accounts CASCADE", "ALTER TABLE accounts_as_they_were RENAME TO accounts")
        cluster.prepare_source()


def test_ids_are_one_users_as_postgres_says_or_doctor_says_why_not(cluster: Cluster) -> None:
    """Equal for PostgreSQL, and two for whoever compares bytes: each such pair of columns is found."""
    cluster.run(LOOSE)
    pairs = {
        ("text", "varchar(8)"): [],
        ("int", "bigint"): [],
        ("uuid", "uuid"): [],
        ("char(8)", "char(8)"): ["padded with blanks to 8 characters"],
        ("char(8)", "varchar(8)"): [
            "padded with blanks",
            "column uid of table public.c is varchar, and the users'",
        ],
        ("char(8)", "char(9)"): ["padded with blanks", "column uid of table public.c is char(9), and the users'"],
        ("text", "char(8)"): [
            "column uid of table public.c is char(8), and the users' key id of table public.u text"
        ],
        ("bpchar", "bpchar"): [
            "column id of table public.u is a bpchar without",
            "column uid of table public.c is a",
        ],
        ("uuid", "varchar"): [
            "column uid of table public.c is varchar, and the users' key id of table public.u uuid"
        ],
        ("int", "text"): ["column uid of table public.c is text, and the users' key id of table public.u int4"],
        ("text COLLATE loose", "text"): ["column id of table public.u is a text of a collation that is not"],
        ("text", "text COLLATE loose"): ["column uid of table public.c is a text of a collation that is not"],
    }
    try:
        for (root, owner), problems in pairs.items():
            kind = {"uuid": "uuid", "int": "int"}.get(root, "text")
            cluster.run(
                f"CREATE TABLE u (id {root} PRIMARY KEY, at timestamp)",
                f"CREATE TABLE c (cid int PRIMARY KEY, uid {owner} NOT NULL)",
            )
            facts = look_at_source(cluster.settings.dsn, view_of(kind, child=NOTE), CONNECTOR)
            found = list(judge_same_user(facts, view_of(kind, child=NOTE), "public"))
            assert [problem in finding.problem for problem, finding in zip(problems, found, strict=True)] == (
                [True] * len(problems)
            ), (root, owner, found)
            cluster.run("DROP TABLE u, c")
    finally:
        cluster.run("DROP TABLE IF EXISTS u, c", "DROP COLLATION loose")


def test_a_negative_scale_and_a_text_that_holds_uuids_are_declared(cluster: Cluster) -> None:
    columns = {"n": "numeric(5,-2)", "m": "numeric(2,4)", "x": "varchar(36)"}
    declared = {"n": "numeric", "m": "numeric(2,4)", "x": "uuid"}
    cluster.run(f"CREATE TABLE u (id int PRIMARY KEY, at timestamp, {', '.join(map(' '.join, columns.items()))})")
    try:
        for kinds, problems in (
            (
                declared,
                ["is a numeric of scale -2, the view declares numeric: such", "is a varchar, the view declares"],
            ),
            (declared | {"n": "numeric(5,-2)", "x": "text"}, []),
        ):
            view = view_of("int", *(f'{n} = {{ name = "{n}", type = "{kind}" }}' for n, kind in kinds.items()))
            facts = look_at_source(cluster.settings.dsn, view, CONNECTOR)
            judged = judge_table(view.root, facts, "public", "", "", CONNECTOR.times)
            found = [finding for finding in judged if finding.check == "types"]
            assert len(found) == len(problems)
            for finding, problem in zip(found, problems, strict=True):
                assert problem in finding.problem
            if found:
                assert "declare it numeric(p,-2)" in found[0].remedy
    finally:
        cluster.run("DROP TABLE u")
