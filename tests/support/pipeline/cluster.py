"""A PostgreSQL of a test's own, with a real reader of its slot (`pg_recvlogical`)."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import psycopg

from kycache.cli.doctor.command import Look, diagnose
from kycache.cli.doctor.topic_rules import Finding
from kycache.cli.settings.loading import load_settings
from kycache.demo.servers import postgres
from kycache.demo.servers.ports import HOST, free_ports
from kycache.model.connector import ConnectorSettings, source_sql
from kycache.model.definition import default_view
from support.waiting import wait_until

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
    def slot_is_read(self, database: str = postgres.DATABASE, role: str = postgres.SUPERUSER) -> Iterator[None]:
        """The connector's slot, made and read as Debezium would."""
        dsn = self.settings.dsn_of(database)
        command = [str(postgres.binary("pg_recvlogical")), "-d", dsn, "-U", role]
        plugin = ("--slot=kycache", "--create-slot", "--if-not-exists", "--plugin=pgoutput")
        subprocess.run([*command, *plugin], check=True)
        options = ("-o", "proto_version=1", "-o", "publication_names=kycache", "-f", "-", "--no-loop")
        reader = subprocess.Popen([*command, "--slot=kycache", "--start", *options], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: self._active(active=True), "the slot is read")
            yield
        finally:
            reader.terminate()
            reader.wait(WAIT_S)
            wait_until(lambda: self._active(active=False), "the slot is let go")
            self.run("SELECT pg_drop_replication_slot('kycache')", database=database)

    def findings(self, port: int | None = None, times: str = "microseconds") -> list[Finding]:
        """What doctor finds at the source, where the topic has its times in this unit."""
        dsn = replace(self.settings, port=port or self.settings.port).dsn
        (self.folder / "kycache.toml").write_text(
            f"[source]\ndsn = '{dsn}'\n[kafka]\ntime_precision_mode = '{times}'\n", encoding="utf-8"
        )
        return diagnose(load_settings(self.folder / "kycache.toml"), [Look.SOURCE]).findings

    def _active(self, *, active: bool) -> bool:
        with psycopg.connect(self.settings.dsn) as db:
            row = db.execute("SELECT active FROM pg_replication_slots WHERE slot_name = 'kycache'").fetchone()
        return row == (active,)
