"""A folder for a shard's file that is only looked at. It holds personal data, and must not outlive who made it.

It is locked by its process, so that one whose process was killed is known by being unlocked: the next folder that
is made beside it removes it, and the next start of ingest does.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "kycache-verify-"
"""Says whose it is, also in a folder of everybody's."""


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """An empty folder, its owner's alone (mkdtemp), and gone afterwards.

    Raises:
        OSError: it cannot be made.
    """
    sweep(parent)
    made, held = _made(parent)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(held)


def sweep(parent: Path) -> None:
    """Remove what killed processes left."""
    for path in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):  # somebody uses it, or it is another user's
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            finally:
                os.close(held)


def _made(parent: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        with suppress(FileNotFoundError):  # swept before it was locked: another one
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(held, fcntl.LOCK_EX)
            if path.exists():
                return path, held
            os.close(held)
