"""How a run of the command line ends: exit codes, and errors an operator can act on."""

from pathlib import Path

import pytest
from command_line import RunCommand

NO_BROKER = "[kafka]\nbootstrap = '127.0.0.1:1'\n"
"""Nobody listens on TCP port 1."""


def test_version(kycache: RunCommand) -> None:
    ended = kycache("--version")
    assert (ended.code, ended.out.split()[0]) == (0, "kycache")


def test_no_command_is_help(kycache: RunCommand) -> None:
    assert "Usage: kycache" in kycache("--help").out


@pytest.mark.parametrize(
    "arguments",
    [
        ("nothing",),
        ("status", "--nothing"),
        ("web", "--workers", "many"),
        ("rebuild", "--shard", "-1"),
        ("demo", "--users", "-5"),
    ],
)
def test_wrong_usage_exits_2(kycache: RunCommand, arguments: tuple[str, ...]) -> None:
    ended = kycache(*arguments)
    assert ended.code == 2
    assert ended.out == ""


@pytest.mark.parametrize("command", ["node", "ingest", "web", "status", "connector", "doctor", "rebuild"])
def test_wrong_configuration_exits_3(kycache: RunCommand, tmp_path: Path, command: str) -> None:
    (tmp_path / "kycache.toml").write_text("[http]\nport = 'many'\n", encoding="utf-8")
    ended = kycache(command)
    assert ended.code == 3
    assert ended.err.startswith(f"kycache: {tmp_path / 'kycache.toml'}, line 2: [http] port: ")
    assert "\n  next: " in ended.err
    assert ended.out == ""


@pytest.mark.parametrize("command", ["node", "ingest", "web", "status", "connector", "doctor", "rebuild"])
def test_wrong_view_exits_3(kycache: RunCommand, tmp_path: Path, command: str) -> None:
    (tmp_path / "kycache.toml").write_text("[view]\nfile = 'mine.toml'\n", encoding="utf-8")
    ended = kycache(command)
    assert ended.code == 3
    assert "mine.toml cannot be read" in ended.err
    (tmp_path / "mine.toml").write_text("name = 'kyc'\nroot = 3\nlist = 4\n", encoding="utf-8")
    ended = kycache(command)
    assert ended.code == 3
    assert "mine.toml, line 2: " in ended.err


def test_configuration_file_that_is_not_there_exits_3(kycache: RunCommand) -> None:
    assert kycache("--config", "absent.toml", "status").code == 3


@pytest.mark.parametrize("command", ["ingest", "node"])
def test_nothing_stored_and_no_broker_exits_4(kycache_process: RunCommand, tmp_path: Path, command: str) -> None:
    (tmp_path / "kycache.toml").write_text(f"{NO_BROKER}[http]\nport = 0\n", encoding="utf-8")
    ended = kycache_process(command)
    assert ended.code == 4
    assert "kycache: no Kafka broker answers at 127.0.0.1:1" in ended.err
    assert "\n  next: " in ended.err


@pytest.mark.parametrize("command", ["web", "node"])
def test_open_address_exits_3(kycache: RunCommand, command: str) -> None:
    ended = kycache(command, "--host", "0.0.0.0")
    assert ended.code == 3
    assert "allow_unauthenticated" in ended.err


def test_rebuild_of_nothing_exits_5(kycache: RunCommand) -> None:
    ended = kycache("rebuild", "--yes")
    assert ended.code == 5
    assert "nothing was ingested" in ended.err
