"""Takes a snapshot: each shard copied from a pinned read transaction, compressed, encrypted, hashed on the way.

    <id>/shard-0003.mdb.zst(.age)   a shard's file
    <id>/manifest.json              last: before it is there, there is no snapshot

Nothing is held in memory but some blocks, and nothing on disk but what the store itself is. A run that was killed
is gone on with by the next one (`runs.py`).
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import lmdb
import pyrage
from backports.zstd import ZstdCompressor

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.environment import Environments, begin_read, damage_remedy
from kycache.actors.files.meta import read_identity, read_state
from kycache.actors.generations.hot_copy import copied_pages
from kycache.actors.integrity.vouching import vouched
from kycache.model.errors import Refused
from kycache.snapshots.storage import manifest as manifests
from kycache.snapshots.storage.keys import Keys
from kycache.snapshots.storage.manifest import Manifest, ShardEntry
from kycache.snapshots.storage.runs import Runs
from kycache.snapshots.storage.settings import MIB, SnapshotSettings
from kycache.snapshots.storage.stores import Store, Writer

from .placement import placement, stray

AHEAD = 4
"""Pieces, of 1 MiB as a rule, that are copied and hashed while earlier ones are compressed and written: enough for
both threads to be busy, and little memory. More threads would take what ingest and web need."""

Piece = bytes | bytearray


@dataclass(frozen=True)
class Progress:
    """What a run tells while it works."""

    begin: Callable[[int, int], None] = field(default=lambda _shard, _bytes: None)
    """A shard, and about how many bytes its file has."""
    advance: Callable[[int, int], None] = field(default=lambda _shard, _bytes: None)
    """So many more of them are read."""
    done: Callable[[ShardEntry, bool], None] = field(default=lambda _entry, _resumed: None)
    """It is finished; True: an earlier run had done so."""


class Taker:
    """Takes snapshots of one data directory into one store. Blocking."""

    def __init__(
        self,
        directory: DataDirectory,
        environments: Environments,
        store: Store,
        keys: Keys,
        settings: SnapshotSettings,
        check: Callable[[Path, int], object],
        progress: Progress = Progress(),
    ) -> None:
        """Args:
        check: sees to it that a shard's generation that nobody vouches for may be mapped, or raises `Refused`.
        """
        self._directory = directory
        self._environments = environments
        self._store = store
        self._keys = keys
        self._settings = settings
        self._check = check
        self._progress = progress
        self.refused: dict[int, Refused] = {}
        """Shards that the snapshot lacks, and why: one that is damaged must not cost the others theirs."""
        self.elsewhere = ""
        """What is to be said of shards that are not this directory's."""

    def take(self, shards: Sequence[int] | None = None, *, now: datetime | None = None) -> Manifest:
        """A snapshot of these shards, or of this directory's own. The caller holds the directory's snapshot lock.

        A shard that has no file or a damaged one, or whose copy costs too much, is left out (`refused`).

        Raises:
            Refused: no shard could be copied, or what was written is gone again.
            Unreachable: the store does not answer. What is finished is kept for the next run.
        """
        node = self._directory.node()
        if node is None:
            raise Refused(f"nothing was ingested into {self._directory.root}", "start `kycache ingest`")
        wanted = self._wanted(node, shards)
        runs = Runs(self._store, self._keys, node, self._directory.place())
        run = runs.begin(now or datetime.now(UTC), wanted)
        entries: list[ShardEntry] = []
        try:
            for shard in wanted:
                entry = run.finished.get(shard)
                resumed = entry is not None
                if entry is None:
                    try:
                        entry = self._copy_current(run.id, node, shard)
                    except Refused as error:
                        self.refused[shard] = error
                        continue
                    runs.finish(run, entry)
                entries.append(entry)
                self._progress.done(entry, resumed)
        finally:
            self._store.unstage(run.id)  # what was begun, where it came to no end
        if not entries:
            raise self.refused[wanted[0]]
        self._check_files(run.id, entries)
        whole = Manifest(
            format=manifests.FORMAT,
            id=run.id,
            tool=f"kycache {version('kycache')}",
            created_at=manifests.instant(datetime.now(UTC)),
            node=node.id,
            view=node.view,
            shard_count=node.shards,
            shards=tuple(entries),
        )
        self._store.put(f"{run.id}/{manifests.MANIFEST}", manifests.sealed(whole, self._keys.mac))
        runs.end(run)
        return whole

    def _wanted(self, node: Node, shards: Sequence[int] | None) -> list[int]:
        """The shards asked for; else those that are this directory's own."""
        if shards is None:
            own, strays, self.elsewhere = placement(self._directory, node.shards)
            self.refused.update({shard: stray(shard) for shard in strays})
            return own
        wanted = sorted(set(shards))
        if wanted[-1] >= node.shards:
            raise Refused(
                f"there is no shard {wanted[-1]} in {self._directory.root}",
                f"name shards from 0 to {node.shards - 1}",
            )
        return wanted

    def _copy_current(self, snapshot: str, node: Node, shard: int) -> ShardEntry:
        """Copy the generation in use, or the one that takes its place meanwhile: the former's files go away."""
        folder = self._directory.shard(shard)
        while generation := folder.current():
            try:
                return self._copy(snapshot, node, shard, generation)
            except (Refused, lmdb.Error, FileNotFoundError) as error:
                if folder.current() != generation:
                    continue
                if not isinstance(error, lmdb.Error):
                    raise
                raise Refused(
                    f"shard {shard}: {generation} cannot be read: {error}", damage_remedy(shard)
                ) from error
        raise Refused(f"shard {shard} has no file here", "run this again when `kycache status` shows it ready")

    def _copy(self, snapshot: str, node: Node, shard: int, generation: Path) -> ShardEntry:
        if not vouched(generation):  # mapping it could end this process
            self._check(generation, shard)
        environment, databases = self._environments.lease(generation, shard)
        try:
            with begin_read(environment) as txn:
                identity, state = read_identity(txn, databases), read_state(txn, databases)
                doubts = self._directory.doubts()  # behind the transaction's begin: see `entry_of`
                if (identity.view, identity.shard, identity.shards) != (node.view, shard, node.shards):
                    raise Refused(
                        f"shard {shard}: the file holds {identity}", f"run `kycache rebuild --shard {shard}`"
                    )
                self._check_epoch(shard, identity.epoch)
                if not state.bootstrapped:
                    raise Refused(
                        f"shard {shard} is still bootstrapping: a copy could not be restored",
                        "run this again when `kycache status` shows it ready",
                    )
                self._progress.begin(shard, (environment.info()["last_pgno"] + 1) * environment.stat()["psize"])
                copied_at = manifests.instant(datetime.now(UTC))
                limits = self._settings.copying
                with closing(copied_pages(shard, environment, txn, limits, self._directory.run)) as pages:
                    copied = self._store_pages(snapshot, shard, pages)
        finally:
            self._environments.release(generation)
        return manifests.entry_of(identity, state, doubts, copied_at, copied)

    def _check_files(self, snapshot: str, entries: Sequence[ShardEntry]) -> None:
        """Look whether what was written is still there: a store may be emptied, or unmounted, under a run."""
        there = {(file.path, file.size) for file in self._store.files(snapshot)}
        gone = [e.file for e in entries if (f"{snapshot}/{e.file}", e.stored_bytes) not in there]
        if gone:
            raise Refused(
                f"{self._store.url}: {', '.join(gone)} of snapshot {snapshot} went away since it was written",
                "see that the store is mounted, and that nobody else removes what is in it; then again",
            )

    def _check_epoch(self, shard: int, epoch: int) -> None:
        """Refuse to copy what serves while the shard is built anew from a later epoch: it could not come back."""
        node = self._directory.node()  # behind the transaction's begin
        oldest = 0 if node is None else node.oldest_of(shard)
        if epoch < oldest:
            raise Refused(
                f"shard {shard} is to be built anew from epoch {oldest}, and its file is of {epoch}: "
                "a copy could not be restored",
                "run this again when `kycache status` shows it ready; where nothing builds it, run "
                f"`kycache rebuild --shard {shard}` first",
            )

    def _store_pages(self, snapshot: str, shard: int, pages: Iterator[Piece]) -> manifests.CopiedFile:
        """Compress, encrypt and write the pages; what came of it."""
        encrypted = bool(self._keys.recipients)
        name = manifests.shard_file(shard, encrypted=encrypted)
        digest = hashlib.sha256()
        file = _Hashed(self._store.writer(f"{snapshot}/{name}"))
        with closing(ahead(_hashed(pages, digest), AHEAD)) as pieces:
            packed = _Packed(pieces, self._settings.level, partial(self._progress.advance, shard))
            if encrypted:
                pyrage.encrypt_io(packed, file, list(self._keys.recipients))
            else:
                while piece := packed.read(MIB):
                    file.write(piece)
        file.writer.close()
        return manifests.CopiedFile(
            file=name,
            encrypted=encrypted,
            raw_bytes=packed.size,
            raw_sha256=digest.hexdigest(),
            stored_bytes=file.size,
            stored_sha256=file.digest.hexdigest(),
        )


def ahead(pieces: Iterator[Piece], count: int) -> Generator[Piece, None, None]:
    """The same pieces; a thread makes the next `count` of them while one is used. Close it where it is left."""
    with ThreadPoolExecutor(1, "ahead") as thread:
        waiting = deque(thread.submit(next, pieces, None) for _ in range(count))
        while (piece := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, pieces, None))
            yield piece


def _hashed(pages: Iterator[Piece], digest: "hashlib._Hash") -> Iterator[Piece]:
    for piece in pages:
        digest.update(piece)
        yield piece


class _Packed:
    """The pages as a compressed file to read."""

    def __init__(self, pages: Iterator[Piece], level: int, advance: Callable[[int], None]) -> None:
        self.size = 0
        self._pages = pages
        self._advance = advance
        self._pack = ZstdCompressor(level)
        self._ready = b""
        self._at = 0
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        while self._at == len(self._ready) and not self._ended:
            self._ready, self._at = self._more(), 0
        end = len(self._ready) if size < 0 else self._at + size
        data = self._ready[self._at : end]
        self._at += len(data)
        return data

    def _more(self) -> bytes:
        pages = next(self._pages, None)
        if pages is None:
            self._ended = True
            return self._pack.flush()
        self.size += len(pages)
        self._advance(len(pages))
        return self._pack.compress(pages)


class _Hashed:
    """A file in the store, hashed as it is written."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes, /) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.writer.write(data)

    def flush(self) -> None:
        """age's library asks for it."""
