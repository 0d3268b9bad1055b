"""The files of a shard: its folder, its lock, its generations; and how files appear whole or not at all.

shards/0007/
  LOCK                  held by the one writer, names it
  state.json            what the writer last said of the shard
  CURRENT -> gen-000003 the generation in use
  NEXT -> gen-000004    one that is built beside it, where one is (actors/generations/takeover.py)
  gen-000003/           an LMDB environment
"""

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from kycache.actors.rules.reports import Report, WriterState
from kycache.model.errors import KycacheError, Refused

FIRST_GENERATIONS = 900_000
"""Numbers of six digits that a folder may begin with: that one made anew gets the same is one in so many."""

PRIVATE = 0o700
"""Shard files hold personal data: the owner alone may enter."""

ARRIVING = "ARRIVING"
"""In a generation that is being filled, locked by who does so."""

_T = TypeVar("_T")


def holder_name() -> str:
    """This process, as other processes' messages name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` atomically and durably: temporary file, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class ShardFolder:
    """One shard's folder: its generations, its lock and its report."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self.number = number
        self._current = os.fspath(path / "CURRENT")
        self._next = path / "NEXT"

    def prepare(self) -> None:
        """Make the folder."""
        self.path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)

    def current_name(self) -> str | None:
        """The name of the generation in use, None where there is none. Asked before every read."""
        try:
            return os.readlink(self._current)  # noqa: PTH115 (a third of the time)
        except FileNotFoundError:
            return None

    def current(self) -> Path | None:
        """The generation in use, None where there is none."""
        name = self.current_name()
        return None if name is None else self.path / name

    def next_generation(self) -> Path:
        """A new, empty generation, not yet in use. Its name was never used: readers know generations by it, also
        one whose files somebody removed, with its folder or without: so the clock gives the first its number."""
        named = [self.current_name(), self._next.readlink().name if self._next.is_symlink() else None]
        names = [path.name for path in self.path.glob("gen-*")] + [name for name in named if name is not None]
        numbers = [int(name[4:]) for name in names if name[4:].isdigit()]
        first = time.time_ns() // 1_000_000 % FIRST_GENERATIONS
        path = self.path / f"gen-{max(numbers, default=first) + 1:06d}"
        path.mkdir(mode=PRIVATE)
        return path

    @contextmanager
    def arriving(self) -> Iterator[Path]:
        """A new generation that another process than the writer fills: `clean` leaves it alone meanwhile."""
        self.prepare()
        with ExitStack() as held:
            with self._generations_locked():
                generation = self.next_generation()
                file = held.enter_context((generation / ARRIVING).open("wb"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield generation

    @contextmanager
    def _generations_locked(self) -> Iterator[None]:
        """Nobody removes a generation between its making and its lock."""
        with (self.path / "generations.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def flip(self, generation: Path) -> None:
        """Bring a generation into use, durably; `clean` removes the former one, and one under construction."""
        if self.building() != generation:
            self._next.unlink(missing_ok=True)  # first: after a kill in between it must not take over any more
        self._link("CURRENT", generation)
        self._next.unlink(missing_ok=True)
        sync_folder(self.path)

    def build(self, generation: Path) -> None:
        """Have a generation built beside the one in use, durably; an earlier such one is left for `clean`."""
        self._link("NEXT", generation)

    def building(self) -> Path | None:
        """The generation that is built beside the one in use, None where there is none."""
        try:
            name = os.readlink(self._next)  # noqa: PTH115 (as above)
        except FileNotFoundError:
            return None
        # A kill between bringing it into use and removing its name leaves both.
        return None if name == self.current_name() else self.path / name

    def _link(self, name: str, generation: Path) -> None:
        sync_folder(generation)
        temporary = self.path / f".{name}.{os.getpid()}"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(generation.name)
        temporary.replace(self.path / name)
        sync_folder(self.path)

    def clean(self) -> None:
        """Remove generations that are not in use: what a killed restore or rebuild left behind."""
        kept = {self.current(), self.building()}
        with self._generations_locked():
            for path in self.path.glob("gen-*"):
                if path not in kept and not _arrives(path):
                    shutil.rmtree(path)
        for pattern in (".CURRENT.*", ".NEXT.*"):
            for path in self.path.glob(pattern):
                path.unlink(missing_ok=True)

    def report(self) -> Report | None:
        """What the shard's writer last said."""
        return read_whole(self.path / "state.json", Report)

    def damaged(self, error: KycacheError) -> Report:
        """The report of a shard whose file cannot be read, whatever its writer last said."""
        return Report(WriterState.HALTED, error.problem, error.remedy)

    def write_report(self, report: Report) -> None:
        """Say how the shard is, for other processes."""
        write_whole(self.path / "state.json", msgspec.json.encode(report))

    def holder(self) -> str | None:
        """The process that holds the shard's lock, None where nobody does."""
        try:
            with (self.path / "LOCK").open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return file.read().decode(errors="replace") or "an unnamed process"
        except FileNotFoundError:
            pass
        return None

    def lock(self) -> "ShardLock | None":
        """Become the shard's one writer; None where another is."""
        self.prepare()
        file = (self.path / "LOCK").open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        file.truncate(0)
        file.write(holder_name().encode())
        file.flush()
        return ShardLock(file, self.path / "LOCK")


class ShardLock:
    """The writer's lock. Ends with the process at the latest."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path

    def stands(self) -> bool:
        """Whether it keeps others away: its file is the one that they would lock."""
        try:
            return self._path.stat().st_ino == os.fstat(self._file.fileno()).st_ino
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let another process write."""
        self._file.truncate(0)
        self._file.close()


def _arrives(generation: Path) -> bool:
    try:
        with (generation / ARRIVING).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_whole(path: Path, into: type[_T]) -> _T | None:
    """What a small JSON file holds; None where there is none.

    Raises:
        Refused: it is something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=into)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Refused(f"{path} is damaged: {error}", "restore it, or start with an empty data directory") from None
