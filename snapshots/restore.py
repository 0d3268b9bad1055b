"""Brings a shard's file back into a new generation: fetched, walked in a child process, and what it must be.

The walk is the one of a start after an unclean stop (`actors/integrity/vouching.py`): the hashes say that the
file is the one that was copied, and `snapshot verify --full` that this was whole to the last record.

The generation in use is not touched. Bringing the new one into use is for whoever holds the shard (ingest's
`control.py`); a run that is killed before leaves a generation that the next start of the shard removes.
"""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kycache.actors.files.directory import DataDirectory
from kycache.actors.integrity.child_walk import walk_in_child
from kycache.actors.integrity.vouching import FULL_WALK_BYTES_MAX, mark_of, vouch
from kycache.actors.rules.state import ShardState
from kycache.model.errors import Refused
from kycache.model.lsn import format_lsn
from kycache.model.view import View
from kycache.snapshots.storage.fetch import fetch
from kycache.snapshots.storage.keys import Keys
from kycache.snapshots.storage.manifest import Manifest, ReadFrom, ShardEntry
from kycache.snapshots.storage.stores import Store

from .home import make_home


def bring_back(
    store: Store,
    keys: Keys,
    manifest: Manifest,
    entry: ShardEntry,
    directory: DataDirectory,
    view: View,
    use: Callable[[Path], None],
    advance: Callable[[int], None] = lambda _: None,
    look: Callable[[], None] | None = None,
) -> None:
    """Fetch and check one shard's file, then hand its generation to `use`. Blocking.

    Args:
        directory: the home of the snapshot's view and topic.
        use: brings the generation into use; what it raises leaves here.
        look: called now and then; what it raises ends the work and leaves here.

    Raises:
        Refused: the file is not what the manifest says. Nothing is left behind.
        Unreachable: the store does not answer.
        OSError: there is no room.
    """
    with ExitStack() as undo:
        generation = undo.enter_context(directory.shard(entry.shard).arriving())
        failed = undo.enter_context(ExitStack())
        failed.callback(shutil.rmtree, generation, ignore_errors=True)

        def came(count: int) -> None:
            advance(count)
            if look is not None:
                look()

        fetch(store, keys, manifest, entry, generation, came)
        seen = mark_of(generation)
        small = entry.raw_bytes <= FULL_WALK_BYTES_MAX
        facts = walk_in_child(generation, entry.shard, view if small else None, look=look)
        said = (manifest.view, manifest.shard_count, entry.epoch)
        identity = facts.identity
        if (identity.view, identity.shards, identity.epoch) != said or not _is(facts.state, entry):
            raise Refused(
                f"shard {entry.shard}: {entry.file} of snapshot {manifest.id} is not what its manifest says",
                "take another snapshot of `kycache snapshot list`",
            )
        vouch(generation, seen)
        make_home(directory, manifest, entry)
        failed.pop_all()
        use(generation)


def _is(state: ShardState, entry: ShardEntry) -> bool:
    return (
        ReadFrom.of(state.position) == entry.position
        and state.bootstrapped == entry.bootstrapped
        and (state.users, state.quarantined, state.suspects) == (entry.users, entry.quarantined, entry.suspect)
        and format_lsn(state.watermark) == entry.watermark
    )
