"""The control socket: commands that change a shard are carried out by the process that holds it.

One line of JSON in, one line out, on `data/run/ingest-N.sock`; it ends with the process.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from kycache.actors.environment import Environments
from kycache.actors.files import DataDirectory
from kycache.model.errors import KycacheError, Refused
from kycache.model.view import View

from .rebuild import rebuild
from .settings import KafkaSettings

REQUEST_BYTES_MAX = 64 << 10
"""A request names a command and some shards."""

REQUEST_WAIT_S = 10.0
"""For a client's one line: it is written by the same command that opened the socket."""

ANSWER_WAIT_S = 120.0
"""What a client waits for: a command stops an actor (seconds) and works on files (tens of seconds)."""

log = structlog.get_logger()


class Commands(Protocol):
    """What the process can be told to do."""

    def holds(self, shard: int) -> bool:
        """The shard is held by this process."""

    async def rebuild(self, shard: int) -> None:
        """Start a shard over; raises `KycacheError` where it cannot be."""


class Request(msgspec.Struct, frozen=True):
    """A command for one shard."""

    command: str
    shard: int


class Answer(msgspec.Struct, frozen=True):
    """What became of it; `problem` is empty where it was done."""

    problem: str = ""
    remedy: str = ""
    held: bool = True
    """The shard is held by the process that answers."""


async def serve_control(ingest: Commands, path: Path) -> None:
    """Answer commands until cancelled. The folder, not the socket, keeps other users out."""
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with _removed(path), listening:
        await listening.bind(os.fspath(path))
        listening.listen()
        await trio.serve_listeners(partial(_answer, ingest), [trio.SocketListener(listening)])


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """No socket file before, from a process that was killed, nor after."""
    path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _answer(ingest: Commands, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            with trio.fail_after(REQUEST_WAIT_S):
                line = await _line(stream)
            request = msgspec.json.decode(line, type=Request)
            answer = await _carry_out(ingest, request)
            await stream.send_all(msgspec.json.encode(answer) + b"\n")
        except (trio.TooSlowError, trio.BrokenResourceError, msgspec.MsgspecError) as error:
            log.warning("a control request failed", error=type(error).__name__)


async def _line(stream: trio.SocketStream) -> bytes:
    received = b""
    while not received.endswith(b"\n") and len(received) < REQUEST_BYTES_MAX:
        chunk = await stream.receive_some(4096)
        if not chunk:
            break
        received += chunk
    return received


async def _carry_out(ingest: Commands, request: Request) -> Answer:
    if not ingest.holds(request.shard):
        return Answer(held=False)
    if request.command != "rebuild":
        return Answer(f"unknown command {request.command!r}", "use the kycache that runs there")
    try:
        await ingest.rebuild(request.shard)
    except KycacheError as error:
        return Answer(error.problem, error.remedy)
    return Answer()


def ask(path: Path, request: Request) -> Answer | None:
    """Send a command to one process; None where nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_WAIT_S)
        try:
            client.connect(os.fspath(path))
            client.sendall(msgspec.json.encode(request) + b"\n")
            with client.makefile("rb") as answers:
                return msgspec.json.decode(answers.readline(REQUEST_BYTES_MAX), type=Answer)
        except (OSError, msgspec.MsgspecError):
            return None


def rebuild_shard(
    settings: KafkaSettings,
    directory: DataDirectory,
    view: View,
    shard: int,
    environments: Callable[[], Environments],
) -> None:
    """Rebuild a shard: by its holder, or here where nobody holds it. Blocking.

    Raises:
        KycacheError: it could not be; nothing was changed.
    """
    directory.prepare()
    lock = directory.shard(shard).lock()
    if lock is not None:
        try:
            rebuild(settings, directory, environments(), view, shard)
        finally:
            lock.release()
        return
    for path in sorted(directory.run.glob("ingest-*.sock")):
        answer = ask(path, Request("rebuild", shard))
        if answer is None or not answer.held:
            continue
        if answer.problem:
            raise Refused(answer.problem, answer.remedy)
        return
    raise Refused(
        f"shard {shard} is held by {directory.shard(shard).holder()}, which does not answer",
        "stop that process, then run this again",
    )
