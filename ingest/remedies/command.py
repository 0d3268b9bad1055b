"""A command that changes a shard: asked of its holder, or done here where nobody holds it."""

import socket
from pathlib import Path

import msgspec

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.actors.store.store import Settled
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.model.errors import Refused, Unreachable

from .protocol import LINE_BYTES_MAX, Answer, Bring, Command, address_of, sockets
from .work import carry_out

ANSWER_WAIT_S = 120.0
"""What a client waits for: a command stops an actor (seconds) and works on files (tens of seconds)."""


def ask(path: Path, command: Command) -> Answer | None:
    """Send a command to one process; None where nobody listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(ANSWER_WAIT_S)
        try:
            with address_of(path) as address:
                client.connect(address)
            client.sendall(msgspec.json.encode(command) + b"\n")
            with client.makefile("rb") as answers:
                return msgspec.json.decode(answers.readline(LINE_BYTES_MAX), type=Answer)
        except (OSError, msgspec.MsgspecError):
            return None


def command_shard(command: Command, settings: KafkaSettings, home: Home) -> tuple[Settled, ...]:
    """Have a command carried out: by the shard's holder, or here where nobody holds it. Blocking.

    Raises:
        KycacheError: it could not be; nothing was changed.
    """
    directory = home.directory
    directory.prepare()
    # Where a shard's folder was destroyed under its holder, the lock went with it: what comes back is its own.
    answer = _ask_holder(directory, command) if isinstance(command, Bring) else None
    if answer is not None:
        return answer.settled
    lock = directory.shard(command.shard).lock()
    if lock is not None:
        try:
            return carry_out(command, settings, home)
        finally:
            lock.release()
    answer = _ask_holder(directory, command)
    if answer is not None:
        return answer.settled
    raise Refused(
        f"shard {command.shard} is held by {directory.shard(command.shard).holder()}, which does not answer",
        "stop that process, then run this again",
    )


def _ask_holder(directory: DataDirectory, command: Command) -> Answer | None:
    """What the shard's holder answers; None where no process says that it is."""
    for path in sockets(directory.run):
        answer = ask(path, command)
        if answer is None or not answer.held:
            continue
        if answer.problem:
            raise (Unreachable if answer.away else Refused)(answer.problem, answer.remedy)
        return answer
    return None
