"""A shard's file without its free pages, in a generation beside the one in use: what `kycache compact` makes.

Copied like a snapshot (`hot_copy.py`), while the writer goes on; walked, and compared with what was copied, before
anybody may map it. Whoever holds the shard brings it into use (ingest's `bring.py`); a run that is killed before
leaves a generation that the next start of the shard removes.
"""

import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from kycache.actors.files.environment import Environments, data_file, used_bytes
from kycache.actors.files.meta import read_state
from kycache.actors.files.shard_folder import ShardFolder, sync_folder
from kycache.actors.integrity.child_walk import walk_in_child
from kycache.actors.integrity.vouching import FULL_WALK_BYTES_MAX, mark_of, vouch
from kycache.model.errors import Refused
from kycache.model.view import View

from .hot_copy import CopyLimits, compacted_bytes, copied_pages


class Sizes(NamedTuple):
    """Bytes of a shard's file, and of a compacted copy of it."""

    before: int
    after: int


def sizes(environments: Environments, folder: ShardFolder, generation: Path) -> Sizes:
    """What compacting a generation would bring. Costs a look at its trees' roots."""
    environment, databases = environments.lease(generation, folder.number)
    try:
        with environment.begin() as txn:
            after = compacted_bytes(environment, txn, databases)
    finally:
        environments.release(generation)
    return Sizes(used_bytes(generation), after)


def check_room(folder: ShardFolder, needed: Sizes) -> None:
    """Refuse to copy what the disk has no room for.

    Raises:
        Refused: with the figures.
    """
    free = shutil.disk_usage(folder.path).free
    if free < needed.after:
        raise Refused(
            f"shard {folder.number} compacted takes {needed.after >> 20} MiB, and {free >> 20} MiB are free",
            "make room, or bring it back from a snapshot in an emptied folder: `kycache snapshot restore`",
        )


def compact(
    environments: Environments,
    folder: ShardFolder,
    generation: Path,
    view: View,
    limits: CopyLimits,
    spill: Path,
    use: Callable[[Path], None],
    advance: Callable[[int], None] = lambda _: None,
) -> Sizes:
    """Copy a generation that may be mapped into a new one, check that, and hand it to `use`. Blocking.

    Args:
        spill: a folder for what memory should not hold.
        use: brings the copy into use; what it raises leaves here.
        advance: told how many bytes were copied, from time to time.

    Raises:
        Refused: the copy costs too much, or is not what was copied. Nothing is left behind.
        OSError: there is no room. Nothing is left behind.
    """
    shard = folder.number
    with ExitStack() as undo:
        made = undo.enter_context(folder.arriving())
        failed = undo.enter_context(ExitStack())
        failed.callback(shutil.rmtree, made, ignore_errors=True)
        environment, databases = environments.lease(generation, shard)
        try:
            with environment.begin() as txn:
                state = read_state(txn, databases)
                before = used_bytes(generation)
                with closing(copied_pages(shard, environment, txn, limits, spill)) as pages:
                    after = _write(made, pages, advance)
        finally:
            environments.release(generation)
        seen = mark_of(made)
        facts = walk_in_child(made, shard, view if after <= FULL_WALK_BYTES_MAX else None)
        if facts.state != state:
            raise Refused(f"shard {shard}: a copy of its file is not what was copied", "run the command again")
        vouch(made, seen)
        failed.pop_all()
        use(made)
    return Sizes(before, after)


def _write(made: Path, pages: Iterable[bytes | bytearray], advance: Callable[[int], None]) -> int:
    """Write a generation's file durably, for its owner only; its size."""
    size = 0
    descriptor = os.open(data_file(made), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        for piece in pages:
            file.write(piece)
            size += len(piece)
            advance(len(piece))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(made)
    return size
