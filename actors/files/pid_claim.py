"""The pid of a process that opens shard files: no other process that opens them may have the same.

LMDB knows processes by their pids: a reader locks the byte of `lock.mdb` at the offset of its pid, and a process
that closes a file clears every entry of its pid in the table of readers. Each container counts its own processes,
from 1 on. With one pid in two containers the second process cannot read, or reads of the first are forgotten and
their pages used again. So a process claims its pid in the data directory before it opens the first file. The claim
is a record lock, as LMDB's are, on a file of its own: to close any descriptor of `lock.mdb` drops LMDB's locks.
"""

import fcntl
import os
from errno import EROFS
from pathlib import Path
from threading import Lock

from kycache.model.errors import Refused

from .shard_folder import PRIVATE

PID_TAKEN_EXIT = os.EX_TEMPFAIL
"""A child whose pid is taken ends so before it does anything: its parent starts another, which has another pid."""

PIDS_TRIED_MAX = 300
"""Pids in a row, each a fork of some ms: more than web workers, ingest and commands of a container."""


class PidTaken(Refused):
    """A process of another container that uses the data directory has this process's pid."""


def read_only(folder: Path) -> Refused:
    """LMDB would read there without its table of readers, and a writer uses pages again that no entry protects."""
    return Refused(
        f"{folder} is on a read-only mount, where a read cannot be entered in LMDB's table of readers: a writer "
        "would overwrite what the read still looks at",
        "mount the data directory writable (a process that reads writes nothing but locks), or read a copy of it",
    )


def is_read_only(folder: Path) -> bool:
    """Whether the mount is, whoever asks: root may write anywhere else. Costs microseconds."""
    return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


class PidClaim:
    """This process's claim to its pid in one data directory, held as long as anybody here needs it.

    One per process and directory: the end of a second one would end the first. A forked child inherits none."""

    def __init__(self, run: Path) -> None:
        """Args:
        run: the folder of running processes in the data directory; every container must see the same.
        """
        self._run = run
        self._lock = Lock()
        self._file = -1
        self._holds = 0

    def hold(self) -> None:
        """Claim the pid until as many calls of `release`, or the end of the process.

        Raises:
            PidTaken: another process has claimed it.
            Refused: the data directory is on a read-only mount.
        """
        with self._lock:
            if not self._holds:
                self._file = self._claimed()
            self._holds += 1

    def release(self) -> None:
        """Give one hold back; the last one is given back after the last file was closed."""
        with self._lock:
            self._holds -= 1
            if not self._holds:
                os.close(self._file)

    def _claimed(self) -> int:
        try:
            self._run.mkdir(mode=PRIVATE, exist_ok=True)
            file = os.open(self._run / "pids.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno == EROFS:
                raise read_only(self._run.parent) from None
            raise
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, os.getpid())
        except BlockingIOError:
            os.close(file)
            raise self._taken() from None
        except BaseException:
            os.close(file)
            raise
        return file

    def _taken(self) -> PidTaken:
        return PidTaken(
            f"pid {os.getpid()} (of pid namespace {_namespace()}) is also the pid of a kycache process in another "
            f"container that uses {self._run.parent}: LMDB would take the two for one",
            "start it again, which gives it another pid, or let both containers share one pid namespace",
        )


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it is no path)
    except OSError:
        return "unknown"
