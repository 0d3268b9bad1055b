"""Settings: file and variables, what goes before what, and that every mistake names its place."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.generations.hot_copy import CopyLimits
from kycache.cli.settings.composition import (
    POSTGRES_PORT,
    connector_settings,
    copy_limits,
    environments,
    http_settings,
    kafka_settings,
    snapshot_settings,
)
from kycache.cli.settings.loading import Settings, find_file, keys, load_settings, sections, shown
from kycache.http.serving.settings import HttpSettings
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.model.connector import ConnectorSettings
from kycache.model.errors import ConfigurationError
from kycache.model.partition import KeyForm
from kycache.model.signing import KEY_CHARACTERS_MIN
from kycache.snapshots.storage.settings import MIB, SnapshotSettings
from support.command_line import RunCommand

pytestmark = pytest.mark.usefixtures("no_settings")


def write(folder: Path, text: str) -> Path:
    file = folder / "kycache.toml"
    file.write_text(text, encoding="utf-8")
    return file


def mistake(file: Path | None) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file)
    return caught.value


def test_defaults_without_a_file() -> None:
    settings = load_settings(find_file(None))
    assert settings.data.dir == Path("data")
    assert settings.kafka.topic == "kyc.changes"
    assert settings.http.host == "127.0.0.1"
    assert settings.load_view().name == "kyc"


def test_file_of_the_working_directory_is_found(tmp_path: Path) -> None:
    write(tmp_path, "[kafka]\ntopic = 'people'\n")
    assert load_settings(find_file(None)).kafka.topic == "people"


def test_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"absent\.toml does not exist"):
        find_file(Path("absent.toml"))


def test_variables_go_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "[http]\nport = 9000\nworkers = 2\n[kafka]\nkey = 'quoted'\n")
    monkeypatch.setenv("KYCACHE_HTTP_PORT", "9001")
    monkeypatch.setenv("KYCACHE_HTTP_FRESHNESS_WAIT", "1.5")
    settings = load_settings(file)
    assert (settings.http.port, settings.http.workers, settings.http.freshness_wait) == (9001, 2, 1.5)
    assert settings.kafka.key is KeyForm.QUOTED


def test_empty_variable_is_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, "[http]\nport = 9000\n")
    monkeypatch.setenv("KYCACHE_HTTP_PORT", "")
    assert load_settings(file).http.port == 9000


def test_keys_with_underscores_and_the_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KYCACHE_CONNECTOR_TOPIC_PREFIX", "people")
    monkeypatch.setenv("KYCACHE_CONNECTOR_SCHEMA", "crm")
    settings = load_settings(None)
    assert settings.connector.topic_prefix == "people"
    assert settings.connector.schema_ == "crm"


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = "a" * KEY_CHARACTERS_MIN, "b" * KEY_CHARACTERS_MIN
    monkeypatch.setenv("KYCACHE_HTTP_CURSOR_KEYS", f"{first}, {second}")
    assert http_settings(load_settings(None)).cursor_keys == (first, second)


def test_every_setting_reaches_its_room_with_one_default(tmp_path: Path) -> None:
    settings = load_settings(None)
    assert http_settings(settings) == HttpSettings()
    assert kafka_settings(settings) == KafkaSettings(
        settings.kafka.bootstrap, security={"security_protocol": "PLAINTEXT"}
    )
    store = tmp_path.as_uri()
    assert snapshot_settings(settings, store) == SnapshotSettings(store)
    assert copy_limits(settings) == CopyLimits()
    made = connector_settings(settings, 4)
    assert made == ConnectorSettings(host="", port=POSTGRES_PORT, user="", password="", dbname="")
    elsewhere = {
        "http": {"stale_after"},
        "snapshots": {"every", "keep", "bootstrap"},
        "connector": {"slot_wal_max_mib", "dsn"},
    }
    units = {"rate": "rate_bytes_s", "part_mib": "part_bytes", "message_max_mib": "message_bytes_max"}
    rooms: dict[str, list[Any]] = {
        "http": [HttpSettings],
        "snapshots": [SnapshotSettings, CopyLimits],
        "connector": [ConnectorSettings],
    }
    for name, objects in rooms.items():
        there = {field.name for room in objects for field in fields(room)}
        for key in set(keys(sections()[name])) - elsewhere[name]:
            assert {key, f"{key}_s", units.get(key)} & there, f"[{name}] {key} reaches no settings object"


@pytest.mark.parametrize("seconds", [0.0, 7.5])
def test_a_setting_reaches_its_room_in_the_rooms_unit(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    for variable in ("HTTP_DRAIN", "HTTP_GRACE", "SNAPSHOTS_RATE"):
        monkeypatch.setenv(f"KYCACHE_{variable}", str(seconds))
    settings = load_settings(None)
    http = http_settings(settings)
    assert (http.drain_s, http.grace_s) == (seconds, seconds)
    assert snapshot_settings(settings, "file:///s").copying.rate_bytes_s == seconds * MIB


def test_relative_paths_count_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    file = write(folder, "[view]\nfile = 'mine.toml'\n[kafka]\nssl_cafile = '/etc/ca.pem'\n")
    settings = load_settings(file)
    assert settings.view.file == folder / "mine.toml"
    assert settings.data.dir == folder / "data"
    assert settings.kafka.ssl_cafile == Path("/etc/ca.pem")
    monkeypatch.setenv("KYCACHE_DATA_DIR", "here")
    assert load_settings(file).data.dir == Path("here")


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        (
            "[kafka]\nbootstrap = 'b:1'\n\nbootstrp = 'b:1'\n",
            "line 4: no such setting [kafka] bootstrp",
            "`bootstrap`",
        ),
        ("\n[kafak]\ntopic = 'x'\n", "line 2: no such setting [kafak]", "`[kafka]`"),
        ("[http]\nport = 'many'\n", "line 2: [http] port: input should be a valid integer", "mend"),
        ("[http]\nport = 70000\n", "line 2: [http] port:", "mend"),
        ("[http]\n# so\nworkers = 0\n", "line 3: [http] workers:", "mend"),
        ("http.port = 70000\n", "line 1: [http] port:", "mend"),
        ("[http]\ncursor_keys = ['short']\n", "line 2: [http] cursor_keys: a key has at least 32", "mend"),
        ("[snapshots]\nkey = 'short'\n", "line 2: [snapshots] key: a key has at least 32", "mend"),
        ("[snapshots]\nevery = inf\n", "line 2: [snapshots] every: input should be less than", "mend"),
        ("[snapshots]\nkey = 'short'\n", "make one with `openssl rand -hex 32`", "mend"),
        ("[kafka]\nbootstrap = 'broker'\n", "line 2: [kafka] bootstrap: 'broker' is not `host:port`", "mend"),
        ("[kafka]\nkey = 'avro'\n", "line 2: [kafka] key:", "mend"),
        ("[kafka]\ntopic = 'x'\nsasl_username = 'u'\n", "line 1: [kafka]: sasl_… settings need", "mend"),
        ("[kafka]\nsecurity_protocol = 'SASL_SSL'\n", "line 1: [kafka]: a SASL_… security_protocol needs", "mend"),
        ("[connect]\nurl = 'http://a:b@c:1'\n", "line 2: [connect] url: a login stands in username and", "mend"),
        ("[connect]\nusername = 'a'\n", "line 1: [connect]: username and password are needed both", "mend"),
        ("[ingest]\npoison = 'drop'\n", "line 2: [ingest] poison: input should be 'quarantine' or 'halt'", "mend"),
        ("[data]\nmap_size_gib = 'a'\n", "line 2: [data] map_size_gib:", "mend"),
        ("data = 3\n", "line 1: [data]:", "mend"),
        ("[http\n", "(at line 1, column 6)", "TOML"),
    ],
)
def test_mistakes_in_the_file_name_their_line(tmp_path: Path, text: str, problem: str, remedy: str) -> None:
    error = mistake(write(tmp_path, text))
    assert problem in error.problem
    assert str(tmp_path / "kycache.toml") in error.problem
    assert remedy in error.remedy


def test_every_mistake_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KYCACHE_HTTP_WORKERS", "some")
    error = mistake(write(tmp_path, "[http]\nport = 'many'\n[nothing]\n"))
    assert len(error.problem.splitlines()) == 3


@pytest.mark.parametrize(
    ("variable", "value", "problem", "remedy"),
    [
        ("KYCACHE_HTTP_PORT", "many", "variable KYCACHE_HTTP_PORT: [http] port:", "mend"),
        ("KYCACHE_HTTP_PROT", "1", "variable KYCACHE_HTTP_PROT: no such setting [http] prot", "`port`"),
        ("KYCACHE_KAKFA_TOPIC", "x", "variable KYCACHE_KAKFA_TOPIC: no such setting", "`KYCACHE_KAFKA_TOPIC`"),
        ("KYCACHE_KAFKA_SASL_USERNAME", "u", "variable KYCACHE_KAFKA_SASL_USERNAME: [kafka]: sasl_…", "mend"),
    ],
)
def test_mistakes_in_variables_name_them(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, problem: str, remedy: str
) -> None:
    monkeypatch.setenv(variable, value)
    error = mistake(None)
    assert problem in error.problem
    assert remedy in error.remedy


@pytest.mark.parametrize(
    "variable",
    [
        "KYCACHE_REQUIRE_KAFKA",
        "KYCACHE_TEST_SEED",
        "KYCACHE_SEEDS",
        "KYCACHE_CONFIG",
        "KYCACHE_SERVICE_HOST",
        "KYCACHE_PORT_8080_TCP_ADDR",
        "KYCACHE_WEB_SERVICE_PORT_METRICS",
    ],
)
def test_variables_that_are_no_settings_are_passed_over(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert load_settings(None) == Settings()


def test_a_service_of_kubernetes_is_told_from_a_misspelt_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KYCACHE_PORT", "tcp://10.0.0.1:8080")
    monkeypatch.setenv("KYCACHE_OTHER_PORT", "udp://10.0.0.1:53")
    assert load_settings(None) == Settings()
    monkeypatch.setenv("KYCACHE_HTPP_PORT", "8081")
    with pytest.raises(ConfigurationError, match="KYCACHE_HTPP_PORT"):
        load_settings(None)


def test_secrets_stand_neither_in_what_is_shown_nor_in_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KYCACHE_HTTP_CURSOR_KEYS", "hunter2" * 5)
    monkeypatch.setenv("KYCACHE_SNAPSHOTS_KEY", "hunter2" * 5)
    file = write(
        tmp_path,
        "[source]\ndsn = 'postgresql://app:hunter2@db/app'\n"
        "[kafka]\nsecurity_protocol = 'SASL_SSL'\nsasl_mechanism = 'PLAIN'\n"
        "sasl_username = 'app'\nsasl_password = 'hunter2'\n",
    )
    settings = load_settings(file)
    assert "hunter2" not in str(shown(settings))
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("KYCACHE_SNAPSHOTS_STORE", "s3://app:hunter2@bucket/folder?token=hunter2")
    assert shown(load_settings(file))["snapshots"]["store"] == "s3://bucket/folder"
    assert "host=db" in shown(settings)["source"]["dsn"]
    assert kafka_settings(settings).security["sasl_plain_password"] == "hunter2"
    assert connector_settings(settings, 4).password == "hunter2"

    error = mistake(write(tmp_path, "[source]\ndsn = 'postgresql://app:hunter2@[db/app'\n"))
    assert "line 2: [source] dsn: not a PostgreSQL connection string" in error.problem
    assert "hunter2" not in str(error)


def test_an_identity_among_the_recipients_is_told_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two halves of a pair are easily taken for each other, and recipients are printed."""
    monkeypatch.setenv("KYCACHE_SNAPSHOTS_RECIPIENTS", "age1x,AGE-SECRET-KEY-1HUNTER2")
    with pytest.raises(ConfigurationError, match="which is secret") as refused:
        load_settings(None)
    assert "HUNTER2" not in f"{refused.value.problem} {refused.value.remedy}"


def test_map_size_and_durability_reach_lmdb(tmp_path: Path) -> None:
    file = write(tmp_path, "[data]\nmap_size_gib = 0.5\ndurability = 'strict'\n")
    opened = environments(load_settings(file), PidClaim(tmp_path), readonly=False)
    (tmp_path / "gen-000001").mkdir()
    environment = opened.lease(tmp_path / "gen-000001", 0, create=True).environment
    try:
        assert environment.info()["map_size"] == 2**29
        assert environment.flags()["metasync"] is True
    finally:
        opened.release(tmp_path / "gen-000001")


def test_status_config_prints_what_is_in_effect(kycache: RunCommand, tmp_path: Path) -> None:
    file = write(tmp_path, "[source]\ndsn = 'postgresql://app:hunter2@db/app'\n[http]\nport = 9000\n")
    plain = kycache("--config", file, "status", "--config")
    assert plain.code == 0
    assert str(file) in plain.out
    assert "port = 9000\n" in plain.out
    assert "hunter2" not in plain.out
    assert kycache("--config", file, "status", "--config", "--json").json["http"]["port"] == 9000


def test_printed_settings_can_be_read_again(kycache: RunCommand, tmp_path: Path) -> None:
    file = write(tmp_path, "[http]\nport = 9000\nallow_unauthenticated = true\n[view]\nfile = 'v.toml'\n")
    printed = kycache("--config", file, "status", "--config").out
    again = tmp_path / "again.toml"
    again.write_text(printed, encoding="utf-8")
    assert load_settings(again) == load_settings(file)
