"""What a command asks of the process that holds a shard, and what that one answers: a line of JSON each.

The socket is `data/run/ingest-N.sock`; it ends with the process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from kycache.actors.store.store import Settled

LINE_BYTES_MAX = 1 << 20
"""A command names some offsets, an answer a reason for each."""

OFFSETS_MAX = 5_000
"""Of one command; each is one change of one transaction."""

SOCKET_PATH_MAX = 107
"""Bytes of a Unix socket's address, in Linux (unix(7))."""


class ForShard(msgspec.Struct, frozen=True, tag_field="command", tag=str.lower):
    """What every command has: the shard that it is for."""

    shard: int


class Rebuild(ForShard, frozen=True):
    """Read the shard again from where its partition is whole."""

    replace: bool = False
    """Do not build beside what serves."""


class Acknowledge(ForShard, frozen=True):
    """Trust the shard again, though its tables were altered at the source."""


class Replay(ForShard, frozen=True):
    """Apply records of the quarantine that can be understood now."""

    offsets: tuple[int, ...]


class Drop(ForShard, frozen=True):
    """Give records of the quarantine up."""

    offsets: tuple[int, ...]


class Bring(ForShard, frozen=True):
    """Bring a restored generation into use; it lies in the shard's folder, whole."""

    generation: str
    replace: bool = False
    """Do not let it catch up beside what serves."""


class Compact(ForShard, frozen=True):
    """Bring a compacted generation into use; it lies in the shard's folder, whole."""

    generation: str
    of: str
    """The one that it is a copy of."""


Command = Rebuild | Acknowledge | Replay | Drop | Bring | Compact


class Answer(msgspec.Struct, frozen=True):
    """What became of a command; `problem` is empty where it was done."""

    problem: str = ""
    remedy: str = ""
    away: bool = False
    """A server that is needed for it does not answer."""
    held: bool = True
    """The shard is held by the process that answers."""
    settled: tuple[Settled, ...] = ()


def socket_of(run: Path, number: int) -> Path:
    """Where the ingest process with this slot listens."""
    return run / f"ingest-{number}.sock"


def sockets(run: Path) -> list[Path]:
    """Where any process may listen; some may be left over from one that was killed."""
    return sorted(run.glob("ingest-*.sock"))


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
