"""A shard's file as a stream, as of one read transaction, while its writer goes on.

Compacted: free pages are left out, and so is what stood in them (`scrub.py`). LMDB's own copy writes into a pipe
from a thread; the pages are scrubbed as they are read from it. The transaction is pinned meanwhile, which keeps
the writer from using freed pages again, so the file grows. Another thread watches that, and gives the copy up
before it gets out of hand: also where nobody reads the pages any more, since the store that they go to hangs.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

import lmdb

from kycache.actors.files.environment import PAGE_SIZE, Databases, damage_remedy
from kycache.actors.files.open_reads import GROWTH_MIN_BYTES
from kycache.model.errors import Refused

from .scrub import Scrubber

PIPE_BYTES = 1 << 20
"""What Linux gives an ordinary user (pipe(7)); fewer turns between the two threads."""

GROWTH_BYTES_MIN = GROWTH_MIN_BYTES * 3 // 4
"""A file may always grow by as much: a fraction of a small one is reached by one busy minute. Less than where
the writer would stop (`open_reads.py`): it is the copy that gives way."""

LOOK_S = 0.5
"""Between two looks at the file: it grows by a fraction of `GROWTH_BYTES_MIN` meanwhile."""


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """For how long, and at which cost, a shard's pages may be pinned."""

    growth: float = 0.4
    """How much the file may grow meanwhile, as a part of its size at the start."""
    time_limit_s: float = 3600.0
    rate_bytes_s: float = 0.0
    """How much is read per second at most; 0: as fast as it goes."""


class _Unwound(Thread):
    """A thread that can always be waited for."""

    def begin(self) -> None:
        """Start, whatever signal comes: one that interrupts `start` leaves a thread that nobody can wait for."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            self.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def end(self) -> None:
        """Wait for its end, where it was started."""
        if self.ident is not None:
            self.join()


class _Copy(_Unwound):
    """LMDB's copy, into the pipe's end that it closes; with it ends the transaction, and nothing is pinned."""

    def __init__(self, environment: lmdb.Environment, txn: "lmdb.Transaction[bytes]", end: int) -> None:
        super().__init__(name="shard copy", daemon=True)
        self._environment = environment
        self._txn = txn
        self._end = end
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._environment.copyfd(self._end, compact=True, txn=self._txn)
        except BaseException as error:  # raised again by who reads the pipe
            self.failure = error
        finally:
            self._txn.abort()
            os.close(self._end)


class _Pipe:
    """The end that is read. Closed, which any thread may do, it ends who writes into it."""

    def __init__(self, end: int) -> None:
        self._end = end
        self._lock = Lock()
        self._open = True

    def read(self) -> bytes:
        """The next block, empty at the end."""
        with self._lock:
            return os.read(self._end, PIPE_BYTES) if self._open else b""

    def close(self) -> None:
        """Read no more."""
        with self._lock:
            if self._open:
                os.close(self._end)
            self._open = False


def compacted_bytes(environment: lmdb.Environment, txn: "lmdb.Transaction[bytes]", databases: Databases) -> int:
    """How large the file would be without its free pages: two meta pages, and those of every tree."""
    trees = [environment.stat(), *(txn.stat(database) for database in databases)]
    return PAGE_SIZE * (2 + sum(t["branch_pages"] + t["leaf_pages"] + t["overflow_pages"] for t in trees))


def copied_pages(
    shard: int,
    environment: lmdb.Environment,
    txn: "lmdb.Transaction[bytes]",
    limits: CopyLimits = CopyLimits(),
    spill: Path | None = None,
) -> Generator[bytes | bytearray, None, None]:
    """The file as of `txn`, compacted and without stale bytes, in pieces. Close it where it is not read out.

    Args:
        txn: is ended when it is read out, or given up.
        spill: a folder for what memory should not hold.

    Raises:
        Refused: the file grew too much, or the copy took too long.
        BadPages: the file is damaged.
    """
    here, end = os.pipe()
    with contextlib.suppress(OSError):  # many pipes are open: 64 KiB do as well
        fcntl.fcntl(here, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    pipe = _Pipe(here)
    copy = _Copy(environment, txn, end)
    watch = _Watch(shard, environment, limits, pipe)
    scrubber = Scrubber(spill)
    pace = _Pace(limits.rate_bytes_s)
    try:
        watch.begin()
        copy.begin()
        while block := pipe.read():
            pace.passed(len(block))
            yield from scrubber.feed(block)
    finally:
        watch.over.set()
        pipe.close()  # before the wait: whoever writes into it ends then
        watch.end()
        copy.end()
        scrubber.close()
    if watch.refused is not None:
        raise watch.refused
    if copy.failure is not None:
        raise Refused(
            f"shard {shard}: LMDB cannot copy its file: {copy.failure}", damage_remedy(shard)
        ) from copy.failure
    scrubber.finish()


class _Pace:
    """Holds a copy to its rate."""

    def __init__(self, rate_bytes_s: float) -> None:
        self._rate = rate_bytes_s
        self._began = time.monotonic()
        self._passed = 0

    def passed(self, count: int) -> None:
        self._passed += count
        if self._rate:
            time.sleep(max(0.0, self._passed / self._rate - (time.monotonic() - self._began)))


class _Watch(_Unwound):
    """Ends a copy that costs too much."""

    def __init__(self, shard: int, environment: lmdb.Environment, limits: CopyLimits, pipe: _Pipe) -> None:
        super().__init__(name="shard copy's watch", daemon=True)
        self.over = Event()
        self.refused: Refused | None = None
        self._shard = shard
        self._environment = environment
        self._limits = limits
        self._pipe = pipe
        self._began = time.monotonic()
        self._size = self._bytes()

    def run(self) -> None:
        while not self.over.wait(LOOK_S):
            self.refused = self._look()
            if self.refused is not None:
                self._pipe.close()
                return

    def _bytes(self) -> int:
        return int(self._environment.info()["last_pgno"] + 1) * PAGE_SIZE

    def _look(self) -> Refused | None:
        grown = self._bytes() - self._size
        if grown > max(GROWTH_BYTES_MIN, self._size * self._limits.growth):
            return Refused(
                f"shard {self._shard}: its file grew by {grown >> 20} MiB while it was copied: "
                "what is pinned cannot be used again",
                "see that the store is not slow; raise `[snapshots] rate`, or `growth` where the disk has room",
            )
        if time.monotonic() - self._began > self._limits.time_limit_s:
            return Refused(
                f"shard {self._shard}: its copy took longer than {self._limits.time_limit_s:g} s",
                "see that the store is not slow; raise `[snapshots] rate` or `time_limit`",
            )
        return None
