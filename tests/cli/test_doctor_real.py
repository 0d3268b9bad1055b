"""`kycache doctor` on the real thing: each part is broken for the purpose, found, mended, and sound again.

What of topic, log and group is found where test_ingest_on_kafka.py breaks them is looked at there.
"""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psycopg
import pytest
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from kycache.cli.doctor.command import Look, diagnose
from kycache.cli.doctor.failure_rules import exceptions_of
from kycache.cli.doctor.look_at_source import look_at_source
from kycache.cli.doctor.look_at_topic import look_at_topic
from kycache.cli.doctor.source_rules import judge_source
from kycache.cli.doctor.topic_rules import WARNING, Finding
from kycache.cli.settings.kafka_connect import KafkaConnect, Login
from kycache.cli.settings.loading import load_settings
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.model.connector import source_sql
from kycache.model.definition import default_view
from support.pipeline.ingest_process import delete_topic
from support.pipeline.stack import Pipeline
from support.waiting import wait_until

WAIT_S = 90.0
VIEW = default_view()


class Patient:
    """The stack as doctor sees it."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self.pipeline = pipeline
        self.folder = folder
        self.connector = pipeline.stack.layout.connector
        assert pipeline.connect_url is not None
        self.connect = KafkaConnect(pipeline.connect_url, self.connector.name)

    def findings(self, *looks: Look, **settings: dict[str, Any]) -> list[Finding]:
        """What doctor finds, with some settings otherwise."""
        sections: dict[str, dict[str, Any]] = {
            "kafka": {"bootstrap": self.pipeline.bootstrap, "topic": self.pipeline.topic},
            "source": {"dsn": self.pipeline.dsn},
            "connect": {"url": self.pipeline.connect_url},
        }
        for name, values in settings.items():
            sections.setdefault(name, {}).update(values)
        path = self.folder / "kycache.toml"
        path.write_text(
            "".join(
                f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
                for name, values in sections.items()
            ),
            encoding="utf-8",
        )
        return diagnose(load_settings(path), looks or tuple(Look)).findings

    def wait_sound(self) -> None:
        """Until nothing is found."""
        wait_until(lambda: not self.findings(), "doctor finds nothing any more", WAIT_S)

    def configure(self, config: dict[str, str]) -> None:
        """Give the connector another configuration."""
        request = Request(
            f"{self.pipeline.connect_url}/connectors/{self.connector.name}/config",
            data=json.dumps(config).encode(),
            method="PUT",
            headers={"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=WAIT_S) as answer:
            answer.read()


@pytest.fixture
def patient(apache_stack: Pipeline, tmp_path: Path) -> Patient:
    return Patient(apache_stack, tmp_path)


@pytest.fixture
def database(apache_stack: Pipeline) -> Iterator["psycopg.Connection[Any]"]:
    with psycopg.connect(apache_stack.dsn, autocommit=True) as made:
        yield made


def test_slots(patient: Patient, database: "psycopg.Connection[Any]") -> None:
    """Slots of our own: the connector's is left alone."""
    (absent,) = patient.findings(Look.SOURCE, connector={"slot": "nobody"})
    assert absent.problem.startswith("replication slot 'nobody' does not exist")
    database.execute("SELECT pg_create_logical_replication_slot('idle', 'pgoutput')")
    database.execute("SELECT pg_create_physical_replication_slot('odd', true)")
    try:
        for _ in range(2):  # each moves on by what is left of 16 MiB
            database.execute("CREATE TABLE scratch AS SELECT 1 AS n")
            database.execute("DROP TABLE scratch")
            database.execute("SELECT pg_switch_wal()")
        idle, full = patient.findings(Look.SOURCE, connector={"slot": "idle", "slot_wal_max_mib": 1})
        assert idle.problem.startswith("nobody reads replication slot 'idle', and it retains ")
        assert (full.severity, "until its disk is full" in full.problem) == (WARNING, True)
        odd = patient.findings(Look.SOURCE, connector={"slot": "odd"})
        assert "is of plugin none and database none" in odd[0].problem
    finally:
        for slot in ("idle", "odd"):
            database.execute("SELECT pg_drop_replication_slot(%s)", [slot])


def test_a_source_that_is_not_the_connectors(patient: Patient, database: "psycopg.Connection[Any]") -> None:
    """Prepared like the other, as a copy of it is."""
    database.execute("CREATE DATABASE copied")
    dsn = patient.pipeline.stack.layout.postgres.dsn_of("copied")
    with psycopg.connect(dsn, autocommit=True) as copied:
        copied.execute((files("kycache.demo") / "schema.sql").read_bytes())
        for statement in source_sql(VIEW, patient.connector):
            copied.execute(statement.encode())
        assert "connector reads another database" not in str(patient.findings(source={"dsn": dsn}))
        copied.execute("UPDATE kycache_heartbeat SET beat_at = now() - interval '1 hour'")
        (found,) = [f for f in patient.findings(source={"dsn": dsn}) if f.check == "source"]
        assert "were written 3600 s ago, and newer beats stand in the topic: the connector reads" in found.problem
    database.execute("DROP DATABASE copied")


def test_a_clock_that_is_off(patient: Patient) -> None:
    facts = look_at_source(patient.pipeline.dsn, VIEW, patient.connector, lambda: time.time() - 7)
    (found,) = judge_source(facts, VIEW, patient.connector, patient.connector.key_form, 4, 1 << 40)
    assert (found.check, found.severity) == ("clock", WARNING)
    assert found.problem.startswith("the source's clock is 7.0")
    assert "ahead of this machine's" in found.problem


def test_a_topic_of_the_wrong_kind(patient: Patient) -> None:
    admin = KafkaAdminClient(bootstrap_servers=patient.pipeline.bootstrap)
    wrong = {
        "cleanup.policy": "compact",
        "retention.ms": "60000",
        "unclean.leader.election.enable": "true",
        "max.message.bytes": "1048588",
    }
    admin.create_topics(
        [
            NewTopic(name="wrong-kind", num_partitions=4, replication_factor=1, topic_configs=wrong),
            NewTopic(name="kyc.public.users", num_partitions=1, replication_factor=1),
        ]
    )
    admin.close()
    try:
        found = patient.findings(Look.TOPIC, kafka={"topic": "wrong-kind"})
        assert [f.check for f in found] == ["topic", "retention", "topic", "topic", "topics"]
        for finding, words in zip(
            found,
            (
                "cleanup.policy=compact",
                "retention.ms=60000",
                "unclean.leader",
                "takes messages of up to 1048588 bytes, and the connector sends up to 33554432",
                "(kyc.public.users)",
            ),
            strict=True,
        ):
            assert words in finding.problem
        kafka = KafkaSettings(patient.pipeline.bootstrap, "wrong-kind")
        facts = look_at_topic(kafka, VIEW, patient.connector, None, "")
        assert (facts.message_bytes_max, facts.request_bytes_max) == (1_048_588, 100 << 20)
        (empty,) = patient.findings(Look.LOG, kafka={"topic": "wrong-kind"})
        assert empty.problem.startswith("partition 0, 1, 2, 3 has no heartbeat among its last ")
    finally:
        for topic in ("wrong-kind", "kyc.public.users"):
            delete_topic(patient.pipeline.bootstrap, topic)


WRONG_CONFIG = {
    "poll.interval.ms": "500",
    "skipped.operations": "t",
    "heartbeat.interval.ms": "0",
    "value.converter.replace.null.with.default": "true",
    "value.converter.schemas.enable": "true",
    "decimal.handling.mode": "precise",
    "tombstones.on.delete": "false",
    "snapshot.mode": "no_data",
    "snapshot.include.collection.list": "public.users",
    "column.exclude.list": "public.accounts.balance",
    "column.mask.with.4.chars": "public.users.last_name",
    "errors.tolerance": "all",
    "event.processing.failure.handling.mode": "skip",
}


def test_a_connector_that_is_configured_otherwise(patient: Patient) -> None:
    sound = {key: str(value) for key, value in (patient.connect.config() or {}).items()}
    assert patient.findings(Look.CONNECTOR, connector={"name": "nobody"})[0].problem.startswith(
        "Kafka Connect has no connector 'nobody'"
    )
    patient.configure({**sound, **WRONG_CONFIG})
    try:
        found = {f.problem for f in patient.findings(Look.CONNECTOR)}
        for key in WRONG_CONFIG:
            assert any(f"'kycache': {key} is " in problem for problem in found), key
    finally:
        patient.configure(sound)
    patient.wait_sound()


def test_a_connector_that_stands_still_or_has_failed(
    patient: Patient, database: "psycopg.Connection[Any]"
) -> None:
    patient.connect.stop()
    (stopped,) = patient.findings(Look.CONNECTOR)
    assert "connector 'kycache' is STOPPED" in stopped.problem
    (idle,) = patient.findings(Look.SOURCE)
    assert idle.problem.startswith("nobody reads replication slot 'kycache'")
    database.execute("ALTER PUBLICATION kycache RENAME TO elsewhere")
    try:
        patient.connect.resume()
        failed = wait_until(
            lambda: next((f for f in patient.findings(Look.CONNECTOR) if "failed" in f.problem), None),
            "the task fails",
            WAIT_S,
        )
        assert failed is not None
        assert "task 0 of connector 'kycache' has failed of " in failed.problem
        assert "Exception" in failed.problem
        assert failed.problem.endswith(": its publication does not exist")
        assert failed.remedy.startswith(
            "run what `kycache connector --sql` prints, then POST /connectors/kycache/"
        )
        (unpublished,) = [f for f in patient.findings(Look.SOURCE) if f.check == "publication"]
        assert "publication 'kycache' does not exist" in unpublished.problem
    finally:
        database.execute("ALTER PUBLICATION elsewhere RENAME TO kycache")
        patient.connect.stop()
        patient.connect.resume()
    patient.wait_sound()


class Gate(BaseHTTPRequestHandler):
    """A proxy before Kafka Connect that wants a login."""

    behind = ""
    wanted = ""

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != self.wanted:
            self.send_error(401)
            return
        with urlopen(f"{self.behind}{self.path}", timeout=WAIT_S) as answer:
            body = answer.read()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nowhere."""


def test_a_connect_that_wants_a_login(patient: Patient) -> None:
    login = Login("doctor", "pass:wörd")
    handler = type("Open", (Gate,), {"behind": patient.pipeline.connect_url, "wanted": login.header})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as gate:
        threading.Thread(target=gate.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{gate.server_port}"

        def found(**login: str) -> list[Finding]:
            return patient.findings(Look.CONNECTOR, connect={"url": url, **login})

        for wrong in ({}, {"username": "doctor", "password": "guessed"}):
            (shut,) = found(**wrong)
            assert "does not let us in: status 401" in shut.problem
            assert "guessed" not in str(shut)
            assert "`[connect] username` and `password`" in shut.remedy
        assert found(**login._asdict()) == []
        gate.shutdown()


def test_a_trace_is_told_without_its_messages() -> None:
    trace = (
        "org.apache.kafka.connect.errors.ConnectException: An exception occurred: ('Ada','Lovelace')\n"
        "\tat io.debezium.Something.run(Something.java:1)\n"
        "Caused by: java.lang.IllegalStateException: Lovelace\nLovelace, Ada\n\t... 7 more\n"
    )
    assert exceptions_of(trace) == ("ConnectException", "IllegalStateException")
