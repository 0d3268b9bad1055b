"""Takes what was deleted out of the pages of a compacting copy.

LMDB's compacting copy leaves freed pages behind, and copies the living ones whole. Between the slots and the
nodes of a page, and behind the end of a value that has pages of its own, stand bytes of whatever was there
before: rows of people who were erased. `Scrubber` sets them to zero while the copy streams by. What may stay of
a deleted row is its key, in a delete marker (by design, for days) or as a separator in a branch page; a key is
a user id and an order, no other personal data.

The layout is LMDB 0.9's (mdb.c: MDB_page, MDB_node), the format that data files have had since 2011.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from kycache.actors.files.environment import PAGE_SIZE
from kycache.model.errors import Refused

HELD_BYTES_MAX = 16 << 20
"""Overflow pages held in memory until the leaf that knows their lengths has come; more goes to disk. A leaf has
at most some hundred of them, and one record in quarantine may have 20 MB."""

_HEADER = Struct("<QHHHH")
"""Page number, padding, flags, lower, upper."""
_RUN = Struct("<QHHI")
"""The same of an overflow page: page number, padding, flags, pages."""
_NODE = Struct("<HHHH")
"""Size of the value (low, high), flags, size of the key."""
_NUMBER = Struct("<Q")

_BRANCH, _LEAF, _OVERFLOW, _META = 0x01, 0x02, 0x04, 0x08
_KINDS = _BRANCH | _LEAF | _OVERFLOW | _META
_BIG = 0x01
"""A node whose value has pages of its own, and which holds their number."""

_ZEROS = bytes(PAGE_SIZE)

_REMEDY = "run `kycache rebuild` for this shard"


class BadPages(Refused):
    """What streams by is not a data file as LMDB writes it."""


class Scrubber:
    """Pages in, pages out, in LMDB's order of copying: a value's own pages before the leaf that names it."""

    def __init__(self, spill: Path | None = None) -> None:
        """Args:
        spill: the folder where pages are held, in a file without a name, that memory should not hold.
        """
        self._spill = None if spill is None else str(spill)
        self._rest = b""
        self._in_run = 0
        """Bytes still to come of a run of overflow pages: data, without headers."""
        self._runs: dict[int, tuple[int, int]] = {}
        """By page number, where a run whose length is not known yet stands in `_held`, and its bytes."""
        self._held: tempfile.SpooledTemporaryFile[bytes] | None = None

    def feed(self, block: bytes) -> Iterator[bytes | bytearray]:
        """The pages that are done, in pieces. Blocks may be cut anywhere."""
        data = bytearray(self._rest + block)
        whole = len(data) - len(data) % PAGE_SIZE
        self._rest = bytes(data[whole:])
        del data[whole:]
        return self._scrub(data)

    def finish(self) -> None:
        """All pages have come.

        Raises:
            BadPages: the stream was cut.
        """
        if self._rest or self._in_run or self._runs:
            raise BadPages("a copy of a shard's file ends in the middle of a page", "run the command again")

    def close(self) -> None:
        """Give up what is held, where the stream was not read to its end."""
        if self._held is not None:
            self._held.close()

    def _scrub(self, data: bytearray) -> Iterator[bytes | bytearray]:
        begin, at, end = 0, 0, len(data)
        while at < end:
            if self._in_run:
                step = min(self._in_run, end - at)
                self._in_run -= step
                at += step
                continue
            _, _, flags, lower, upper = _HEADER.unpack_from(data, at)
            kind = flags & _KINDS
            if kind in (_LEAF, _BRANCH):
                if not _HEADER.size <= lower <= upper <= PAGE_SIZE:
                    raise BadPages("a page of a shard's file has bounds outside itself", _REMEDY)
                data[at + lower : at + upper] = _ZEROS[: upper - lower]
                if self._runs and kind == _LEAF:
                    yield from self._resolve(data, begin, at, lower)
                    begin = at
            elif kind == _OVERFLOW:
                if not self._runs:
                    yield data[begin:at]
                    begin = at
                number, _, _, pages = _RUN.unpack_from(data, at)
                held = 0 if self._held is None else self._held.tell()
                self._runs[number] = (held + at - begin, pages * PAGE_SIZE)
                self._in_run = pages * PAGE_SIZE
                continue
            elif kind != _META:
                raise BadPages(f"a page of a shard's file has flags {flags:#x}", _REMEDY)
            at += PAGE_SIZE
        if self._runs:
            self._hold(data[begin:])
        else:
            yield data[begin:] if begin else data

    def _hold(self, data: bytearray) -> None:
        if self._held is None:
            self._held = tempfile.SpooledTemporaryFile(HELD_BYTES_MAX, dir=self._spill)  # noqa: SIM115 (it outlives this)
        self._held.write(data)

    def _resolve(self, data: bytearray, begin: int, leaf: int, lower: int) -> Iterator[bytes]:
        """The held pages. What is behind each value's end is zero now, as the leaf at `leaf` tells the lengths."""
        self._hold(data[begin:leaf])
        held = self._held
        assert held is not None
        for slot in range(leaf + _HEADER.size, leaf + lower, 2):
            node = leaf + int.from_bytes(data[slot : slot + 2], "little")
            if node + _NODE.size > leaf + PAGE_SIZE:
                raise BadPages("a page of a shard's file has rows outside itself", _REMEDY)
            low, high, flags, key_size = _NODE.unpack_from(data, node)
            if not flags & _BIG:
                continue
            if node + _NODE.size + key_size + _NUMBER.size > leaf + PAGE_SIZE:
                raise BadPages("a page of a shard's file has rows outside itself", _REMEDY)
            (number,) = _NUMBER.unpack_from(data, node + _NODE.size + key_size)
            start, size = self._runs.pop(number, (0, 0))
            used = _HEADER.size + (low | high << 16)
            if used > size:
                raise BadPages("a value of a shard's file is longer than its pages", _REMEDY)
            held.seek(start + used)
            held.write(bytes(size - used))
        if self._runs:
            raise BadPages("a shard's file holds pages that no row names", _REMEDY)
        held.seek(0)
        while piece := held.read(HELD_BYTES_MAX):
            yield piece
        held.close()
        self._held = None
