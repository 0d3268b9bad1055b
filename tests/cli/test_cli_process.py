"""Long-running commands: services start in order, end in reverse, and a signal ends a real process with 0."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import trio

from kycache.cli.support.process import run_until_stopped
from kycache.model.definition import default_view
from kycache.model.errors import Refused, Unreachable
from support.command_line import RunCommand
from support.pipeline.stack import Pipeline
from support.services import started, status_of, wait_ready
from support.shards import ShardUnderTest


class Diary:
    """What services did, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def service(
        self,
        name: str,
        *,
        then: signal.Signals | None = None,
        fails: BaseException | None = None,
        starts: bool = True,
        task_status: "trio.TaskStatus[None]",
    ) -> None:
        """Starts, sends a signal or fails, and ends when cancelled, after a moment's work."""
        self.lines.append(f"{name} starts")
        try:
            if starts:
                task_status.started()
            if then is not None:
                os.kill(os.getpid(), then)
            if fails is not None:
                raise fails
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            self.lines.append(f"{name} ends")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_services_in_reverse(number: signal.Signals) -> None:
    diary = Diary()
    run_until_stopped(
        partial(diary.service, "ingest"),
        partial(diary.service, "watch"),
        partial(diary.service, "web", then=number),
    )
    assert diary.lines == [
        "ingest starts",
        "watch starts",
        "web starts",
        "web ends",
        "watch ends",
        "ingest ends",
    ]


def test_a_signal_while_starting_cancels() -> None:
    diary = Diary()
    run_until_stopped(
        partial(diary.service, "ingest", then=signal.SIGTERM, starts=False), partial(diary.service, "web")
    )
    assert diary.lines == ["ingest starts", "ingest ends"]


@pytest.mark.parametrize("starts", [True, False])
def test_an_expected_failure_is_told_alone(starts: bool) -> None:
    diary = Diary()
    with pytest.raises(Refused, match="other topic"):
        run_until_stopped(
            partial(diary.service, "ingest"),
            partial(diary.service, "web", fails=Refused("other topic"), starts=starts),
        )
    assert diary.lines[-1] == "ingest ends"


def test_a_bug_is_not_hidden_behind_an_expected_failure() -> None:
    async def both(*, task_status: "trio.TaskStatus[None]") -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(Diary().service, "a", fails=ZeroDivisionError(), task_status=task_status))
            raise Unreachable("gone")

    with pytest.raises(BaseExceptionGroup) as caught:
        run_until_stopped(both)
    assert caught.value.split(ZeroDivisionError)[0] is not None


def test_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run_until_stopped(partial(Diary().service, "web", then=signal.SIGTERM))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_web_ends_with_0(no_settings: Path, workers: int, number: signal.Signals) -> None:
    ShardUnderTest(no_settings / "data", default_view()).close()
    (no_settings / "kycache.toml").write_text("[http]\nport = 0\ndrain = 0\n", encoding="utf-8")
    with started(no_settings, "web", "--workers", str(workers)) as web:
        url = str(web.logged("listening")["url"])
        for _ in range(workers - 1):
            assert web.logged("listening")["url"] == url
        assert status_of(f"{url}/livez") == 200
        assert status_of(f"{url}/users") == 503  # nothing was ingested yet
        assert web.stop(number) == 0


def test_a_port_in_use_exits_3(no_settings: Path, kycache: RunCommand) -> None:
    (no_settings / "kycache.toml").write_text("[http]\nport = 0\n", encoding="utf-8")
    with started(no_settings, "web") as web:
        port = str(web.logged("listening")["url"]).rpartition(":")[2]
        ended = kycache("web", "--port", port)
        assert ended.code == 3
        assert f"port {port} on 127.0.0.1 is in use" in ended.err
        assert web.stop(signal.SIGTERM) == 0


def test_node_does_both(kycache_process: RunCommand, no_settings: Path, pipeline: Pipeline) -> None:
    (no_settings / "kycache.toml").write_text(
        f"[kafka]\nbootstrap = '{pipeline.bootstrap}'\ntopic = '{pipeline.topic}'\ngroup = 'test-node'\n"
        "[http]\nport = 0\n[data]\nmap_size_gib = 0.1\n",
        encoding="utf-8",
    )
    with started(no_settings, "node") as node:
        url = str(node.logged("listening")["url"])
        wait_ready(url)
        assert status_of(f"{url}/users") == 200
        shards = kycache_process("status", "--json").json["shards"]
        assert [entry["state"] for entry in shards] == ["ready"] * pipeline.partitions
        assert {str(entry["owner"]).rpartition(":")[2] for entry in shards} == {str(node.child.pid)}

        # Carried out by the process that holds the shards.
        rebuilt = kycache_process("rebuild", "--shard", "1", "--yes")
        assert (rebuilt.code, rebuilt.err) == (0, "")
        wait_ready(url)
        assert node.stop(signal.SIGTERM) == 0

    shards = kycache_process("status", "--json").json["shards"]
    assert {entry["owner"] for entry in shards} == {None}
    assert kycache_process("rebuild", "--shard", "9", "--yes").code == 5
