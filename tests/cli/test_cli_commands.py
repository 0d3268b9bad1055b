"""How a run of the command line ends: exit codes, and errors an operator can act on."""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from kycache.cli.commands import status
from support.command_line import RunCommand

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
        ("rebuild", "--by-hand"),
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


def test_an_unexpected_failure_says_where_and_no_value(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise ExceptionGroup("Lovelace", [KeyError("Lovelace")])

    monkeypatch.setattr(status, "data_directory", broken)
    ended = kycache("status")
    assert ended.code == 1
    assert ended.err.startswith("kycache: failed unexpectedly, by a mistake of ours: KeyError")
    assert "\n  next: report it" in ended.err
    assert "Lovelace" not in ended.err


def test_what_the_system_refuses_is_said_with_the_file(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise OSError(28, "No space left on device", "/data/run")

    monkeypatch.setattr(status, "data_directory", broken)
    ended = kycache("status")
    assert ended.code == 5
    assert ended.err.startswith("kycache: /data/run: No space left on device\n")


def test_a_librarys_exception_is_logged_without_its_message() -> None:
    script = """
import logging, structlog
from kycache.cli.support.log import configure_log
configure_log()
try:
    {}["Lovelace"]
except KeyError as error:
    logging.getLogger("hypercorn.error").exception("failed")
    structlog.get_logger().error("failed too", exc_info=error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Lovelace" not in done.stderr
    assert [line.count("KeyError < <module> <string>:6") for line in done.stderr.splitlines()] == [1, 1]
