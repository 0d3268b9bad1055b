"""What a store holds: whole snapshots, unfinished ones, and what cannot be read."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from kycache.model.errors import Refused

from . import manifest as manifests
from .keys import Keys
from .manifest import Manifest
from .stores import Missing, Store, Stored


class Condition(StrEnum):
    """How a snapshot is, as far as names, sizes and the manifest's MAC tell; `verify` reads the files."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    """Its manifest is not to be believed, or a file is missing or has another size."""
    UNFINISHED = "unfinished"
    """It has no manifest: it is being taken, or the run that took it was ended."""


class Found(NamedTuple):
    """A snapshot of a store."""

    id: str
    condition: Condition
    manifest: Manifest | None
    """None where it is not there, or not to be believed."""
    reason: str
    files: tuple[Stored, ...]

    @property
    def newest(self) -> datetime:
        """When something of it was last written."""
        return max(file.modified for file in self.files)


def survey(store: Store, keys: Keys) -> list[Found]:
    """Every snapshot of a store, the oldest first."""
    return [*newest_first(store, keys)][::-1]


def newest_first(store: Store, keys: Keys) -> Iterator[Found]:
    """The same the other way round; each is read when it is asked for."""
    folders: dict[str, dict[str, Stored]] = {}
    for file in store.files():
        snapshot, _, name = file.path.partition("/")
        if manifests.is_id(snapshot):
            folders.setdefault(snapshot, {})[name] = file
    for snapshot, files in sorted(folders.items(), reverse=True):
        yield _found(store, keys, snapshot, files)


def read_manifest(store: Store, keys: Keys, snapshot: str) -> Manifest:
    """The manifest of one snapshot, checked.

    Raises:
        Missing: there is no such snapshot, or it is unfinished.
        Refused: it is not to be believed.
    """
    if not manifests.is_id(snapshot):
        raise Refused(f"{snapshot!r} is no snapshot's id", "run `kycache snapshot list`")
    try:
        data = store.get(f"{snapshot}/{manifests.MANIFEST}", manifests.MANIFEST_BYTES_MAX)
    except Missing:
        raise Missing(
            f"{store.url} holds no finished snapshot {snapshot}", "run `kycache snapshot list`"
        ) from None
    return manifests.opened_manifest(data, keys.mac, snapshot, store.url)


def _found(store: Store, keys: Keys, snapshot: str, files: Mapping[str, Stored]) -> Found:
    there = tuple(files.values())
    try:
        # Asked for whatever the list says: it is not of one moment. Of a snapshot that was finished meanwhile it
        # may show neither the manifest nor the note of its run, as if a prune had been killed there.
        manifest = read_manifest(store, keys, snapshot)
    except Missing:
        return Found(snapshot, Condition.UNFINISHED, None, "it was not finished", there)
    except Refused as error:
        return Found(snapshot, Condition.DAMAGED, None, error.problem, there)
    for entry in manifest.shards:
        file = files.get(entry.file)
        if file is None or file.size != entry.stored_bytes:
            reason = f"{entry.file} is missing" if file is None else f"{entry.file} has another size"
            return Found(snapshot, Condition.DAMAGED, manifest, reason, there)
    return Found(snapshot, Condition.WHOLE, manifest, "", there)
