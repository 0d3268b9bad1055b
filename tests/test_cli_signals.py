"""A command that a signal ends clears away what it began: SIGTERM, as Ctrl-C, unlike a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from command_line import RunCommand
from snapshot_stand import Stand

from kycache.cli import rebuild, status
from kycache.snapshots.lock import one_at_a_time

MIB_S = 0.25
"""Of a file of about a MiB: the copy takes seconds, and the signal comes in its midst."""


WAIT_S = 60.0

TRIES_MAX = 20
"""Of a command that may have ended before a busy machine lets the test see that it began."""

BEGUN = {
    "create": "store/*/run.json",
    "verify": "data/run/kycache-verify-*/data.mdb",
    "compact": "data/shards/0000/gen-*/ARRIVING",
}
"""What each makes first."""

LEFT = {**BEGUN, "create": "store/*/*#*"}
"""What it must not leave behind; a run of `create` is gone on with."""


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell lets its background jobs ignore Ctrl-C, `nohup` the hangup; what is ignored, a child ignores too."""
    both = (signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in both]
    yield
    for number, handler in zip(both, before, strict=True):
        signal.signal(number, handler)


def struck(arguments: list[str], folder: Path, begun: str, number: signal.Signals) -> tuple[int, str]:
    """Run a command and send it a signal when what it makes first is there; its exit code and what it told."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with process:
        deadline = time.monotonic() + WAIT_S
        while not [*folder.glob(begun)] and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(number)
        told = process.communicate(timeout=WAIT_S)[1]
    return process.returncode, told


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("create", signal.SIGTERM),
        ("create", signal.SIGINT),
        ("create", signal.SIGHUP),
        ("verify", signal.SIGTERM),
        ("compact", signal.SIGTERM),
    ],
)
def test_a_signal_leaves_nothing_half_done(tmp_path: Path, command: str, number: signal.Signals) -> None:
    stand = Stand.make(tmp_path, rounds=40)
    manifest = stand.take()
    stand.close()
    file = tmp_path / "kycache.toml"
    file.write_text(
        '[data]\ndir = "data"\nmap_size_gib = 1.0\n'
        f"[snapshots]\nrate = {MIB_S}\nstore = {json.dumps(stand.settings.store)}\n"
    )
    words = {
        "create": ["snapshot", "create"],
        "verify": ["snapshot", "verify", manifest.id],
        "compact": ["compact"],
    }
    arguments = [sys.executable, "-m", "kycache.cli.main", "--config", str(file), *words[command]]
    for _ in range(TRIES_MAX):
        code, told = struck(arguments, tmp_path, BEGUN[command], number)
        if code:
            break
    assert code == 128 + number, told
    assert "Traceback" not in told
    assert not [*tmp_path.glob(LEFT[command])]
    directory = stand.shards[0].directory
    with one_at_a_time(directory):
        pass
    assert len([*directory.shard(0).path.glob("gen-*")]) == 1


class Connector:
    """A Kafka Connect that only says what it was told."""

    name = "kycache"

    def __init__(self) -> None:
        self.told: list[str] = []

    def stop(self) -> None:
        self.told.append("stop")

    def drop_offsets(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def resume(self) -> None:
        self.told.append("resume")


def test_a_connector_that_was_stopped_goes_on(
    tmp_path: Path, kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stand.make(tmp_path, rounds=1).close()
    connector = Connector()
    monkeypatch.setattr(rebuild, "_connect", lambda *_: connector)
    before = signal.getsignal(signal.SIGTERM)
    assert kycache("rebuild", "--epoch", "--yes").code == 128 + signal.SIGTERM
    assert connector.told == ["stop", "resume"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_clearing_away_stumbles_over_is_no_mistake_of_ours(
    kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may strike where a thread is being started."""

    def broken(*_: object) -> NoReturn:
        with pytest.raises(SystemExit):
            os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError

    monkeypatch.setattr(status, "data_directory", broken)
    ended = kycache("status")
    assert (ended.code, ended.err) == (128 + signal.SIGTERM, "")
