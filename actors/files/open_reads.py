"""Read transactions that stay open, and how far a shard's file may grow under them (FAULTS 2 and 11).

LMDB reuses no page that the oldest open read may still look at, and nobody can take a transaction from a process
that lives: whoever does without asking hands it other data under its feet. So the bound is on the writer's side.
It looks at the table of readers before each batch:

- A reader that died is freed.
- A read that the writer's commits have left behind is remembered with the file's size when it was first seen. Once
  the file has grown too far since, nothing more is committed to this shard until that read has ended: reads
  go on and say how old they are, the batch in hand waits, and the reason names the process.

Our own reads are over within one answer, and copies of a file within minutes; what is left are processes that
were stopped, or stuck, or tools that hold a file open.
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import lmdb

GROWTH_MIN_BYTES = 256 << 20
"""What a file may always grow under one open read: seconds of a backfill, hours of ordinary changes."""

GROWTH_SHARE = 0.5
"""Of the file's size when the read began, where that is more: copying a large file takes longer."""

LONG_READ_S = 60.0
"""A read open for longer is logged: no answer takes so long, and of a copy that does one wants to know."""

DEAD_LOOK_TRANSACTIONS = 16
"""A read so many commits behind may be a dead process's: asking costs microseconds, but not at every batch."""

_PAGE_BYTES = 4096


class Reader(NamedTuple):
    """An entry of the table of readers that has a transaction."""

    pid: int
    """As its own machine or container counts."""
    thread: str
    txn: int


class OpenRead(NamedTuple):
    """The oldest read that commits have left behind."""

    reader: Reader
    age_s: float
    behind: int
    """Transactions committed since."""
    grown_bytes: int
    allowed_bytes: int

    @property
    def excessive(self) -> bool:
        """The file has grown too far under it."""
        return self.grown_bytes > self.allowed_bytes


class ReadHeldOpen(Exception):
    """Nothing may be committed until a read has ended. The batch can be tried again."""

    def __init__(self, read: OpenRead) -> None:
        super().__init__(
            f"process {read.reader.pid} holds a read transaction open since {read.behind} commits, "
            f"and the file has grown by {read.grown_bytes >> 20} MiB under it"
        )


def readers_in(table: str) -> Iterator[Reader]:
    """The open reads in LMDB's table of readers: a head, then `pid thread txn` a line, `-` where none is open."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) == 3 and fields[2].isdigit():
            yield Reader(int(fields[0]), fields[1], int(fields[2]))


class OpenReads:
    """What a shard's writer knows about reads of its file. For the thread of the batch alone."""

    def __init__(self, environment: lmdb.Environment) -> None:
        self._environment = environment
        self._seen: dict[Reader, tuple[float, int]] = {}  # since when, and the file's pages then

    def look(self) -> OpenRead | None:
        """The read that the file has grown most under, None where no commit has left any behind."""
        oldest = self._look()
        doubtful = oldest is not None and (oldest.excessive or oldest.behind >= DEAD_LOOK_TRANSACTIONS)
        if doubtful and self._environment.reader_check():
            oldest = self._look()
        return oldest

    def _look(self) -> OpenRead | None:
        info = self._environment.info()
        pages, last, now = info["last_pgno"], info["last_txnid"], time.monotonic()
        behind = [reader for reader in readers_in(self._environment.readers()) if reader.txn < last]
        self._seen = {reader: self._seen.get(reader, (now, pages)) for reader in behind}
        reads = [
            OpenRead(
                reader,
                now - since,
                last - reader.txn,
                (pages - before) * _PAGE_BYTES,
                max(GROWTH_MIN_BYTES, int(before * _PAGE_BYTES * GROWTH_SHARE)),
            )
            for reader, (since, before) in self._seen.items()
        ]
        return max(reads, key=lambda read: read.grown_bytes - read.allowed_bytes, default=None)
