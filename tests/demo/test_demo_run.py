"""`kycache demo` as its user runs it: ready, kept alive, stopped without a trace."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from support.waiting import wait_until

READY_WITHIN_S = 240.0
"""Ten times what it takes; CI's machine has other things to do."""

WITHIN_S = 60.0
USERS = 300


class Demo:
    """A running `kycache demo` of the embedded stack."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._ready = folder / "ready.json"
        self.output = folder / "output"
        command = [sys.executable, "-m", "kycache.cli.main", "demo", "--users", str(USERS), *arguments]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--ready-file", str(self._ready)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder)},
            )

    @property
    def facts(self) -> dict[str, Any]:
        """The ready file as it is now."""
        document: dict[str, Any] = json.loads(self._ready.read_text(encoding="utf-8"))
        return document

    def wait_ready(self) -> None:
        wait_until(lambda: self._ready.exists() or self.process.poll() is not None, "ready", READY_WITHIN_S)
        assert self.process.poll() is None, self.output.read_text(encoding="utf-8")

    def listed(self) -> int:
        """How many users the list counts; -1 while nobody answers."""
        try:
            with urllib.request.urlopen(f"{self.facts['http']}/users?size=1", timeout=5) as answer:
                return int(json.load(answer)["page"]["total"])
        except OSError:
            return -1

    def has_another(self, name: str, old: int) -> bool:
        """Whether the ready file names another process than `old`."""
        return bool(self.facts["pids"][name] != old)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    tmp_path.chmod(0o711)
    running = Demo(tmp_path, "--write-rate", "20")
    try:
        running.wait_ready()
        yield running
    finally:
        running.process.terminate()
        running.process.wait(WITHIN_S)


@pytest.mark.timeout(600)
def test_it_comes_up_stays_up_and_leaves_nothing(demo: Demo, tmp_path: Path) -> None:
    facts = demo.facts
    assert set(facts["pids"]) == {"ingest", "web", "postgres", "broker", "debezium"}
    assert all(is_alive(pid) for pid in facts["pids"].values())
    assert facts["connect"] is None
    assert Path(facts["dir"], "kycache.toml").is_file()
    printed = demo.output.read_text(encoding="utf-8")
    assert printed.count("curl -s") == 3
    assert printed.count("psql ") == 1
    (command,) = re.findall(r"^  Commands  (.+)$", printed, re.MULTILINE)
    elsewhere = {"PATH": os.defpath}  # as in a shell that knows nothing of this installation
    told = subprocess.run(command, shell=True, check=True, capture_output=True, text=True, env=elsewhere)
    assert told.stdout.count(" ready ") == 4

    with psycopg.connect(facts["postgres"], autocommit=True) as db:
        # The system of record writes by itself: the newest change is never old.
        newest = "SELECT max(updated_at) > now() - interval '10 s' FROM users"
        wait_until(lambda: db.execute(newest).fetchone() == (True,), "a write")

    for name in ("ingest", "web"):
        old = demo.facts["pids"][name]
        os.kill(old, signal.SIGKILL)
        wait_until(partial(demo.has_another, name, old), f"another {name}")
    wait_until(lambda: demo.listed() > 0, "an answer")
    assert all(is_alive(pid) for pid in demo.facts["pids"].values())

    pids = demo.facts["pids"].values()
    demo.process.send_signal(signal.SIGINT)
    assert demo.process.wait(WITHIN_S) == 0
    assert not any(is_alive(pid) for pid in pids)
    assert [p.name for p in tmp_path.iterdir()] == ["output"]


@pytest.mark.timeout(600)
def test_an_embedded_broker_that_dies_ends_the_demo_with_a_reason(demo: Demo, tmp_path: Path) -> None:
    pids = demo.facts["pids"]
    os.kill(pids["broker"], signal.SIGKILL)
    assert demo.process.wait(WITHIN_S) == 4
    assert "broker ended, and what it held in memory is gone" in demo.output.read_text(encoding="utf-8")
    assert not any(is_alive(pid) for pid in pids.values())
    assert [p.name for p in tmp_path.iterdir()] == ["output"]
