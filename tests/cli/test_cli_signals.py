"""A command that a signal ends clears away what it began: SIGTERM, as Ctrl-C, unlike a kill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, NoReturn

import pytest

from kycache.cli.commands import status
from kycache.snapshots.lock import one_at_a_time
from support.command_line import RunCommand
from support.snapshot_stand import Stand

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
    code, told = 0, ""
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


class Connect(BaseHTTPRequestHandler):
    """A Kafka Connect whose connector stops when it is told to, or takes its time. At one order the command is
    struck, before it has the answer."""

    told: ClassVar[list[str]]
    struck_at: ClassVar[str]

    def do_PUT(self) -> None:
        self._take(204)

    def do_DELETE(self) -> None:
        self._take(200)

    def do_GET(self) -> None:
        self._take(200, b'{"connector": {"state": "STOPPED"}, "tasks": []}')

    def _take(self, status: int, body: bytes = b"") -> None:
        what = self.path.rpartition("/")[2]
        self.told.append(what)
        if what == self.struck_at:
            os.kill(os.getpid(), signal.SIGTERM)
        with suppress(ConnectionError):  # the command does not wait for what it no longer wants
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nowhere."""


@pytest.mark.parametrize("order", ["stop", "status", "offsets"])
def test_a_connector_that_was_stopped_goes_on(tmp_path: Path, kycache: RunCommand, order: str) -> None:
    """Also where the signal comes while it is still stopping, which may take a minute and a half."""
    Stand.make(tmp_path, rounds=1).close()
    told: list[str] = []
    handler = type("Struck", (Connect,), {"told": told, "struck_at": order})
    before = signal.getsignal(signal.SIGTERM)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as connect:
        threading.Thread(target=connect.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{connect.server_port}"
        (tmp_path / "kycache.toml").write_text(f"[connect]\nurl = '{url}'\n", encoding="utf-8")
        assert kycache("rebuild", "--epoch", "--yes").code == 128 + signal.SIGTERM
        connect.shutdown()
    assert (told[0], told[-2:]) == ("stop", [order, "resume"])
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
