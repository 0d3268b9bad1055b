"""LMDB environments: checked before they are mapped, and opened once per process.

LMDB must not open one file twice in a process (its locks would be lost at the first close), while a `node`
both writes and reads its shards: so a process has one `Environments`, and each user leases from it.

A truncated LMDB file opens cleanly and kills the process by SIGBUS at the first read behind its end; so the
meta pages are read and compared with the file's length before anything is mapped.
"""

import os
from pathlib import Path
from struct import Struct
from threading import Lock
from typing import NamedTuple

import lmdb

from kycache.model.errors import Refused

from .pid_claim import PidClaim, is_read_only, read_only

READERS_MAX = 1024
"""Reader slots of a shard, 64 B each: web workers times the reads each has open (a handful)."""

DATABASES_MAX = 16
"""Named databases of a shard: six are used."""

PAGE_SIZE = 4096
"""LMDB takes the machine's: x86-64 and arm64 Linux as they are shipped. Another size is refused, not guessed."""

_META = Struct("<II Q Q 48s 48s Q Q")
"""magic, version, address, map size, free db, main db, last page, transaction; behind a 16 B page header."""
_PAGE_HEADER = 16
_MAGIC = 0xBEEFC0DE


_GROW_AHEAD = 16 << 20
"""Bytes, sparse: more than a batch appends, so that a kill in mid-commit leaves no file that looks truncated."""


class DamagedFile(Refused):
    """A shard file that must not be mapped."""


def no_address_space(shard: int, map_size: int) -> Refused:
    """What LMDB calls a lack of memory: the kernel reserves no more addresses, whatever memory is free."""
    return Refused(
        f"shard {shard}: {map_size / 2**30:,.1f} GiB of address space cannot be reserved for it",
        "lower `[data] map_size_gib`, which every shard reserves, or raise the limit (`ulimit -v`, that of the "
        "service or container)",
    )


def data_file(generation: Path) -> Path:
    """Where LMDB keeps a generation."""
    return generation / "data.mdb"


def damage_remedy(shard: int) -> str:
    """What to do about a damaged file."""
    return (
        f"bring it back with `kycache snapshot restore ID --shard {shard}`, or run "
        f"`kycache rebuild --shard {shard}`; other shards go on"
    )


def check_before_mapping(generation: Path, shard: int) -> None:
    """Refuse a file that is shorter than its own meta pages say, or whose meta pages are garbled.

    Raises:
        DamagedFile: names the file and the remedy.
        Refused: it is on a read-only mount.
    """
    path = data_file(generation)
    remedy = damage_remedy(shard)
    try:
        if is_read_only(generation):
            raise read_only(generation)
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(2 * PAGE_SIZE)
    except OSError as error:
        raise DamagedFile(f"shard {shard}: {path} cannot be read: {error.strerror}", remedy) from None
    if len(head) < 2 * PAGE_SIZE:
        raise DamagedFile(f"shard {shard}: {path} is shorter than its two meta pages", remedy)
    for page in range(2):
        if _META.unpack_from(head, page * PAGE_SIZE + _PAGE_HEADER)[0] != _MAGIC:
            raise DamagedFile(f"shard {shard}: meta page {page} of {path} is garbled", remedy)
    used = _used_bytes(head)
    if used > size:
        raise DamagedFile(f"shard {shard}: {path} is truncated: {size} bytes of {used}", remedy)


def used_bytes(generation: Path) -> int:
    """How long the file must be, by its own meta pages: behind that it is sparse."""
    with data_file(generation).open("rb") as file:
        return _used_bytes(file.read(2 * PAGE_SIZE))


def _used_bytes(head: bytes) -> int:
    metas = [_META.unpack_from(head, page * PAGE_SIZE + _PAGE_HEADER) for page in range(2)]
    newest = max(metas, key=lambda meta: int(meta[7]))
    return (int(newest[6]) + 1) * PAGE_SIZE


def grow_ahead(environment: lmdb.Environment) -> None:
    """Keep the file longer than its last used page, before a write transaction begins.

    LMDB counts pages that it took and gave back in one transaction as used, but does not write them: at
    the end of the file they would make it shorter than its meta page says, as if truncated.
    """
    path = data_file(Path(environment.path()))
    needed = (environment.info()["last_pgno"] + 1) * PAGE_SIZE + _GROW_AHEAD // 2
    if path.stat().st_size < needed:
        os.truncate(path, needed + _GROW_AHEAD // 2)


def begin_read(environment: lmdb.Environment) -> "lmdb.Transaction[bytes]":
    """Begin to read a file whose writer, in another process, may have made its map larger meanwhile."""
    try:
        return environment.begin()
    except lmdb.MapResizedError:
        environment.set_mapsize(0)  # take its size over
        return environment.begin()


class Databases(NamedTuple):
    """The named databases of a store (store.py says what is in each)."""

    meta: "lmdb._Database"
    profiles: "lmdb._Database"
    rows: "lmdb._Database"
    order: "lmdb._Database"
    quarantine: "lmdb._Database"
    markers: "lmdb._Database"


class Lease(NamedTuple):
    """An open environment and its databases."""

    environment: lmdb.Environment
    databases: Databases


class Environments:
    """The environments that this process has open, each once."""

    def __init__(
        self, *, readonly: bool, map_size: int, metasync: bool = False, claim: PidClaim | None = None
    ) -> None:
        """Args:
        readonly: this process writes no shard.
        map_size: address space reserved per shard, bytes; the file grows only as it is written.
        metasync: also wait for the last meta page of each commit. Without it power loss can undo the last
            transactions, whose positions are undone with them; it never tears the file.
        claim: held from the first file on; None where no process of another container has the files.
        """
        self.readonly = readonly
        self._map_size = map_size
        self._metasync = metasync
        self._claim = claim
        self._open: dict[Path, tuple[Lease, int]] = {}
        self._lock = Lock()

    def lease(self, generation: Path, shard: int, *, create: bool = False) -> Lease:
        """The environment of a generation; give it back with `release`.

        Args:
            create: make an empty one where there is none.

        Raises:
            DamagedFile: it must not be mapped, or its creation was cut off.
            Refused: there is no room for it in the address space, or it is on a read-only mount.
            PidTaken: a process in another container has this one's pid.
        """
        with self._lock:
            lease, users = self._open.get(generation, (None, 0))
            if lease is None:
                if not create:
                    check_before_mapping(generation, shard)
                lease = self._start(generation, shard)
            self._open[generation] = (lease, users + 1)
            return lease

    def release(self, generation: Path) -> None:
        """Give a lease back; the last one closes."""
        with self._lock:
            lease, users = self._open.pop(generation)
            if users > 1:
                self._open[generation] = (lease, users - 1)
            else:
                lease.environment.close()
                if self._claim is not None:
                    self._claim.release()

    def _start(self, generation: Path, shard: int) -> Lease:
        if self._claim is not None:
            self._claim.hold()
        try:
            return self._mapped(generation, shard)
        except BaseException:
            if self._claim is not None:
                self._claim.release()
            raise

    def _mapped(self, generation: Path, shard: int) -> Lease:
        try:
            environment = lmdb.open(
                os.fspath(generation),
                map_size=self._map_size,
                readonly=self.readonly,
                metasync=self._metasync,
                mode=0o600,
                max_readers=READERS_MAX,
                max_dbs=DATABASES_MAX,
                max_spare_txns=4,
                # Shards are far larger than memory and read at random: read-ahead would evict what is hot.
                readahead=False,
            )
        except lmdb.MemoryError:
            raise no_address_space(shard, self._map_size) from None
        environment.reader_check()
        # Here, before anyone can have a transaction: `open_db` takes the writer's lock while it holds the
        # interpreter's, and a process that both reads and writes would stand still for ever (seen).
        try:
            names = (name.encode() for name in Databases._fields)
            databases = Databases(*(environment.open_db(name, create=not self.readonly) for name in names))
        except lmdb.Error as error:
            environment.close()
            raise DamagedFile(
                f"shard {shard}: {generation} holds no whole store: {error}", damage_remedy(shard)
            ) from None
        return Lease(environment, databases)
