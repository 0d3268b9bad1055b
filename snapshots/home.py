"""The data directory that a snapshot comes back into: as a plan wants to know it, and what it is told before."""

import shutil

import msgspec

from kycache.actors.files.directory import DataDirectory, Node
from kycache.model.scalars.times import TimePrecision
from kycache.snapshots.storage.manifest import Manifest, ShardEntry

from .plan import HomeFacts, newest_epoch


def home_facts(directory: DataDirectory, view: str, times: TimePrecision | None = None) -> HomeFacts:
    """The data directory at present.

    Args:
        view: the hash of the configured definition.
        times: the configured unit of times, which holds where the directory has none yet.

    Raises:
        Refused: it was made with another one.
    """
    node = directory.node()
    if node is not None:
        directory.check_view(node, view)
    there = next(path for path in (directory.root, *directory.root.absolute().parents) if path.exists())
    return HomeFacts(
        str(directory.root),
        view,
        None if node is None else node.shards,
        0 if node is None else node.epoch,
        () if node is None else node.oldest,
        _keeping(directory),
        shutil.disk_usage(there).free,
        times if node is None else node.times,
    )


def make_home(directory: DataDirectory, manifest: Manifest, entry: ShardEntry) -> None:
    """Take over what a shard's file brings along for all shards, durably, before it is brought into use."""
    if entry.doubts:
        directory.add_doubts(entry.doubts)
    directory.rehome(lambda node: _followed(node, newest_epoch(manifest)))


def _followed(node: Node, epoch: int) -> Node:
    """It takes a later epoch, with which its own orders are done."""
    return node if epoch <= node.epoch else msgspec.structs.replace(node, epoch=epoch, oldest=())


def _keeping(directory: DataDirectory) -> tuple[int, ...]:
    """Shards that take no later epoch from a snapshot. One without a file does, where no other has one or no epoch
    was ever ordered here: epochs of nodes that order them count each for themselves."""
    node = directory.node()
    if node is None:
        return ()
    there = tuple(n for n in range(node.shards) if directory.shard(n).current_name() is not None)
    return tuple(range(node.shards)) if there and node.starts else there
