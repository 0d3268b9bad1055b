"""One snapshot at a time from a data directory, whichever process takes it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.shard_folder import holder_name
from kycache.model.errors import Refused


class Busy(Refused):
    """Another process takes a snapshot of this directory."""


@contextmanager
def one_at_a_time(directory: DataDirectory) -> Iterator[None]:
    """Hold the data directory's snapshot lock. It ends with the process at the latest.

    Raises:
        Busy: another process holds it; its name is told.
    """
    directory.prepare()
    with (directory.run / "snapshot.lock").open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().decode(errors="replace") or "another process"
            raise Busy(f"{holder} takes a snapshot of {directory.root}", "wait for it, or stop it") from None
        file.truncate(0)
        with suppress(OSError):  # on a full disk it is held without its name
            file.write(holder_name().encode())
        yield
