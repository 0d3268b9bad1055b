"""Several processes on one port: shared counts, restarts, an end in order."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support.http_stand import Stand, User
from support.waiting import wait_until

PROGRAM = """
import os, signal, sys
from functools import partial
from pathlib import Path

import trio

from kycache.actors.files.environment import Environments
from kycache.actors.files.directory import DataDirectory
from kycache.actors.rules.freshness import Limits
from kycache.actors.router import Router
from kycache.http.serving.server import HttpSettings, serve
from kycache.http.serving.workers import Worker, run_workers
from kycache.model.errors import Refused
from kycache.model.definition import default_view

directory = DataDirectory(Path(sys.argv[1]))
settings = HttpSettings(port=0, workers=2, drain_s=0.0, grace_s=2.0)


async def run(worker: Worker) -> None:
    router = Router(directory, Environments(readonly=True, map_size=1 << 28), default_view(), Limits())
    port = worker.listener.getsockname()[1]
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(
                partial(serve, router, settings, directory, listener=worker.listener, counts=worker.counts)
            )
            os.write(1, f"up {worker.number} {os.getpid()} {port}\\n".encode())  # one write: lines stay whole
            async for _ in signals:
                nursery.cancel_scope.cancel()
    router.close()


def start_one(worker: Worker) -> None:
    if sys.argv[2] == "hopeless" and worker.number == 1:
        raise Refused("another view", "set it back")
    trio.run(run, worker)


sys.exit(run_workers(settings, start_one))
"""


def alive(pid: int) -> bool:
    """Whether the process runs (and is not a zombie whose parent is gone)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Site:
    """The parent process, and what its workers said."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.url = ""

    def up(self) -> tuple[int, int]:
        """The next worker that came up: its number, its process."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.fullmatch(r"up (\d) (\d+) (\d+)\n", line)
        assert match is not None, line or (self.process.stderr and self.process.stderr.read())
        self.url = f"http://127.0.0.1:{match[3]}"
        return int(match[1]), int(match[2])


@contextmanager
def running(root: Path, mode: str = "") -> Iterator[Site]:
    command = [sys.executable, "-c", PROGRAM, str(root), mode]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Site(process)
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    stand = Stand(tmp_path / "data", shards=2)
    stand.load(User(n) for n in range(1, 20))
    yield stand.directory.root
    stand.close()


def get(site: Site, path: str) -> httpx.Response:
    return httpx.get(site.url + path, verify=False)


def test_two_workers_one_port(root: Path) -> None:
    with running(root) as site:
        pids = dict([site.up(), site.up()])
        cursor = get(site, "/users?size=5").json()["page"]["next"]
        for _ in range(20):  # whichever worker takes the connection
            assert get(site, f"/users?cursor={cursor}").status_code == 200
        os.kill(pids[1], signal.SIGKILL)
        number, successor = site.up()
        assert number == 1
        assert successor not in pids.values()
        text = get(site, "/metrics").text
        assert 'kycache_http_requests_total{route="/users",status="200"} 21.0' in text
        site.process.terminate()
        assert site.process.wait(10) == 0
        assert not alive(pids[0])
        assert not alive(successor)
        assert site.process.stderr is not None
        assert "web worker 1 ended with -9, starts again in 0.1 s" in site.process.stderr.read()


def test_workers_end_with_their_parent(root: Path) -> None:
    with running(root) as site:
        pids = dict([site.up(), site.up()])
        site.process.kill()
        site.process.wait(10)
        wait_until(lambda: not any(map(alive, pids.values())), "workers outlive their parent")


def test_what_cannot_be_helped_ends_all(root: Path) -> None:
    with running(root, "hopeless") as site:
        assert site.process.wait(10) == 5
        assert site.process.stderr is not None
        assert "kycache: another view; set it back" in site.process.stderr.read()
