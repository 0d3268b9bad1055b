"""`kycache demo` as a newcomer starts it: a process of its own, known only by its ready file."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from support.waiting import wait_until

READY_WAIT_S = 180.0
STOP_WAIT_S = 60.0


class RunningDemo:
    """A demo that is ready."""

    def __init__(self, process: subprocess.Popen[bytes], ready_file: Path, output: Path) -> None:
        self.process = process
        self.output = output
        self._ready_file = ready_file

    @property
    def facts(self) -> dict[str, Any]:
        """What the ready file says now."""
        facts: dict[str, Any] = json.loads(self._ready_file.read_text(encoding="utf-8"))
        return facts

    @property
    def dsn(self) -> str:
        return str(self.facts["postgres"])

    @property
    def configuration(self) -> Path:
        return Path(self.facts["dir"]) / "kycache.toml"

    def client(self) -> httpx.Client:
        """A client of its HTTP server."""
        return httpx.Client(base_url=self.facts["http"], timeout=30)

    def sql(self, statement: str, *values: Any) -> str:
        """Run a statement in a transaction of its own; returns the token for reading it back."""
        with psycopg.connect(self.dsn, autocommit=True) as db:
            db.execute(statement.encode(), values)
            row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def kill(self, name: str) -> int:
        """kill -9 one of its processes; returns the pid that is gone."""
        pid = int(self.facts["pids"][name])
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_revived(self, name: str, gone: int) -> None:
        """Wait until the ready file names another process in the place of `gone`."""
        wait_until(lambda: self.facts["pids"][name] != gone, f"{name} was not started again")

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A kycache command on this demo's configuration."""
        return subprocess.run(
            [*KYCACHE, "--config", str(self.configuration), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


KYCACHE = (sys.executable, "-m", "kycache.cli.main")


def start_demo(folder: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], Path, Path]:
    """Start a demo; its ready file and its output lie in `folder`."""
    ready_file, output = folder / "ready.json", folder / "demo.out"
    with output.open("wb") as out:
        process = subprocess.Popen(
            [*KYCACHE, "demo", "--ready-file", str(ready_file), *arguments],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    return process, ready_file, output


@contextmanager
def running_demo(folder: Path, *arguments: str) -> Iterator[RunningDemo]:
    """A demo from start to end. It must end by SIGTERM with exit 0, and nothing of it may be left."""
    process, ready_file, output = start_demo(folder, *arguments)
    try:
        wait_until(
            lambda: ready_file.exists() or process.poll() is not None, "the demo is not ready", READY_WAIT_S
        )
        assert process.poll() is None, output.read_text(encoding="utf-8")
        demo = RunningDemo(process, ready_file, output)
        yield demo
        pids = [*demo.facts["pids"].values()]
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_WAIT_S) == 0, output.read_text(encoding="utf-8")
        assert not [pid for pid in pids if _runs(pid)]
        assert not ready_file.exists()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
