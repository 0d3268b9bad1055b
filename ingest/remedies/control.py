"""The control socket: the process that holds a shard carries out what commands ask of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
import structlog
import trio

from kycache.actors.store.store import Settled
from kycache.model.errors import KycacheError, Unreachable

from .protocol import LINE_BYTES_MAX, Answer, Command, address_of

COMMAND_WAIT_S = 10.0
"""For a client's one line: it is written by the same command that opened the socket."""

Work = Callable[[Command], tuple[Settled, ...]]
"""Carries a command out on a shard that is held and stopped (`work.carry_out`)."""

log = structlog.get_logger()


class Holder(Protocol):
    """The process, as its control socket sees it."""

    def holds(self, shard: int) -> bool:
        """The shard is held by this process."""
        ...

    async def carry_out(self, shard: int, work: Callable[[], None]) -> None:
        """Run `work` in a thread with the shard's actor stopped; raises what it raised."""
        ...


async def serve_control(holder: Holder, work: Work, path: Path) -> None:
    """Answer commands until cancelled. The folder, not the socket, keeps other users out."""
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with _removed(path), listening:
        with address_of(path) as address:
            await listening.bind(address)
        listening.listen()
        await trio.serve_listeners(partial(_serve_one, holder, work), [trio.SocketListener(listening)])


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    """No socket file before, from a process that was killed, nor after."""
    path.unlink(missing_ok=True)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


async def _serve_one(holder: Holder, work: Work, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            with trio.fail_after(COMMAND_WAIT_S):
                line = await _line(stream)
            command = msgspec.json.decode(line, type=Command)
            answered = await answer(holder, work, command)
            await stream.send_all(msgspec.json.encode(answered) + b"\n")
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


async def answer(holder: Holder, work: Work, command: Command) -> Answer:
    """Have a command carried out, where its shard is held here."""
    if not holder.holds(command.shard):
        return Answer(held=False)
    settled: list[Settled] = []
    try:
        await holder.carry_out(command.shard, lambda: settled.extend(work(command)))
    except KycacheError as error:
        return Answer(error.problem, error.remedy, away=isinstance(error, Unreachable))
    for one in settled:
        said = "a record left quarantine" if one.gone else "a record stays in quarantine"
        log.info(said, shard=command.shard, partition=command.shard, offset=one.offset, outcome=one.outcome)
    return Answer(settled=tuple(settled))
