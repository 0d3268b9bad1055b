"""A run that takes a snapshot, as the store remembers it: what it finished, so that a killed one is gone on with.

    <id>/run.json           a run began: whose it is
    <id>/shard-0003.json    it finished a shard
    <id>/manifest.json      it came to its end; the notes above are removed

There is one run at a time of a data directory (`lock.py`), so whatever else of this directory is not finished was
ended: it is gone on with where that is worth it, and removed where it is not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from kycache.actors.files.directory import Node
from kycache.model.errors import Refused

from . import manifest as manifests
from .keys import Keys
from .manifest import Note, ShardEntry
from .stores import Store, Stored

RESUMED_AFTER_MAX = timedelta(hours=6)
"""Shards copied longer ago are copied again: their copies would only be replayed for longer."""


@dataclass
class Run:
    """A snapshot that is being taken."""

    id: str
    finished: dict[int, ShardEntry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Paths of what is removed at the end."""


class Runs:
    """The runs of one data directory in one store."""

    def __init__(self, store: Store, keys: Keys, node: Node, place: str) -> None:
        """Args:
        place: tells the directory from a copy of it, which has the same id and may be at work at the same time.
        """
        self._store = store
        self._keys = keys
        self._node = node
        self._whose = f"{node.id} {place}".strip()

    def begin(self, now: datetime, wanted: Sequence[int]) -> Run:
        """The run to go on with, else a new one. Leftovers of earlier ones are removed.

        Args:
            wanted: the shards to copy. A run that has finished others too is left to the next that wants those.
        """
        mine: dict[str, list[Note]] = {}
        folders: dict[str, list[Stored]] = {}
        for file in self._store.files():
            snapshot = file.path.partition("/")[0]
            if manifests.is_id(snapshot):
                folders.setdefault(snapshot, []).append(file)
        for snapshot, files in folders.items():
            names = {file.path.partition("/")[2]: file.path for file in files}
            notes = [path for name, path in names.items() if manifests.is_note(name) or name == manifests.RUN_FILE]
            if manifests.MANIFEST in names:
                self._store.delete(notes)  # killed behind its end
                continue
            read = [self._read(path) for path in notes]
            if any(note is not None and note.id == snapshot and note.node == self._whose for note in read):
                mine[snapshot] = [note for note in read if note is not None]
        worth = [snapshot for snapshot, notes in mine.items() if self._continues(notes, now)]
        chosen = max((snapshot for snapshot in worth if _finished(mine[snapshot]) <= set(wanted)), default=None)
        for snapshot in mine:
            self._store.unstage(snapshot)
            if snapshot != chosen and (chosen is not None or snapshot not in worth):
                self._store.delete([file.path for file in folders[snapshot]])
                self._store.forget(snapshot)
        if chosen is None:
            return self._new(now)
        run = Run(chosen)
        there = {(file.path, file.size) for file in folders[chosen]}
        for note in mine[chosen]:
            entry = note.entry
            if entry is None or not self._stands(entry):
                continue
            if (f"{chosen}/{entry.file}", entry.stored_bytes) in there:
                run.finished[entry.shard] = entry
        run.notes = [path for path, _ in there if path.endswith(".json")]
        return run

    def finish(self, run: Run, entry: ShardEntry) -> None:
        """Remember that a shard is finished."""
        path = f"{run.id}/{manifests.note_file(entry.shard)}"
        self._store.put(path, manifests.sealed(self._note(run.id, entry.copied_at, entry), self._keys.mac))
        run.finished[entry.shard] = entry
        run.notes.append(path)

    def end(self, run: Run) -> None:
        """The manifest is there: the notes are not needed any more."""
        self._store.delete(run.notes)

    def _new(self, now: datetime) -> Run:
        run = Run(manifests.new_id(now))
        path = f"{run.id}/{manifests.RUN_FILE}"
        self._store.put(path, manifests.sealed(self._note(run.id, manifests.instant(now), None), self._keys.mac))
        run.notes.append(path)
        return run

    def _note(self, snapshot: str, at: str, entry: ShardEntry | None) -> Note:
        return Note(
            format=manifests.FORMAT,
            id=snapshot,
            node=self._whose,
            view=self._node.view,
            shard_count=self._node.shards,
            recipients=self._keys.recipients_digest,
            at=at,
            entry=entry,
        )

    def _read(self, path: str) -> Note | None:
        try:
            data = self._store.get(path, manifests.MANIFEST_BYTES_MAX)
            return manifests.unsealed(data, Note, self._keys.mac, path)
        except Refused:
            return None  # of another key or version: not ours to go on with, nor to remove

    def _stands(self, entry: ShardEntry) -> bool:
        """A shard could come back from it: it was whole, and nothing was started over since."""
        if entry.epoch < self._node.oldest_of(entry.shard):
            return False
        return entry.bootstrapped and entry.position.topic_id == self._node.topic_id

    def _continues(self, notes: Sequence[Note], now: datetime) -> bool:
        mine = (self._node.view, self._node.shards, self._keys.recipients_digest)
        return all(
            abs(now - datetime.fromisoformat(note.at)) <= RESUMED_AFTER_MAX  # also of a clock that was set back
            and (note.view, note.shard_count, note.recipients) == mine
            for note in notes
        )


def _finished(notes: Sequence[Note]) -> set[int]:
    return {note.entry.shard for note in notes if note.entry is not None}
