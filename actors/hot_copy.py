"""A shard's file as a stream, as of one read transaction, while its writer goes on.

Compacted: free pages are left out, and so is what stood in them (`scrub.py`). LMDB's own copy writes into a pipe
from a thread; the pages are scrubbed as they are read from it. The transaction is pinned meanwhile, which keeps
the writer from using freed pages again, so the file grows: it is watched, and the copy given up before that gets
out of hand.
"""

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import lmdb

from kycache.model.errors import Refused

from .environment import Databases, damage_remedy
from .open_reads import GROWTH_MIN_BYTES
from .scrub import PAGE_SIZE, Scrubber

PIPE_BYTES = 1 << 20
"""What Linux gives an ordinary user (pipe(7)); fewer turns between the two threads."""

GROWTH_BYTES_MIN = GROWTH_MIN_BYTES * 3 // 4
"""A file may always grow by as much: a fraction of a small one is reached by one busy minute. Less than where
the writer would stop (`open_reads.py`): it is the copy that gives way."""

LOOK_BYTES = 64 << 20
"""Copied between two looks at the file."""


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """For how long, and at which cost, a shard's pages may be pinned."""

    growth: float = 0.4
    """How much the file may grow meanwhile, as a part of its size at the start."""
    pinned_s: float = 3600.0
    rate_bytes_s: float = 0.0
    """How much is read per second at most; 0: as fast as it goes."""


class _Copy(Thread):
    """LMDB's copy, into the pipe's end that it closes."""

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
            os.close(self._end)

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
        spill: a folder for what memory should not hold.

    Raises:
        Refused: the file grew too much, or the copy took too long.
        BadPages: the file is damaged.
    """
    here, end = os.pipe()
    watch = _Watch(shard, environment, limits)
    copy = _Copy(environment, txn, end)
    with contextlib.suppress(OSError):  # many pipes are open: 64 KiB do as well
        fcntl.fcntl(here, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    scrubber = Scrubber(spill)
    try:
        copy.begin()
        while block := os.read(here, PIPE_BYTES):
            watch.passed(len(block))
            yield from scrubber.feed(block)
    finally:
        os.close(here)  # first: whoever writes into it ends then
        copy.end()
        scrubber.close()
    if copy.failure is not None:
        raise Refused(
            f"shard {shard}: LMDB cannot copy its file: {copy.failure}", damage_remedy(shard)
        ) from copy.failure
    scrubber.finish()


class _Watch:
    """Ends a copy that costs too much, and holds it to its rate."""

    def __init__(self, shard: int, environment: lmdb.Environment, limits: CopyLimits) -> None:
        self._shard = shard
        self._environment = environment
        self._limits = limits
        self._began = time.monotonic()
        self._size = self._bytes()
        self._passed = 0
        self._looked_at = 0

    def _bytes(self) -> int:
        return int(self._environment.info()["last_pgno"] + 1) * PAGE_SIZE

    def passed(self, count: int) -> None:
        self._passed += count
        if self._limits.rate_bytes_s:
            ahead = self._passed / self._limits.rate_bytes_s - (time.monotonic() - self._began)
            if ahead > 0:
                time.sleep(ahead)
        if self._passed - self._looked_at < LOOK_BYTES and not self._limits.rate_bytes_s:
            return
        self._looked_at = self._passed
        grown = self._bytes() - self._size
        if grown > max(GROWTH_BYTES_MIN, self._size * self._limits.growth):
            raise Refused(
                f"shard {self._shard}: its file grew by {grown >> 20} MiB while it was copied: "
                "what is pinned cannot be used again",
                "raise `[snapshots] rate`, or `[snapshots] growth` where the disk has room",
            )
        took = time.monotonic() - self._began
        if took > self._limits.pinned_s:
            raise Refused(
                f"shard {self._shard}: its copy took longer than {self._limits.pinned_s:g} s",
                "raise `[snapshots] rate` or `[snapshots] time_limit`",
            )
