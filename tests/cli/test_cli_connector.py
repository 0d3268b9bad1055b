"""`kycache connector`: one source for what is printed and what the demo runs."""

import json
from pathlib import Path

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.cli.commands.connector import script
from kycache.cli.settings.loading import load_settings
from kycache.cli.settings.sections import REDACTED
from kycache.model.connector import ConnectorSettings, connector_config, source_rights, source_sql
from kycache.model.definition import default_view
from support.command_line import RunCommand

SETTINGS = """
[source]
dsn = "postgresql://app:hunter2@db.internal:5433/people"
[connector]
name = "people"
slot = "people_slot"
schema = "crm"
partitions = 6
[kafka]
topic = "people.changes"
"""

EXPECTED = ConnectorSettings(
    host="db.internal",
    port=5433,
    user="app",
    password="hunter2",
    dbname="people",
    name="people",
    slot="people_slot",
    schema="crm",
    topic="people.changes",
    partitions=6,
)


@pytest.fixture
def settings(tmp_path: Path, no_settings: Path) -> None:  # noqa: ARG001 (its effect)
    (tmp_path / "kycache.toml").write_text(SETTINGS, encoding="utf-8")


@pytest.mark.usefixtures("settings")
def test_prints_what_the_demo_runs(kycache: RunCommand) -> None:
    printed = kycache("connector", "--json", "--with-secrets").json
    assert printed["connector"] == {"name": "people", "config": connector_config(default_view(), EXPECTED)}
    assert printed["sql"] == source_sql(default_view(), EXPECTED)
    assert json.loads(kycache("connector", "--connector", "--with-secrets").out) == printed["connector"]
    sql = kycache("connector", "--sql").out
    assert sql == script(printed["sql"], source_rights(default_view(), EXPECTED))
    first, stop, *_ = sql.splitlines()
    assert first.startswith(
        '-- Run as the owner of "users", "kyc_records", "accounts", with CREATE on the database'
    )
    assert 'role "app" needs LOGIN, REPLICATION, USAGE on schema "crm", SELECT on' in first
    assert stop == "\\set ON_ERROR_STOP on"


@pytest.mark.usefixtures("settings")
def test_redacts_the_password_on_a_terminal_and_says_so(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kycache("connector", "--connector").json["config"]["database.password"] == "hunter2"  # piped on
    monkeypatch.setattr("kycache.cli.commands.connector.on_terminal", lambda: True)
    for arguments in ((), ("--json",), ("--connector",)):
        ended = kycache("connector", *arguments)
        assert ended.code == 0
        assert "hunter2" not in ended.out + ended.err
        assert REDACTED in ended.out
        assert "--with-secrets" in ended.err


@pytest.mark.usefixtures("settings")
def test_debezium_may_reach_the_source_by_another_address(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KYCACHE_CONNECTOR_DSN", "postgresql://debezium@10.0.0.7/people")
    config = kycache("connector", "--connector").json["config"]
    assert (config["database.hostname"], config["database.port"]) == ("10.0.0.7", "5432")
    assert (config["database.user"], config["database.password"]) == ("debezium", "")


def test_sql_needs_no_address(kycache: RunCommand) -> None:
    assert 'ALTER TABLE "public"."users" REPLICA IDENTITY FULL' in kycache("connector", "--sql").out
    ended = kycache("connector")
    assert ended.code == 3
    assert "`[source] dsn`" in ended.err


@pytest.mark.parametrize("dsn", ["host=a,b port=1,2 user=u dbname=d", "host=a port=1,2 user=u dbname=d"])
def test_several_servers_are_refused(kycache: RunCommand, monkeypatch: pytest.MonkeyPatch, dsn: str) -> None:
    monkeypatch.setenv("KYCACHE_SOURCE_DSN", dsn)
    ended = kycache("connector")
    assert ended.code == 3
    assert "`[connector] dsn`" in ended.err


TLS = "sslmode=verify-full&sslrootcert=/etc/tls/ca.pem&sslcert=/etc/tls/me.pem&sslkey=/etc/tls/me.pk8"


def test_tls_is_carried(kycache: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn = f"postgresql://u:p@db/people?{TLS}&sslpassword=hidden&connect_timeout=5&application_name=x"
    monkeypatch.setenv("KYCACHE_SOURCE_DSN", dsn)
    config = kycache("connector", "--connector").json["config"]
    carried = {key: value for key, value in config.items() if key.startswith("database.ssl")}
    assert carried == {
        "database.sslmode": "verify-full",
        "database.sslrootcert": "/etc/tls/ca.pem",
        "database.sslcert": "/etc/tls/me.pem",
        "database.sslkey": "/etc/tls/me.pk8",
        "database.sslpassword": "hidden",
    }
    monkeypatch.setattr("kycache.cli.commands.connector.on_terminal", lambda: True)
    assert "hidden" not in kycache("connector", "--connector").out


@pytest.mark.parametrize(
    ("dsn", "words"),
    [
        ("postgresql://u@[::1]:5432/people", "its host ::1 is an IPv6 address"),
        (
            "postgresql://u@%2Fvar%2Frun%2Fpostgresql/people",
            "its host /var/run/postgresql is the folder of a socket",
        ),
        ("host=@abstract user=u dbname=people", "its host @abstract is the folder of a socket"),
        ("host=db hostaddr=10.0.0.7 user=u dbname=people", "a hostaddr beside the host"),
        ("postgresql://u@db/people?sslrootcert=system", "sslrootcert=system"),
        ("postgresql://u@db/people?options=-c%20role%3Dx", "no setting for options"),
        (
            "postgresql://u@db/people?channel_binding=require&gssencmode=require",
            "no setting for channel_binding; ",
        ),
        ("postgresql://u@db/people?sslcrl=/etc/tls/crl.pem", "no setting for sslcrl"),
    ],
)
def test_what_debezium_cannot_be_told_is_refused(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch, dsn: str, words: str
) -> None:
    monkeypatch.setenv("KYCACHE_SOURCE_DSN", dsn)
    ended = kycache("connector", "--connector")
    assert (ended.code, ended.out) == (3, "")
    assert words in ended.err
    assert "`[connector] dsn`" in ended.err
    assert kycache("connector", "--sql").code == 0
    monkeypatch.setenv("KYCACHE_CONNECTOR_DSN", "postgresql://u@db/people?gssencmode=disable")
    assert kycache("connector", "--connector").json["config"]["database.hostname"] == "db"


def test_limits_and_sessions(kycache: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KYCACHE_SOURCE_DSN", "postgresql://u@db/people")
    config = kycache("connector", "--connector").json["config"]
    for key in (
        "producer.override.max.request.size",
        "producer.override.buffer.memory",
        "topic.creation.changes.max.message.bytes",
    ):
        assert config[key] == "33554432"
    assert config["database.initial.statements"] == "SET synchronous_commit = local"
    monkeypatch.setenv("KYCACHE_CONNECTOR_PRODUCER_OVERRIDE", "false")
    monkeypatch.setenv("KYCACHE_CONNECTOR_MESSAGE_MAX_MIB", "8")
    config = kycache("connector", "--connector").json["config"]
    assert config["topic.creation.changes.max.message.bytes"] == "8388608"
    assert not [key for key in config if key.startswith("producer.override.")]


def test_the_unit_of_times_is_that_of_the_data_directory(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was set, as a directory of before has it, or microseconds."""
    monkeypatch.setenv("KYCACHE_SOURCE_DSN", "postgresql://app@db/app")
    settings = load_settings(None)
    directory = DataDirectory(settings.data.dir)

    def printed() -> str | None:
        ended = kycache("connector", "--connector")
        assert ended.code == 0
        mode: str | None = json.loads(ended.out)["config"].get("time.precision.mode")
        return mode

    assert printed() == "microseconds"
    directory.found(default_view().hash, settings.kafka.topic, "id", 4)
    assert printed() == "microseconds"
    node = json.loads((directory.root / "node.json").read_text(encoding="utf-8"))
    assert node.pop("times") == "microseconds"
    (directory.root / "node.json").write_text(json.dumps(node), encoding="utf-8")
    assert printed() is None  # `adaptive` is what Debezium does by itself
    monkeypatch.setenv("KYCACHE_KAFKA_TIME_PRECISION_MODE", "microseconds")
    assert printed() == "microseconds"  # for the topic that the directory is to be rebuilt from
    monkeypatch.setenv("KYCACHE_KAFKA_TIME_PRECISION_MODE", "isostring")
    assert kycache("connector", "--connector").code == 3


def test_partitions_are_those_of_the_data_directory(kycache: RunCommand) -> None:
    settings = load_settings(None)
    beats = [f"('beat-{n}'" for n in range(100)]

    def rows(*arguments: str) -> int:
        ended = kycache("connector", "--sql", *arguments)
        assert ended.code == 0
        insert = next(line for line in ended.out.splitlines() if line.startswith("INSERT"))
        return sum(beat in insert for beat in beats)

    assert rows() == 4
    assert rows("--partitions", "7") == 7
    DataDirectory(settings.data.dir).found(default_view().hash, settings.kafka.topic, "id", 3)
    assert rows() == 3
    ended = kycache("connector", "--sql", "--partitions", "7")
    assert ended.code == 3
    assert "made for 3 partitions, not 7" in ended.err
