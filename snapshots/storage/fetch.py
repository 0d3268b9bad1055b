"""A shard's file out of a store: decrypted, decompressed, and checked byte by byte as it streams.

What comes out is either the file that was copied, or nothing.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pyrage
from backports.zstd import ZstdDecompressor, ZstdError

from kycache.actors.files.environment import data_file
from kycache.actors.files.shard_folder import sync_folder
from kycache.model.errors import KycacheError, Refused

from .keys import Keys
from .manifest import Manifest, ShardEntry
from .settings import MIB
from .stores import Missing, Store

PIECE_BYTES_MAX = 4 * MIB
"""Decompressed at once: a small file may unfold to any size."""


class Sink(Protocol):
    """Takes what comes out."""

    def write(self, data: bytes, /) -> int: ...


def fetch(
    store: Store,
    keys: Keys,
    manifest: Manifest,
    entry: ShardEntry,
    generation: Path,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a shard's file into an empty generation, durably, for its owner only. Blocking.

    Args:
        advance: told how many bytes of the LMDB file came, from time to time.

    Raises:
        Refused: the file is not the one that was stored. Nothing is left behind.
        Unreachable: the store does not answer.
    """
    path = data_file(generation)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            check_file(store, keys, manifest, entry, file, advance)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(generation)


def check_file(
    store: Store,
    keys: Keys,
    manifest: Manifest,
    entry: ShardEntry,
    sink: Sink,
    advance: Callable[[int], None] = lambda _: None,
) -> None:
    """Read a shard's file, compare sizes and hashes, and hand the LMDB file's bytes on as they come.

    Raises:
        Refused: they differ. What was handed on is worth nothing then.
        Unreachable: the store does not answer.
    """
    what, path = _named(store, manifest, entry)
    try:
        if store.size(path) != entry.stored_bytes:
            raise _damaged(what, "has another size")
        stored = _Stored(store.read(path, entry.stored_bytes))
        raw = _Raw(entry.raw_bytes, sink, advance)
        opens = _unfold(stored, raw, keys, what, encrypted=entry.encrypted)
        stored.drain()  # so that what is told is the first thing that is wrong
    except Missing:
        raise _damaged(what, "is missing") from None
    if stored.size != entry.stored_bytes or stored.digest.hexdigest() != entry.stored_sha256:
        raise _damaged(what, "has another checksum")
    if not opens and entry.encrypted and not raw.size:
        raise Refused(
            f"{what} is not encrypted for this identity", "set `[snapshots] identity` to one of its recipients"
        )
    if not opens or not raw.ended or raw.size != entry.raw_bytes or raw.digest.hexdigest() != entry.raw_sha256:
        raise _damaged(what, "unfolds to something else")


def check_stored(store: Store, manifest: Manifest, entry: ShardEntry) -> None:
    """Read a shard's file as it is stored, and compare size and hash: without its identity, and without room.

    Raises:
        Refused: they differ.
        Unreachable: the store does not answer.
    """
    what, path = _named(store, manifest, entry)
    try:
        if store.size(path) != entry.stored_bytes:
            raise _damaged(what, "has another size")
        stored = _Stored(store.read(path, entry.stored_bytes))
        stored.drain()
    except Missing:
        raise _damaged(what, "is missing") from None
    if stored.digest.hexdigest() != entry.stored_sha256:
        raise _damaged(what, "has another checksum")


def _named(store: Store, manifest: Manifest, entry: ShardEntry) -> tuple[str, str]:
    """A shard's file as messages name it, and its path."""
    return (
        f"shard {entry.shard}: {entry.file} of snapshot {manifest.id} in {store.url}",
        f"{manifest.id}/{entry.file}",
    )


def _unfold(stored: "_Stored", raw: "_Raw", keys: Keys, what: str, *, encrypted: bool) -> bool:
    """Hand on what the file holds; whether it could be read to its end."""
    if encrypted and not keys.identities:
        raise Refused(f"{what} is encrypted", "set `[snapshots] identity` to the file with the age identity")
    try:
        if encrypted:
            pyrage.decrypt_io(stored, raw, list(keys.identities))
        while piece := stored.read(MIB):
            raw.write(piece)
    except (_Differs, ZstdError, pyrage.DecryptError, OSError):  # the last is of age's library, or a full disk
        return _no_failure(stored, raw)
    return True


def _no_failure(stored: "_Stored", raw: "_Raw") -> bool:
    """False, unless something of ours went wrong underneath, which age's library tells as an error of its own."""
    for failure in (stored.failure, raw.failure):
        if failure is not None:
            raise failure from None
    return False


def _damaged(what: str, how: str) -> Refused:
    return Refused(f"{what} {how}", "take another snapshot of `kycache snapshot list`")


class _Differs(Exception):
    """What came is not what the manifest says."""


class _Stored:
    """The store's pieces as a file to read, hashed."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.failure: KycacheError | None = None
        """Why the store gave no more: age's library tells it as an error of its own."""
        self._pieces = pieces
        self._piece = b""
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        if self._at == len(self._piece):
            self._piece, self._at = self._next(), 0
        end = len(self._piece) if size < 0 else self._at + size
        data = self._piece[self._at : end]
        self._at += len(data)
        return data

    def drain(self) -> None:
        """Hash what was not read."""
        while self._next():
            pass

    def _next(self) -> bytes:
        try:
            piece = next(self._pieces, b"")
        except KycacheError as error:
            self.failure = error
            raise
        self.digest.update(piece)
        self.size += len(piece)
        return piece


class _Raw:
    """Decompresses and hashes what is written to it, and hands it on."""

    def __init__(self, size_max: int, sink: Sink, advance: Callable[[int], None]) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self.failure: OSError | None = None
        self._size_max = size_max
        self._sink = sink
        self._advance = advance
        self._unfold = ZstdDecompressor()

    @property
    def ended(self) -> bool:
        """The compressed frame came to its end."""
        return self._unfold.eof

    def write(self, data: bytes, /) -> int:
        came = len(data)
        while data or not (self._unfold.needs_input or self._unfold.eof):
            if self._unfold.eof:
                raise _Differs
            piece = self._unfold.decompress(data, PIECE_BYTES_MAX)
            data = b""
            self.size += len(piece)
            if self.size > self._size_max:
                raise _Differs
            self.digest.update(piece)
            try:
                self._sink.write(piece)
            except OSError as error:
                self.failure = error
                raise
            self._advance(len(piece))
        return came

    def flush(self) -> None:
        """age's library asks for it."""
