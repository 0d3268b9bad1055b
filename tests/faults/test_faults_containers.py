"""FAULTS 30 and 31: two containers on one data directory, both of which count from 1, and a read-only mount."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from kycache.actors.files.pid_claim import PIDS_TRIED_MAX
from kycache.actors.integrity.child_walk import walk_in_child
from support.http_stand import Stand, people
from support.pipeline.scene import Scene
from support.pipeline.stack import Pipeline
from support.services import Running, status_of
from support.waiting import wait_until

KYCACHE = (sys.executable, "-m", "kycache.cli.main")
CONTAINER = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
MOUNTS = ("unshare", "--mount")
WAIT_S = 60.0
USERS = 300
PID_MAX = 1 << 22
"""The kernel's limit."""

TAKEN = 40
"""Pids that another container has: more than one of ours gets by its first forks."""


@pytest.fixture(autouse=True)
def _has_namespaces() -> None:
    tried = subprocess.run([*CONTAINER, "true"], check=False, capture_output=True)
    if tried.returncode:
        pytest.skip(f"no pid namespace can be made: {tried.stderr.decode().strip()}")


@pytest.fixture
def stand(no_settings: Path) -> Stand:
    """A data directory of a clean stop, with its configuration beside it."""
    made = Stand(no_settings / "data")
    made.load(people(USERS))
    made.close()
    (no_settings / "kycache.toml").write_text(
        "[http]\nport = 0\ndrain = 0\n[kafka]\nbootstrap = '127.0.0.1:1'\n", encoding="utf-8"
    )
    return made


@contextmanager
def container(folder: Path, *command: str) -> Iterator[Running]:
    """A command as the first process of a container."""
    running = Running(subprocess.Popen([*CONTAINER, *command], cwd=folder, stderr=subprocess.PIPE, text=True))
    try:
        yield running
    finally:
        running.close()


@contextmanager
def taken(stand: Stand, first: int, last: int) -> Iterator[None]:
    """Pids that processes of another container have claimed."""
    with (stand.directory.run / "pids.lock").open("wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, last - first + 1, first)
        yield


def children(pid: int) -> list[int]:
    """Pids as they are outside."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def first_process(running: Running) -> int:
    """The pid outside of the one that has 1 inside."""
    return children(running.child.pid)[0]


def inner_pid(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def gone(pid: int) -> bool:
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()  # a zombie's
    except (FileNotFoundError, ProcessLookupError):
        return True


def ended(running: Running) -> int:
    """The exit code after SIGTERM to the container's first process."""
    os.kill(first_process(running), signal.SIGTERM)
    return running.child.wait(WAIT_S)


def rows(url: str) -> int:
    with urlopen(f"{url}/users?size=500", timeout=WAIT_S) as answer:
        return len(json.loads(answer.read())["data"])


def url_of(web: Running) -> str:
    return str(web.logged("listening")["url"])


@pytest.mark.parametrize("workers", [1, 2])
def test_two_of_web_serve(stand: Stand, workers: int) -> None:
    """The second goes on with other pids; each ends by SIGTERM to its first process, and the other serves on."""
    web, folder = (*KYCACHE, "web", "--workers", str(workers)), stand.directory.root.parent
    with container(folder, *web) as first, container(folder, *web) as second:
        urls = [url_of(each) for each in (first, second)]
        for url in urls * 20:
            assert rows(url) == USERS
        assert ended(first) == 0
        assert rows(urls[1]) == USERS
        assert ended(second) == 0


def test_workers_are_started_until_their_pids_are_free(stand: Stand) -> None:
    with taken(stand, 1, TAKEN), container(stand.directory.root.parent, *KYCACHE, "web", "--workers", "2") as web:
        assert rows(url_of(web)) == USERS
        workers = children(first_process(web))
        assert len(workers) == 2
        assert all(inner_pid(worker) > TAKEN for worker in workers)
        assert ended(web) == 0


def test_a_walk_is_started_again_until_its_pid_is_free(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pid of a child that walks a file after an unclean stop, which opens it as LMDB's readers do."""
    others = ExitStack()
    others.enter_context(taken(stand, 1, PID_MAX))
    started: list[object] = []

    def start(*arguments: Any, **options: Any) -> Any:
        if len(started) == 2:
            others.close()
        child = popen(*arguments, **options)
        started.append(child)
        return child

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    generation = stand.directory.shard(0).current()
    assert generation is not None
    assert walk_in_child(generation, 0, stand.view).state.users
    assert len(started) == 3


def test_no_pid_is_free(stand: Stand) -> None:
    """It gives up, says which namespace it is in, and no file was opened."""
    with taken(stand, 1, 2 * PIDS_TRIED_MAX), container(stand.directory.root.parent, *KYCACHE, "status") as status:
        assert status.child.wait(WAIT_S) == 5
        said = status.lines.get(timeout=WAIT_S)
        assert said.startswith("kycache: pid 1 (of pid namespace pid:[")
        assert f"another container that uses {stand.directory.root}:" in said
        assert "share one pid namespace" in status.lines.get(timeout=WAIT_S)


def test_a_command_ends_as_its_child_does(stand: Stand) -> None:
    """By its exit code, by a signal of its own, and with a parent that was killed."""
    folder = stand.directory.root.parent
    with taken(stand, 1, TAKEN):
        with container(folder, *KYCACHE, "quarantine", "show", "99", "1") as command:
            assert command.child.wait(WAIT_S) == 5
        with container(folder, *KYCACHE, "web") as web:
            url_of(web)
            parent = first_process(web)
            (child,) = children(parent)
            assert (inner_pid(parent), inner_pid(child) > TAKEN) == (1, True)
            os.kill(child, signal.SIGKILL)
            assert web.child.wait(WAIT_S) == 128 + signal.SIGKILL
        with container(folder, "sh", "-c", f"{shlex.join(KYCACHE)} web; sleep 600") as web:
            url_of(web)
            (parent,) = children(first_process(web))
            (child,) = children(parent)
            os.kill(parent, signal.SIGKILL)
            while '"stopping"' not in web.lines.get(timeout=WAIT_S):
                pass
            wait_until(lambda: gone(child), "the child's end")


def test_orphans_are_reaped(stand: Stand) -> None:
    """The first process of a container is the parent of whatever loses its own."""
    with taken(stand, 1, TAKEN), container(stand.directory.root.parent, *KYCACHE, "web") as web:
        url_of(web)
        parent = first_process(web)
        enter = ["nsenter", "--pid", f"--target={parent}", "sh", "-c", "sleep 0.1 &"]
        subprocess.run(enter, check=True)
        wait_until(lambda: len(children(parent)) == 1, "the orphan's end")
        assert ended(web) == 0


def test_ingest_and_web_and_commands(apache_stack: Pipeline, no_settings: Path) -> None:
    """Each is the first process of a container of its own; one of ingest is killed and comes back."""
    scene = Scene(no_settings, apache_stack.bootstrap, f"t-containers-{time.time_ns() % 10**9}")
    configured = (*KYCACHE, "--config", str(scene.home.configuration))
    try:
        scene.begin()
        with container(no_settings, *configured, "web", "--port", "0") as web:
            url = url_of(web)  # before there is any file
            with container(no_settings, *configured, "ingest") as ingest:
                ingest.logged("ingesting")
                scene.wait_caught_up()
                users = rows(url)
                assert users == len(scene.source.users)
                for command in (
                    ["status", "--json"],
                    ["doctor"],
                    ["quarantine", "list"],
                    ["compact", "--no-wait"],
                ):
                    done = subprocess.run(
                        [*CONTAINER, *configured, *command],
                        capture_output=True,
                        text=True,
                        check=False,
                        cwd=no_settings,
                        timeout=WAIT_S,
                    )
                    assert "pid" not in done.stderr
                    assert done.returncode == (5 if command == ["doctor"] else 0), done.stdout + done.stderr
                os.kill(first_process(ingest), signal.SIGKILL)
                ingest.child.wait(WAIT_S)
            # Copies that web had not opened before the kill are walked first.
            wait_until(lambda: status_of(f"{url}/users") == 200, "web serves")
            assert rows(url) == users
            with container(no_settings, *configured, "ingest") as ingest:
                ingest.logged("ingesting")
                scene.live(20)
                scene.wait_caught_up()
                assert rows(url) == len(scene.source.users)
                assert ended(ingest) == 0
            assert rows(url) == len(scene.source.users)
            assert ended(web) == 0
        assert {shard["state"] for shard in scene.home.status()} == {"stale"}  # the fake source's clock: the past
        scene.assert_equals_source()
    finally:
        scene.feed.close()


def read_only(folder: Path, mounted: Path, *command: str) -> "subprocess.CompletedProcess[str]":
    """A command that sees a folder on a read-only mount, and everything else as it is."""
    script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
    return subprocess.run(
        [*MOUNTS, "sh", "-c", script, str(mounted), *KYCACHE, *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )


@pytest.mark.parametrize("command", [["web"], ["web", "--workers", "2"], ["status"]], ids=" ".join)
def test_a_read_only_mount_is_refused(stand: Stand, command: list[str]) -> None:
    """LMDB would read there without an entry in its table of readers, beside a writer on the writable side."""
    done = read_only(stand.directory.root.parent, stand.directory.root, *command)
    assert done.returncode == 5
    assert "data is on a read-only mount" in done.stderr
    assert "mount the data directory writable" in done.stderr


def test_a_shard_on_a_read_only_mount_is_refused(stand: Stand) -> None:
    done = read_only(stand.directory.root.parent, stand.directory.shard(1).path, "status", "--json")
    assert done.returncode == 0, done.stderr
    reasons = [shard["reason"] for shard in json.loads(done.stdout)["shards"]]
    assert [reason is not None and "is on a read-only mount" in reason for reason in reasons] == [
        False,
        True,
        False,
    ]
