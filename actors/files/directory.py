"""The data directory: what lies where, and its small files.

data/
  node.json               this directory's id, the view's hash, the topic and its shard count
  suspect.json            what puts every shard here in doubt, until a remedy clears it
  run/slot-N.lock         one ingest process's place in the consumer group
  run/pids.lock           the pids of the processes that open shard files (pid_claim.py)
  shards/0007/            a shard's folder (shard_folder.py)
"""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import msgspec

from kycache.actors.rules.reports import NO_SHARD, Doubt
from kycache.model.errors import Refused
from kycache.model.scalars.times import TimePrecision

from .pid_claim import PidClaim
from .shard_folder import PRIVATE, ShardFolder, read_whole, write_whole

FORMAT = 1
"""Of the directory's layout; another is refused."""


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
    times: TimePrecision = TimePrecision.ADAPTIVE
    """The unit of times in the topic's log; directories of before the choice do not say it."""

    def start(self, shard: int, topic_id: str) -> int:
        """The offset from which a shard of this topic is whole: a topic made anew is read from 0."""
        return self.starts[shard] if self.starts and topic_id == self.topic_id else 0

    def oldest_of(self, shard: int) -> int:
        """The oldest epoch that a file of the shard may be of."""
        return self.oldest[shard] if self.oldest else self.epoch


class DataDirectory:
    """Paths of one data directory, and its small files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._suspect = os.fspath(root / "suspect.json")

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
        node = read_whole(self.root / "node.json", Node)
        if node is not None and node.format != FORMAT:
            raise Refused(
                f"data directory {self.root} has layout {node.format}, this kycache knows {FORMAT}",
                "use the kycache that wrote it, or another data directory",
            )
        return node

    def found(self, view: str, topic: str, topic_id: str, shards: int, times: TimePrecision | None = None) -> Node:
        """Make this directory the home of a view and topic, or check that it is.

        Args:
            times: the unit of times in the topic's log; None: the directory's, and microseconds for a new one.

        Raises:
            Refused: it is the home of another view or topic, of another number of partitions, or of a log with
                another unit of times.
        """
        made = Node(
            FORMAT, uuid.uuid4().hex[:12], view, topic, topic_id, shards, times=times or TimePrecision.MICROSECONDS
        )
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
        self.check_times(node, times)
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

    def check_times(self, node: Node, times: TimePrecision | None) -> None:
        """Refuse a setting that says another unit of times than the log that this directory reads has."""
        if times not in (None, node.times):
            raise Refused(
                f"data directory {self.root} reads a log in time.precision.mode={node.times}, "
                f"`[kafka] time_precision_mode` says {times}",
                f"set it to {node.times}; or give the connector a new topic in {times}, and run "
                "`kycache rebuild --epoch`",
            )

    def shard(self, number: int) -> ShardFolder:
        """The folder of one shard."""
        return ShardFolder(self.root / "shards" / f"{number:04d}", number)

    def doubts(self) -> tuple[Doubt, ...]:
        """What puts every shard of this directory in doubt."""
        return read_whole(self.root / "suspect.json", tuple[Doubt, ...]) or ()

    def doubts_stamp(self) -> tuple[int, int]:
        """Changes whenever `suspect.json` does. Its time alone may not: the kernel's clock ticks every few ms."""
        try:
            found = os.stat(self._suspect)  # noqa: PTH116 (asked at every read: a third of the time)
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


def claim_of(generation: Path) -> PidClaim | None:
    """The claim that a process needs to open a generation; None for a copy outside a data directory, which nobody
    else opens."""
    shards = generation.parent.parent
    return PidClaim(DataDirectory(shards.parent).run) if shards.name == "shards" else None


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
