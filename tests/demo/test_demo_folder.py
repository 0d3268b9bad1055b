"""The demo's folder, ports, configuration and ready file."""

import json
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.cli.settings.loading import load_settings
from kycache.demo.configuration import write_configuration
from kycache.demo.readiness import ReadyFacts, write_ready_file
from kycache.demo.run import DemoOptions, run_demo
from kycache.demo.servers.layout import Layout, Ports
from kycache.demo.servers.ports import free_ports, is_free
from kycache.demo.servers.stack import Kind
from kycache.demo.workspace import open_workspace
from kycache.model.errors import ConfigurationError, Refused
from kycache.model.scalars.times import TimePrecision

FACTS = ReadyFacts("http://127.0.0.1:1", "postgresql://u:p@h/d", "127.0.0.1:2", "kyc.changes", "/d", None)


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestReadyFile:
    def test_says_what_the_contract_says(self, tmp_path: Path) -> None:
        path = tmp_path / "ready.json"
        write_ready_file(path, FACTS, {"ingest": 1, "web": 2, "postgres": 3, "broker": 4, "debezium": 5})
        document = json.loads(path.read_text(encoding="utf-8"))
        assert list(document) == ["http", "postgres", "kafka", "topic", "dir", "connect", "pids"]
        assert list(document["pids"]) == ["ingest", "web", "postgres", "broker", "debezium"]
        assert mode(path) == 0o600

    def test_is_whole_whenever_it_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "ready.json"
        write_ready_file(path, FACTS, {"ingest": 0})
        seen: list[Any] = []
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.append(json.loads(path.read_text(encoding="utf-8"))["pids"]["ingest"])

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for pid in range(1, 400):
                write_ready_file(path, FACTS, {"ingest": pid, "filler": 10 ** (pid % 200)})
        finally:
            stop.set()
            reader.join()
        assert seen
        assert seen == sorted(seen)
        assert [p.name for p in tmp_path.iterdir()] == ["ready.json"]

    def test_one_without_a_folder_is_refused_before_anything_starts(self, tmp_path: Path) -> None:
        options = DemoOptions(ready_file=tmp_path / "nowhere" / "ready.json", directory=tmp_path / "demo")
        with pytest.raises(ConfigurationError, match="nowhere"):
            run_demo(options)
        assert not (tmp_path / "demo").exists()


class TestPorts:
    def test_free_ports_differ_and_are_free(self) -> None:
        ports = free_ports(50)
        assert len(set(ports)) == 50
        assert all(is_free(port) for port in ports)

    def test_a_taken_http_port_is_refused_and_nothing_is_left(
        self, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(Refused, match=f"port {taken} for HTTP is taken") as refusal:
            run_demo(DemoOptions(port=taken))
        assert refusal.value.exit_code == 5
        assert "--port" in refusal.value.remedy
        assert list(tmp_path.iterdir()) == []

    def test_a_port_of_the_earlier_start_that_is_taken_is_named(
        self, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("kycache.demo.workspace.PORT_FREED_WITHIN_S", 0.0)
        with open_workspace(Kind.APACHE, tmp_path, 2, None):
            pass
        memory = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
        memory["ports"]["broker"] = taken
        (tmp_path / "demo.json").write_text(json.dumps(memory), encoding="utf-8")
        with (
            pytest.raises(Refused, match=f"port {taken} for the demo's broker"),
            open_workspace(Kind.APACHE, tmp_path, None, None),
        ):
            pass


class TestFolder:
    def test_a_temporary_one_is_removed(self) -> None:
        with open_workspace(Kind.EMBEDDED, None, None, None) as workspace:
            place = workspace.layout.directory
            assert place.is_dir()
            assert not workspace.layout.durable
        assert not place.exists()

    def test_one_of_an_earlier_kycache_keeps_its_unit_of_times(self, tmp_path: Path) -> None:
        """Its topic was begun in it."""
        with open_workspace(Kind.APACHE, tmp_path, 3, None) as first:
            assert first.layout.connector.times is TimePrecision.MICROSECONDS
        directory = DataDirectory(tmp_path / "data")
        directory.found("view", "kyc.changes", "id", 3, TimePrecision.ADAPTIVE)
        with open_workspace(Kind.APACHE, tmp_path, None, None) as second:
            assert second.layout.connector.times is TimePrecision.ADAPTIVE

    def test_one_that_was_given_goes_on_with_the_same_ports_and_password(self, tmp_path: Path) -> None:
        with open_workspace(Kind.APACHE, tmp_path / "d", 3, None) as first:
            assert not first.resumed
        with open_workspace(Kind.APACHE, tmp_path / "d", None, None) as second:
            assert second.resumed
            assert second.layout == first.layout
            assert second.layout.partitions == 3
        assert mode(tmp_path / "d" / "demo.json") == 0o600

    def test_a_second_start_of_the_embedded_stack_is_refused(self, tmp_path: Path) -> None:
        with open_workspace(Kind.EMBEDDED, tmp_path, None, None):
            pass
        before = sorted(p.name for p in tmp_path.iterdir())
        with pytest.raises(Refused, match="forgets") as refusal:
            run_demo(DemoOptions(directory=tmp_path))
        assert refusal.value.exit_code == 5
        assert sorted(p.name for p in tmp_path.iterdir()) == before

    @pytest.mark.parametrize(
        ("kind", "shards", "said"), [(Kind.EMBEDDED, None, "apache"), (Kind.APACHE, 8, "4 shards")]
    )
    def test_another_stack_or_shard_count_is_refused(
        self, tmp_path: Path, kind: Kind, shards: int | None, said: str
    ) -> None:
        with open_workspace(Kind.APACHE, tmp_path, 4, None):
            pass
        with pytest.raises(Refused, match=said), open_workspace(kind, tmp_path, shards, None):
            pass

    def test_two_at_once_in_one_are_refused(self, tmp_path: Path) -> None:
        with (
            open_workspace(Kind.APACHE, tmp_path, None, None),
            pytest.raises(Refused, match="another demo"),
            open_workspace(Kind.APACHE, tmp_path, None, None),
        ):
            pass

    def test_a_folder_with_other_things_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").write_text("…", encoding="utf-8")
        with pytest.raises(Refused, match=r"thesis\.txt"), open_workspace(Kind.EMBEDDED, tmp_path, None, None):
            pass
        assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "…"

    def test_an_unreadable_memory_is_a_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "demo.json").write_text("{", encoding="utf-8")
        with (
            pytest.raises(ConfigurationError, match=r"demo\.json"),
            open_workspace(Kind.APACHE, tmp_path, None, None),
        ):
            pass


@pytest.mark.parametrize("connect", [None, "http://127.0.0.1:8083"])
def test_the_configuration_is_one_that_kycache_reads(tmp_path: Path, connect: str | None) -> None:
    layout = Layout(tmp_path, Ports(5432, 9092, 9093, 8083), "s3cret", partitions=6)
    path = write_configuration(layout, 8080, connect)
    settings = load_settings(path)
    assert settings.data.dir == tmp_path / "data"
    assert settings.kafka.bootstrap == "127.0.0.1:9092"
    assert settings.kafka.topic == "kyc.changes"
    assert settings.http.port == 8080
    assert settings.connect.url == connect
    assert settings.connector.partitions == 6
    assert settings.source.dsn is not None
    assert settings.source.dsn.get_secret_value() == layout.postgres.dsn
    assert mode(path) == 0o600


@pytest.mark.parametrize(
    "options", [DemoOptions(stack="cloud"), DemoOptions(users=-1), DemoOptions(write_rate=-1)]
)
def test_senseless_options_are_configuration_errors(options: DemoOptions) -> None:
    with pytest.raises(ConfigurationError):
        run_demo(options)
