"""The control socket: commands that change a shard are carried out by the process that holds it.

One line of JSON in, one line out, on `data/run/ingest-N.sock`; it ends with the process. Where nobody holds the
shard, the command takes its lock and does the work itself.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import structlog
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.store.store import Settled
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.model.errors import KycacheError, Unreachable
from kycache.model.view import View

from .bring import bring, bring_compacted
from .quarantine import settle
from .rebuild import rebuild

LINE_BYTES_MAX = 1 << 20
"""A request names some offsets, an answer a reason for each."""

OFFSETS_MAX = 5_000
"""Of one request; each is one change of one transaction."""

SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's address, in Linux (unix(7))."""

REQUEST_WAIT_S = 10.0
"""For a client's one line: it is written by the same command that opened the socket."""

ANSWER_WAIT_S = 120.0
"""What a client waits for: a command stops an actor (seconds) and works on files (tens of seconds)."""

log = structlog.get_logger()


class Request(msgspec.Struct, frozen=True):
    """A command for one shard."""

    command: Literal["rebuild", "replay", "drop", "bring", "compact"]
    shard: int
    offsets: tuple[int, ...] = ()
    replace: bool = False
    """`rebuild` and `bring`: do not build beside what serves."""
    generation: str = ""
    """`bring` and `compact`: which one into use; it lies in the shard's folder, whole."""
    of: str = ""
    """`compact`: the one that it is a copy of."""


class Answer(msgspec.Struct, frozen=True):
    """What became of it; `problem` is empty where it was done."""

    problem: str = ""
    remedy: str = ""
    away: bool = False
    """A server that is needed for it does not answer."""
    held: bool = True
    """The shard is held by the process that answers."""
    settled: tuple[Settled, ...] = ()


class Holder(Protocol):
    """The process, as its control socket sees it."""

    def holds(self, shard: int) -> bool:
        """The shard is held by this process."""
        ...

    async def carry_out(self, shard: int, work: Callable[[], None]) -> None:
        """Run `work` in a thread with the shard's actor stopped; raises what it raised."""
        ...


class Worker:
    """Carries a request out on a shard whose lock is held."""

    def __init__(
        self, settings: KafkaSettings, directory: DataDirectory, environments: Environments, view: View
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._environments = environments
        self._view = view

    def run(self, request: Request) -> tuple[Settled, ...]:
        """Blocking.

        Raises:
            KycacheError: it cannot be done; nothing was changed.
        """
        about = (self._settings, self._directory, self._environments, self._view, request.shard)
        if request.command == "rebuild":
            rebuild(*about, replace=request.replace)
            return ()
        if request.command == "bring":
            bring(self._directory, self._environments, request.shard, request.generation, request.replace)
            return ()
        if request.command == "compact":
            bring_compacted(
                self._settings, self._directory, self._environments, request.shard, request.generation, request.of
            )
            return ()
        return tuple(settle(*about, request.offsets[:OFFSETS_MAX], drop=request.command == "drop"))


async def serve_control(holder: Holder, worker: Worker, path: Path) -> None:
    """Answer commands until cancelled. The folder, not the socket, keeps other users out."""
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with _removed(path), listening:
        with address_of(path) as address:
            await listening.bind(address)
        listening.listen()
        await trio.serve_listeners(partial(_answer, holder, worker), [trio.SocketListener(listening)])


@contextmanager
def address_of(path: Path) -> Iterator[str]:
    """A socket's path, or a shorter name of it where it is too long for the system call."""
    if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """No socket file before, from a process that was killed, nor after."""
    path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _answer(holder: Holder, worker: Worker, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            with trio.fail_after(REQUEST_WAIT_S):
                line = await _line(stream)
            request = msgspec.json.decode(line, type=Request)
            answer = await _carry_out(holder, worker, request)
            await stream.send_all(msgspec.json.encode(answer) + b"\n")
        except (
            trio.TooSlowError,
            trio.BrokenResourceError,
            msgspec.MsgspecError,
            ValueError,
            RecursionError,
        ) as error:
            log.warning("a control request failed", error=type(error).__name__)


async def _line(stream: trio.SocketStream) -> bytes:
    received = b""
    while not received.endswith(b"\n") and len(received) < LINE_BYTES_MAX:
        chunk = await stream.receive_some(4096)
        if not chunk:
            break
        received += chunk
    return received


async def _carry_out(holder: Holder, worker: Worker, request: Request) -> Answer:
    if not holder.holds(request.shard):
        return Answer(held=False)
    settled: list[Settled] = []
    try:
        await holder.carry_out(request.shard, lambda: settled.extend(worker.run(request)))
    except KycacheError as error:
        return Answer(error.problem, error.remedy, away=isinstance(error, Unreachable))
    for one in settled:
        said = "a record left quarantine" if one.gone else "a record stays in quarantine"
        log.info(said, shard=request.shard, partition=request.shard, offset=one.offset, outcome=one.outcome)
    return Answer(settled=tuple(settled))
