"""A command that changes a shard: asked of its holder, or done here where nobody holds it."""

import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from kycache.actors.files.directory import DataDirectory
from kycache.actors.store.store import Settled
from kycache.model.errors import Refused, Unreachable

from .control import ANSWER_WAIT_S, LINE_BYTES_MAX, Answer, Request, Worker, address_of


def ask(path: Path, request: Request) -> Answer | None:
    """Send a command to one process; None where nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_WAIT_S)
        try:
            with address_of(path) as address:
                client.connect(address)
            client.sendall(msgspec.json.encode(request) + b"\n")
            with client.makefile("rb") as answers:
                return msgspec.json.decode(answers.readline(LINE_BYTES_MAX), type=Answer)
        except (OSError, msgspec.MsgspecError):
            return None


def command_shard(directory: DataDirectory, request: Request, worker: Callable[[], Worker]) -> tuple[Settled, ...]:
    """Have a command carried out: by the shard's holder, or here where nobody holds it. Blocking.

    Raises:
        KycacheError: it could not be; nothing was changed.
    """
    directory.prepare()
    # Where a shard's folder was destroyed under its holder, the lock went with it: what comes back is its own.
    answer = _ask_holder(directory, request) if request.command == "bring" else None
    if answer is not None:
        return answer.settled
    lock = directory.shard(request.shard).lock()
    if lock is not None:
        try:
            return worker().run(request)
        finally:
            lock.release()
    answer = _ask_holder(directory, request)
    if answer is not None:
        return answer.settled
    raise Refused(
        f"shard {request.shard} is held by {directory.shard(request.shard).holder()}, which does not answer",
        "stop that process, then run this again",
    )


def _ask_holder(directory: DataDirectory, request: Request) -> Answer | None:
    """What the shard's holder answers; None where no process says that it is."""
    for path in sorted(directory.run.glob("ingest-*.sock")):
        answer = ask(path, request)
        if answer is None or not answer.held:
            continue
        if answer.problem:
            raise (Unreachable if answer.away else Refused)(answer.problem, answer.remedy)
        return answer
    return None
