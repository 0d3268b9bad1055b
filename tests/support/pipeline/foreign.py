"""Other people's tables on the session's apache stack, brought up as the README says and compared with SQL.

    def test_integer_keys(apache_stack: Pipeline, tmp_path: Path) -> None:
        with deployed(apache_stack, tmp_path, "integers", SCHEMA, VIEW) as tables:   # rows of SCHEMA: snapshot
            tables.assert_equal()                                                    # every profile and page
            tables.sql("UPDATE u SET city = 'x'")                                    # streamed
            tables.assert_equal()

`deployed` runs the shell lines of README.md, "With your own PostgreSQL, Debezium and Kafka", as they stand there:
the SQL through psql, the connector through curl, `kycache doctor` until it finds nothing, then `kycache ingest`
and `kycache web` as processes. Database, topic, slot, publication, prefix, group and connector bear the given name
and are gone when the block ends. `folder` then still has kycache.toml, view.toml and the logs.

For a test that stops on the way, `Foreign` has each step by itself: `tables_at_source`, then `prepare`, `connect`,
`wait_sound`, `serving`.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.request import Request, urlopen

import httpx
import psycopg
from kafka import KafkaAdminClient

from kycache.cli.settings.kafka_connect import KafkaConnect
from kycache.demo.servers import postgres
from kycache.demo.servers.ports import free_ports
from kycache.model.definition import parse_view
from support.pipeline.ingest_process import KYCACHE, delete_topic
from support.pipeline.stack import Pipeline
from support.pipeline.view_truth import ViewTruth

README = Path(__file__).parents[3] / "README.md"
README_CONNECT = "http://connect:8083"
"""Kafka Connect's address in the README, in whose place the stack's own is put."""

SOUND_WAIT_S = 120.0
READY_WAIT_S = 90.0
COMMAND_WAIT_S = 60.0
STOP_WAIT_S = 30.0
LOOK_S = 0.2

PARTITIONS = 3

Settings = Mapping[str, Mapping[str, Any]]


class Foreign:
    """Tables of somebody else: a database of their own, and what follows from it."""

    def __init__(
        self,
        pipeline: Pipeline,
        folder: Path,
        name: str,
        view: str | None,
        settings: Settings | None = None,
        database: str | None = None,
    ) -> None:
        """Writes view.toml and kycache.toml into `folder`; starts nothing.

        Without a view neither is written: `kycache init` does that, and the settings are variables.

        Args:
            name: lower-case letters, digits and underscores; no other test of the session has it.
            database: another than the one called `name`: that of a view beside this one.
            view: the view definition, TOML.
            settings: what kycache.toml says beside, or otherwise than, the names and places: `{"kafka": {"key":
                "quoted"}}`.
        """
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert pipeline.connect_url is not None, "needs the apache stack"
        self.name = name
        self.folder = folder
        self.database = database or name
        self.dsn = pipeline.stack.layout.postgres.dsn_of(self.database)
        self.admin_dsn = self.dsn
        """Who runs the printed SQL; a test may name somebody with fewer rights."""
        self.variables: dict[str, str] = {}
        self.pipeline = pipeline
        self._connect_url = pipeline.connect_url
        port = free_ports(1)[0]
        self.http = f"http://127.0.0.1:{port}"
        sections: dict[str, dict[str, Any]] = {
            "data": {"dir": str(folder / "data")},
            "view": {"file": str(folder / "view.toml")},
            "kafka": {"bootstrap": pipeline.bootstrap, "topic": f"{name}.changes", "group": name},
            "source": {"dsn": self.dsn},
            "connector": {
                **dict.fromkeys(("name", "topic_prefix", "slot", "publication"), name),
                "partitions": PARTITIONS,
            },
            "connect": {"url": pipeline.connect_url},
            "http": {"port": port},
        }
        for section, values in (settings or {}).items():
            sections.setdefault(section, {}).update(values)
        self.topic = str(sections["kafka"]["topic"])
        self.schema = str(sections["connector"].get("schema", "public"))
        self.connector = str(sections["connector"]["name"])
        self._slot = str(sections["connector"]["slot"])
        self.configuration = folder / "kycache.toml"
        if view is None:
            del sections["view"]
            for section, values in sections.items():
                self.variables |= {f"KYCACHE_{section}_{key}".upper(): str(v) for key, v in values.items()}
            return
        self.view = parse_view(view, "view.toml")
        (folder / "view.toml").write_text(view, encoding="utf-8")
        self.configuration.write_text(
            "".join(
                f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
                for section, values in sections.items()
            ),
            encoding="utf-8",
        )

    @contextmanager
    def tables_at_source(self, schema_sql: str) -> Iterator[None]:
        """A database with these tables. At its end it goes, and slot, connector and topic with it."""
        maintenance = self.pipeline.stack.layout.postgres.dsn_of("postgres")
        with psycopg.connect(maintenance, autocommit=True) as db:
            db.execute(f'CREATE DATABASE "{self.database}"'.encode())
            try:
                self.sql(schema_sql)
                with self.names():
                    yield
            finally:
                db.execute(f'DROP DATABASE "{self.database}" WITH (FORCE)'.encode())

    @contextmanager
    def names(self) -> Iterator[None]:
        """At its end slot, connector and topic go."""
        try:
            yield
        finally:
            self.drop_connector()
            self._drop_slot()
            for topic in self.topics():
                delete_topic(self.pipeline.bootstrap, topic)

    def prepare(self) -> str:
        """README step 2: the SQL to the source, which must take it. Returns what psql printed."""
        done = self.shell(readme_line("connector --sql"))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def connect(self) -> None:
        """README step 3: the connector to Kafka Connect, which must take it."""
        done = self.shell(readme_line("connector --connector"))
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout
        answer = json.loads(printed[printed.index("{") :])
        assert answer.get("name") == self.connector, answer

    def wait_sound(self) -> None:
        """README step 4: `kycache doctor` should find nothing; waits for it while the connector starts."""

        def sound() -> bool:
            assert not (trace := self.connector_failure()), trace
            return self.run("doctor").returncode == 0 and not self.findings()

        _wait(sound, lambda: f"doctor still finds {self.findings()}", SOUND_WAIT_S)

    def findings(self) -> list[dict[str, str]]:
        """What `kycache doctor --json` finds: check, problem, remedy, severity."""
        done = self.run("doctor", "--json")
        found: list[dict[str, str]] = json.loads(done.stdout)["findings"] if done.stdout else [{"?": done.stderr}]
        return found

    @contextmanager
    def serving(self) -> Iterator[httpx.Client]:
        """README step 4: `kycache ingest` and `kycache web`, ready; both must end with 0. Gives a client."""
        with self.process("ingest"), self.process("web"), httpx.Client(base_url=self.http, timeout=30) as client:
            _wait(lambda: self._is_ready(client), lambda: f"not ready\n{self.log('ingest')}", READY_WAIT_S)
            yield client

    @contextmanager
    def process(self, command: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A lasting command of kycache; its output goes to `folder/<command>.log`."""
        with (self.folder / f"{command}.log").open("ab") as log:
            process = subprocess.Popen(
                [*KYCACHE, "--config", str(self.configuration), command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **self.variables},
            )
        try:
            yield process
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_WAIT_S) == 0, self.log(command)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command of kycache to its end."""
        return subprocess.run(
            [*KYCACHE, "--config", str(self.configuration), *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_WAIT_S,
            check=False,
            cwd=self.folder,
            env={**os.environ, **self.variables},
        )

    def sql(self, statements: str) -> str:
        """Run SQL at the source, in one transaction; returns the token for reading it back."""
        with psycopg.connect(self.dsn) as db:
            db.execute(statements.encode())
            db.commit()
            row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def truth(self) -> ViewTruth:
        """What the source holds now."""
        return ViewTruth.read(self.dsn, self.view, self.schema)

    def log(self, command: str) -> str:
        """What a process has said."""
        return (self.folder / f"{command}.log").read_text(encoding="utf-8")

    def connector_failure(self) -> str:
        """The trace of the connector's task where it has failed; empty while it has not."""
        with urlopen(f"{self._connect_url}/connectors/{self.connector}/status", timeout=30) as answer:
            status = json.loads(answer.read())
        return "\n".join(str(task["trace"]) for task in status["tasks"] if task["state"] == "FAILED")

    def topics(self) -> set[str]:
        """The topics that hold this connector's records."""
        admin = KafkaAdminClient(bootstrap_servers=self.pipeline.bootstrap)
        try:
            return {t for t in admin.list_topics() if t == self.topic or t.startswith(f"{self.name}.")}
        finally:
            admin.close()

    def drop_connector(self) -> None:
        """Take the connector and its offsets out of Kafka Connect, if it is there."""
        with urlopen(f"{self._connect_url}/connectors", timeout=30) as known:
            if self.connector not in json.loads(known.read()):
                return
        connect = KafkaConnect(self._connect_url, self.connector)
        connect.stop()
        connect.drop_offsets()
        request = Request(f"{self._connect_url}/connectors/{self.connector}", method="DELETE")
        with urlopen(request, timeout=30):
            pass

    def _drop_slot(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as db:

            def unused() -> bool:
                query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
                return db.execute(query, [self._slot]).fetchone() in (None, (False,))

            _wait(unused, lambda: f"slot {self._slot} is still in use", STOP_WAIT_S)
            drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s"
            db.execute(drop, [self._slot])

    def _is_ready(self, client: httpx.Client) -> bool:
        try:
            return client.get("/readyz?strict=1").status_code == 200
        except httpx.TransportError:
            return False  # it is starting

    def shell(self, line: str) -> "subprocess.CompletedProcess[str]":
        """A line of the README, in a shell whose path has kycache and psql."""
        path = f"{Path(sys.executable).parent}:{postgres.binary('psql').parent}:{os.environ['PATH']}"
        given = {**self.variables, "PATH": path, "ADMIN_DSN": self.admin_dsn}
        if self.configuration.exists():
            given["KYCACHE_CONFIG"] = str(self.configuration)
        return subprocess.run(
            ["sh", "-c", line.replace(README_CONNECT, self._connect_url)],
            capture_output=True,
            text=True,
            timeout=COMMAND_WAIT_S,
            check=False,
            cwd=self.folder,
            env={**os.environ, **given},
        )


class Deployed(Foreign):
    """Tables that kycache serves."""

    client: httpx.Client

    @contextmanager
    def brought_up(self) -> Iterator[None]:
        """README steps 2 to 4, from a view to ready shards."""
        self.prepare()
        self.connect()
        self.wait_sound()
        with self.serving() as self.client:
            yield

    def assert_equal(self) -> None:
        """Every profile, and every page of every list, is what SQL says of the source as it is now."""
        truth = self.truth()
        assert truth.profiles, "nothing to compare"
        _wait(lambda: self._covers(truth.lsn), lambda: f"not fresh: {self.log('ingest')}", READY_WAIT_S)
        differences = list(truth.differences(self.client))
        assert differences == [], differences[0]

    def profile(self, user: str) -> dict[str, Any]:
        """One profile as it is served, of the source as it is now."""
        lsn = self.truth().lsn
        _wait(lambda: self._covers(lsn), lambda: f"not fresh: {self.log('ingest')}", READY_WAIT_S)
        answer = self.client.get(f"/users/{user}", headers={"Kycache-Min-LSN": lsn})
        assert answer.status_code == 200, answer.text
        profile: dict[str, Any] = answer.json()
        return profile

    def _covers(self, lsn: str) -> bool:
        assert not (trace := self.connector_failure()), trace
        answer = self.client.get("/users?size=1", headers={"Kycache-Min-LSN": lsn})
        return answer.status_code == 200


@contextmanager
def deployed(
    pipeline: Pipeline, folder: Path, name: str, schema_sql: str, view: str, settings: Settings | None = None
) -> Iterator[Deployed]:
    """Tables brought up by the README's steps, from an empty database to ready shards.

    Args:
        pipeline: the session's apache stack.
        folder: an empty folder for configuration, data and logs.
        name: of database, topic, slot and all else; no other test of the session has it.
        schema_sql: the tables, and the rows that the snapshot is to hold.
        view: the view definition, TOML.
        settings: of kycache.toml, beside or in place of what `Foreign` writes there.
    """
    tables = Deployed(pipeline, folder, name, view, settings)
    with tables.tables_at_source(schema_sql), tables.brought_up():
        yield tables


@contextmanager
def deployed_beside(
    other: Foreign, folder: Path, name: str, view: str, settings: Settings | None = None
) -> Iterator[Deployed]:
    """Another view, or another topic of the same one, on tables that are there already."""
    tables = Deployed(other.pipeline, folder, name, view, settings, other.database)
    with tables.names(), tables.brought_up():
        yield tables


def readme_line(holding: str) -> str:
    """The shell line of the README's part on one's own tables that has `holding` in it."""
    part = README.read_text(encoding="utf-8").partition("\n## With your own")[2].partition("\n## ")[0]
    blocks = [dedent(block) for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL)]
    (found,) = [block for block in blocks if holding in block]
    return found


def _wait(condition: Callable[[], bool], complaint: Callable[[], str], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, complaint()
        time.sleep(LOOK_S)
