"""`kycache doctor` on PostgreSQL clusters of its own: what cannot be done to one that others use too.

A slot has a real reader (`pg_recvlogical`), so that a sound source is found sound.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import psycopg
import pytest

from kycache.cli.doctor import Look, diagnose
from kycache.cli.findings import Finding
from kycache.cli.settings import load_settings
from kycache.demo import postgres
from kycache.demo.children import Child, Program, stopping
from kycache.demo.ports import HOST, free_ports
from kycache.model.connector import ConnectorSettings, source_sql
from kycache.model.definition import default_view

WAIT_S = 60.0
CONNECTOR = ConnectorSettings(host=HOST, port=1, user=postgres.SUPERUSER, password="", dbname=postgres.DATABASE)


class Cluster:
    """A PostgreSQL that runs, prepared as `kycache connector --sql` says."""

    def __init__(self, folder: Path) -> None:
        [port] = free_ports(1)
        folder.chmod(0o711)  # run by root, PostgreSQL has another account
        self.folder = folder
        self.settings = postgres.Postgres(folder / "data", port, postgres.new_password())
        self.server = postgres.prepare(self.settings, folder / "postgres.log", durable=False)

    def start(self, **more: str) -> None:
        """Start it, with some settings otherwise."""
        with (self.settings.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in more.items())
        self.server.start()
        postgres.wait_ready(self.settings, self.server)

    def restart(self, **more: str) -> None:
        self.server.stop()
        self.server.wait_stopped()
        self.start(**more)

    def run(self, *statements: str, database: str = postgres.DATABASE) -> None:
        with psycopg.connect(self.settings.dsn_of(database), autocommit=True) as db:
            for statement in statements:
                db.execute(statement.encode())

    def make_tables(self) -> None:
        self.run((files("kycache.demo") / "schema.sql").read_text(encoding="utf-8"))
        self.prepare_source()

    def prepare_source(self) -> None:
        """What `kycache connector --sql` prints."""
        self.run(*source_sql(default_view(), CONNECTOR))

    @contextmanager
    def slot_is_read(self, database: str = postgres.DATABASE) -> Iterator[None]:
        """The connector's slot, made and read as Debezium would."""
        command = [str(postgres.binary("pg_recvlogical")), "-d", self.settings.dsn_of(database)]
        plugin = ("--slot=kycache", "--create-slot", "--if-not-exists", "--plugin=pgoutput")
        subprocess.run([*command, *plugin], check=True)
        options = ("-o", "proto_version=1", "-o", "publication_names=kycache", "-f", "-", "--no-loop")
        reader = subprocess.Popen([*command, "--slot=kycache", "--start", *options], stdout=subprocess.DEVNULL)
        try:
            _until(lambda: self._active(active=True))
            yield
        finally:
            reader.terminate()
            reader.wait(WAIT_S)
            _until(lambda: self._active(active=False))
            self.run("SELECT pg_drop_replication_slot('kycache')", database=database)

    def findings(self, port: int | None = None) -> list[Finding]:
        """What doctor finds at the source."""
        dsn = replace(self.settings, port=port or self.settings.port).dsn
        (self.folder / "kycache.toml").write_text(f"[source]\ndsn = '{dsn}'\n", encoding="utf-8")
        return diagnose(load_settings(self.folder / "kycache.toml"), [Look.SOURCE]).findings

    def _active(self, *, active: bool) -> bool:
        with psycopg.connect(self.settings.dsn) as db:
            row = db.execute("SELECT active FROM pg_replication_slots WHERE slot_name = 'kycache'").fetchone()
        return row == (active,)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


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
        _until(lambda: _answers(replace(cluster.settings, port=port).dsn))
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


def test_partitioned_tables(cluster: Cluster) -> None:
    cluster.run(PARTITIONED)
    try:
        cluster.prepare_source()
        with cluster.slot_is_read():
            found = cluster.findings()
            assert {finding.check for finding in found} == {"replica identity"}
            assert "(accounts_0, accounts_1)" in problem(found, "replica identity")
            cluster.run(
                "ALTER TABLE accounts_0 REPLICA IDENTITY FULL", "ALTER TABLE accounts_1 REPLICA IDENTITY FULL"
            )
            assert cluster.findings() == []
            cluster.run("ALTER PUBLICATION kycache SET (publish_via_partition_root = false)")
            assert [finding.problem for finding in cluster.findings()] == [
                "table accounts is partitioned, and publication 'kycache' names each partition by itself"
            ]
            cluster.prepare_source()
            assert cluster.findings() == []
    finally:
        cluster.run("DROP TABLE accounts", "ALTER TABLE accounts_as_they_were RENAME TO accounts")
        cluster.prepare_source()
