"""Reads a snapshot back, as a restore would: hashes, keys, and a walk of every shard's file in a child process."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kycache.actors.files.environment import DamagedFile
from kycache.actors.integrity.child_walk import Facts, walk_in_child
from kycache.model.errors import ConfigurationError, KycacheError, Refused, Unreachable
from kycache.model.view import View
from kycache.snapshots.storage.fetch import fetch
from kycache.snapshots.storage.keys import Keys
from kycache.snapshots.storage.manifest import MANIFEST, Manifest, ReadFrom, ShardEntry
from kycache.snapshots.storage.stores import Missing, Store

from .scratch import scratch_folder


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one shard; `problem` is empty where it is good."""

    shard: int
    problem: str = ""
    remedy: str = ""


def verify(
    store: Store,
    keys: Keys,
    manifest: Manifest,
    scratch: Path,
    view: View | None,
    shards: Sequence[int] | None = None,
    begin: Callable[[ShardEntry], None] = lambda _: None,
    advance: Callable[[int, int], None] = lambda _shard, _bytes: None,
) -> list[Verdict]:
    """Read these shards, or all, each into `scratch` and away again. Blocking. One bad shard hides no other.

    Args:
        view: with it every record is looked at, not only every page.

    Raises:
        ConfigurationError: the files are encrypted, and there is no identity: nothing is known.
        Unreachable: the store does not answer, or there is no room: nothing is known.
    """
    entries = manifest.shards if shards is None else [manifest.entry(shard) for shard in sorted(set(shards))]
    if not keys.identities and any(entry.encrypted for entry in entries):
        raise ConfigurationError(
            f"snapshot {manifest.id} is encrypted, and nothing is known without an identity",
            "set `[snapshots] identity` to the file with the age identity",
        )
    verdicts: list[Verdict] = []
    for entry in entries:
        begin(entry)
        try:
            verify_shard(store, keys, manifest, entry, scratch, view, advance)
        except Unreachable:
            raise
        except KycacheError as error:
            check_still_there(store, manifest)
            verdicts.append(Verdict(entry.shard, error.problem, error.remedy))
        else:
            verdicts.append(Verdict(entry.shard))
    return verdicts


def check_still_there(store: Store, manifest: Manifest) -> None:
    """Tell a snapshot that a prune removes while it is read from one that is damaged.

    Raises:
        Unreachable: it is gone: nothing is known.
    """
    try:
        store.size(f"{manifest.id}/{MANIFEST}")
    except Missing:
        raise Unreachable(
            f"snapshot {manifest.id} was removed from {store.url} while it was read",
            "take another snapshot of `kycache snapshot list`",
        ) from None


def verify_shard(
    store: Store,
    keys: Keys,
    manifest: Manifest,
    entry: ShardEntry,
    scratch: Path,
    view: View | None,
    advance: Callable[[int, int], None] = lambda _shard, _bytes: None,
) -> None:
    """Read one shard.

    Raises:
        Refused: it is not what was stored, or never was a good one.
        Unreachable: the store does not answer, or there is no room.
    """
    if not entry.bootstrapped:  # a restore would say the same (`plan.py`); `take.py` makes none any more
        raise Refused(
            f"shard {entry.shard}: it was still bootstrapping when snapshot {manifest.id} was taken",
            "take another snapshot of `kycache snapshot list`",
        )
    free = shutil.disk_usage(scratch).free
    if free < entry.raw_bytes:
        raise Unreachable(
            f"shard {entry.shard} has {entry.raw_bytes >> 20} MiB, and {scratch} room for {free >> 20}",
            "make room, or name another folder by TMPDIR",
        )
    try:
        with scratch_folder(scratch) as generation:
            fetch(store, keys, manifest, entry, generation, lambda count: advance(entry.shard, count))
            compare(manifest, entry, walk_in_child(generation, entry.shard, view))
    except DamagedFile as error:  # of the copy: its own remedy is for a shard in use
        raise Refused(
            f"{entry.file} of snapshot {manifest.id}: {error.problem}",
            "take another snapshot of `kycache snapshot list`",
        ) from None
    except OSError as error:
        raise Unreachable(f"{scratch} cannot be written: {error.strerror}", "make room there") from None


def compare(manifest: Manifest, entry: ShardEntry, facts: Facts) -> None:
    """Compare what a walk found in a shard's file with what the manifest says.

    Raises:
        Refused: they differ: the snapshot was wrong when it was taken.
    """
    said = (manifest.view, entry.shard, manifest.shard_count, entry.users, entry.position)
    identity, state = facts.identity, facts.state
    if (identity.view, identity.shard, identity.shards, state.users, ReadFrom.of(state.position)) != said:
        raise Refused(
            f"shard {entry.shard}: {entry.file} of snapshot {manifest.id} holds {state.users} users of shard "
            f"{identity.shard} up to offset {state.position.offset}, its manifest says {entry.users} up to "
            f"{entry.position.offset}",
            "take another snapshot of `kycache snapshot list`",
        )
