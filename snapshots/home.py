"""The data directory that a snapshot comes back into: as a plan wants to know it, and what it is told before."""

import shutil

import msgspec

from kycache.actors.files import DataDirectory

from .manifest import ShardEntry
from .plan import HomeFacts


def home_facts(directory: DataDirectory, view: str) -> HomeFacts:
    """The data directory at present.

    Args:
        view: the hash of the configured definition.

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
        node is None or not any(directory.shard(n).current_name() for n in range(node.shards)),
        shutil.disk_usage(there).free,
    )


def make_home(directory: DataDirectory, entry: ShardEntry) -> None:
    """Take over what a shard's file brings along for all shards, durably, before it is brought into use."""
    if entry.doubts:
        directory.add_doubts(entry.doubts)
    directory.rehome(lambda node: msgspec.structs.replace(node, epoch=max(node.epoch, entry.epoch)))
