"""The data directory: what lies where, and how files appear whole or not at all.

data/
  node.json               this directory's id, the view's hash, the topic and its shard count
  suspect.json            what puts every shard here in doubt, until a remedy clears it
  run/slot-N.lock         one ingest process's place in the consumer group
  shards/0007/
    LOCK                  held by the one writer, names it
    state.json            what the writer last said of the shard
    CURRENT -> gen-000003 the generation in use
    NEXT -> gen-000004    one that is built beside it, where one is (building.py)
    gen-000003/           an LMDB environment
"""

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from kycache.model.errors import KycacheError, Refused

FORMAT = 1
"""Of the directory's layout; another is refused."""

FIRST_GENERATIONS = 900_000
"""Numbers of six digits that a folder may begin with: that one made anew gets the same is one in so many."""

PRIVATE = 0o700
"""Shard files hold personal data: the owner alone may enter."""

ARRIVING = "ARRIVING"
"""In a generation that is being filled, locked by who does so."""

_T = TypeVar("_T")


NO_SHARD = -1
"""In a doubt: the source itself said it."""


class Node(msgspec.Struct, frozen=True):
    """What a data directory is for. Written by the first ingest, and by what starts it over."""

    format: int
    id: str
    view: str
    topic: str
    topic_id: str
    shards: int
    epoch: int = 0
    """Counts the whole snapshots that were ordered to start over from (`kycache rebuild --epoch`)."""
    starts: tuple[int, ...] = ()
    """Per shard, the offset at which the latest of those begins, in this topic; empty: all are read from 0."""
    oldest: tuple[int, ...] = ()
    """Per shard, the epoch that it was last ordered to start over from: no file of before may come back. Empty:
    the directory's. A shard that was not ordered to goes on as it is, and reads the whole snapshot in passing."""

    def start(self, shard: int, topic_id: str) -> int:
        """The offset from which a shard of this topic is whole: a topic made anew is read from 0."""
        return self.starts[shard] if self.starts and topic_id == self.topic_id else 0

    def oldest_of(self, shard: int) -> int:
        """The oldest epoch that a file of the shard may be of."""
        return self.oldest[shard] if self.oldest else self.epoch


class Report(msgspec.Struct, frozen=True):
    """A shard's `state.json`: what its writer last said."""

    state: str
    reason: str = ""
    remedy: str = ""
    holder: str = ""


class Doubt(msgspec.Struct, frozen=True):
    """An entry of `suspect.json`: `kind` is `suspect` or `stale`."""

    kind: str
    shard: int
    """Which shard's partition said so, and at which offset; `NO_SHARD` where none did."""
    offset: int
    reason: str
    lsn: int = 0
    """A later whole snapshot puts right what came before it."""
    epoch: int = 0
    """The one that it happened in: what starts over from a later one has read nothing of it."""


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


class DataDirectory:
    """Paths of one data directory, and its small files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def run(self) -> Path:
        """Where running processes keep sockets and slots."""
        return self.root / "run"

    def place(self) -> str:
        """What a copy of the directory has not: the inode and birth of its first slot. Empty where no ingest ran.

        A clone of the whole file system has the same; a `chown` makes another.
        """
        try:
            made = (self.run / "slot-0.lock").stat()
        except FileNotFoundError:
            return ""
        return sha256(f"{made.st_ino} {made.st_ctime_ns}".encode()).hexdigest()[:8]

    def prepare(self) -> None:
        """Make the folders that every process needs."""
        self.root.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        (self.root / "shards").mkdir(mode=PRIVATE, exist_ok=True)
        self.run.mkdir(mode=PRIVATE, exist_ok=True)

    def node(self) -> Node | None:
        """What the directory is for, None where nothing was ever ingested here."""
        node = _read(self.root / "node.json", Node)
        if node is not None and node.format != FORMAT:
            raise Refused(
                f"data directory {self.root} has layout {node.format}, this kycache knows {FORMAT}",
                "use the kycache that wrote it, or another data directory",
            )
        return node

    def found(self, view: str, topic: str, topic_id: str, shards: int) -> Node:
        """Make this directory the home of a view and topic, or check that it is.

        Raises:
            Refused: it is the home of another view or topic, or of another number of partitions.
        """
        made = Node(FORMAT, uuid.uuid4().hex[:12], view, topic, topic_id, shards)
        self.prepare()
        with (self.run / "found.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            node = self.node()
            if node is None:
                write_whole(self.root / "node.json", msgspec.json.encode(made))
                return made
        self.check_view(node, view)
        if node.topic != topic:
            raise Refused(
                f"data directory {self.root} holds topic {node.topic!r}, not {topic!r}",
                "set `[kafka] topic` back, or use another data directory",
            )
        if node.shards != shards:
            raise Refused(
                f"topic {topic!r} has {shards} partitions, data directory {self.root} was made for {node.shards}: "
                "users would be looked for in the wrong shard",
                "restore the partition count, or start with an empty data directory and a topic of its own",
            )
        return node

    def rehome(self, change: Callable[[Node], Node]) -> Node:
        """Start over: the home of another view definition, of a topic made anew, or of another epoch."""
        with (self.run / "found.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            node = self.node()
            assert node is not None
            changed = change(node)
            if changed != node:
                write_whole(self.root / "node.json", msgspec.json.encode(changed))
            return changed

    def check_view(self, node: Node, view: str) -> None:
        """Refuse to read or write this directory with another view definition."""
        if node.view != view:
            raise Refused(
                f"data directory {self.root} was made with view definition {node.view}, not {view}",
                "set `[view] file` back, or stop kycache and run `kycache rebuild` (all shards) for the new one",
            )

    def shard(self, number: int) -> "ShardFolder":
        """The folder of one shard."""
        return ShardFolder(self.root / "shards" / f"{number:04d}", number)

    def doubts(self) -> tuple[Doubt, ...]:
        """What puts every shard of this directory in doubt."""
        return _read(self.root / "suspect.json", tuple[Doubt, ...]) or ()

    def doubts_stamp(self) -> tuple[int, int]:
        """Changes whenever `suspect.json` does. Its time alone may not: the kernel's clock ticks every few ms."""
        try:
            found = (self.root / "suspect.json").stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_mtime_ns, found.st_ino

    def add_doubts(self, new: tuple[Doubt, ...]) -> None:
        """Put every shard in doubt, durably, before the batch that says so is committed. The latest of a kind, a
        shard and an epoch stands for all before it; one without an LSN, which no snapshot ends, for all."""
        node = self.node()
        with self._doubts_locked():
            known = {(d.kind, d.shard, d.epoch): d for d in self.doubts()}
            for doubt in new:
                # Not the epoch of the shard that says so: it may be of an earlier one than its neighbours, which
                # were started over alone, and read on in the log behind the point where theirs begins.
                placed = node is not None and node.starts and doubt.shard != NO_SHARD
                if node is not None and placed and doubt.offset >= node.starts[doubt.shard]:
                    doubt = msgspec.structs.replace(doubt, epoch=node.epoch)
                # Between epochs LSNs say nothing: a source that moved back counts them from further down.
                key = doubt.kind, doubt.shard, doubt.epoch
                before = known.get(key)
                if before is None or doubt.lsn == 0 or doubt.lsn >= before.lsn > 0:
                    known[key] = doubt
            write_whole(self.root / "suspect.json", msgspec.json.encode(list(known.values())))

    def clear_doubt(self, kind: str, shard: int) -> None:
        """What `shard` had reported is put right."""
        with self._doubts_locked():
            known = self.doubts()
            kept = [d for d in known if (d.kind, d.shard) != (kind, shard)]
            if len(kept) < len(known):
                write_whole(self.root / "suspect.json", msgspec.json.encode(kept))

    @contextmanager
    def _doubts_locked(self) -> Iterator[None]:
        with (self.run / "suspect.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


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
        return _read(self.path / "state.json", Report)

    def damaged(self, error: KycacheError) -> Report:
        """The report of a shard whose file cannot be read, whatever its writer last said."""
        return Report("halted", error.problem, error.remedy)

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


@contextmanager
def slot(run: Path) -> Iterator[int]:
    """A number no other process on this data directory has: this ingest's place in the consumer group.

    A killed process's number is free at once, so its successor is the same static member and takes its
    partitions without waiting for the session to end (44 s against 0 s, measured).
    """
    number = 0
    while True:
        with (run / f"slot-{number}.lock").open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
                continue
            yield number
            return


def _arrives(generation: Path) -> bool:
    try:
        with (generation / ARRIVING).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _read(path: Path, into: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=into)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise Refused(f"{path} is damaged: {error}", "restore it, or start with an empty data directory") from None
