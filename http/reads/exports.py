"""Exports: the whole list as a stream of lines (NDJSON), chunk by chunk, in constant memory.

A chunk is read in one set of read transactions that ends before it is sent, so however slowly a client reads, it
keeps no page of a shard's file from being used again. What ties the chunks together is the cursor behind each: a
row is skipped or repeated only if it changed place itself. Nothing is read ahead: the next chunk is read when the
one before it was taken.

Where a chunk cannot be read, or would make the answer's headers untrue, the stream is cut off. It then lacks its
last line, and in HTTP/1.1 also its last chunk: nobody can take it for whole.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

import msgspec

from kycache.actors.rules.freshness import Freshness
from kycache.http.exchange.counts import Counts
from kycache.http.exchange.demands import NOTHING_KNOWN, truth_headers
from kycache.http.exchange.problems import Kind, Problem, Stream
from kycache.model.lsn import format_lsn

from .codings import Coding
from .cursors import Cursor
from .list_page import Row

CHUNK_ROWS = 500
"""Rows of one set of read transactions: 2 ms of work, compressed 3, on the thread that all clients share."""

_LINE_BREAKS = [(b"\r", b" "), *((c.encode(), f"\\u{ord(c):04x}".encode()) for c in "\x85\u2028\u2029")]

log = logging.getLogger("kycache.http")


class CutOff(Exception):
    """The stream ends here without its end."""


class Chunk(NamedTuple):
    """Rows of one moment, and how true they are."""

    rows: list[Row]
    fresh: Freshness


class Walk(NamedTuple):
    """What an export needs to go on: how to read behind a place, and how to write that place down."""

    read: Callable[[Cursor], Chunk]
    encode: Callable[[Cursor], str]


class Export:
    """One export, its first chunk already read."""

    def __init__(self, walk: Walk, place: Cursor, first: Chunk, coding: Coding) -> None:
        self.fresh = first.fresh
        self.outcome = "left"
        """What became of it: `whole`, `cut_off` by us, `left` by the client."""
        self.rows = 0
        self._walk = walk
        self._place = place
        self._chunk = first
        self._coding = coding

    def pieces(self) -> Iterator[bytes]:
        """The bytes to send, a chunk at a time; the next one is read when it is asked for.

        Raises:
            CutOff: the stream must not be ended.
        """
        whole = False
        while not whole and self._chunk.rows:
            rows = self._chunk.rows
            self.rows += len(rows)
            self._place = msgspec.structs.replace(self._place, edge=rows[-1][0])
            whole = len(rows) < CHUNK_ROWS
            yield self._coding.piece(_lines(rows) + _line({"cursor": self._walk.encode(self._place)}))
            if not whole:
                self._chunk = self._next()
        marks = {"from": format_lsn(self.fresh.watermark), "to": format_lsn(self._chunk.fresh.watermark)}
        last = _line({"end": True, "rows": self.rows, "watermark": marks})
        yield self._coding.piece(last) + self._coding.end()
        self.outcome = "whole"

    def _next(self) -> Chunk:
        try:
            chunk = self._walk.read(self._place)
        except Problem as problem:
            raise self._cut_off(problem.kind.slug) from problem
        if chunk.fresh.watermark < self._chunk.fresh.watermark:
            raise self._cut_off("a shard went back to an older state")
        if chunk.fresh.suspect and not self.fresh.suspect:
            raise self._cut_off("the view came under suspicion, which the headers deny")
        return chunk

    def _cut_off(self, why: str) -> CutOff:
        self.outcome = "cut_off"
        log.warning("an export was cut off after %d rows: %s", self.rows, why)
        return CutOff(why)


class Exports:
    """How many exports run at once in this process.

    Args:
        limit: they take turns with all other requests, one chunk each: so this many chunks are what another
            request may have to wait for.
    """

    def __init__(self, limit: int, counts: Counts) -> None:
        self._limit = limit
        self._counts = counts
        self._running = 0

    @contextmanager
    def running(self, export: Export) -> Iterator[None]:
        """A place for one export, until it ends in whatever way.

        Raises:
            Problem: all are taken.
        """
        if self._running >= self._limit:
            self._counts.count("exports", "refused")
            detail = "As many exports run here as are allowed; try again later."
            # No 503 says a watermark that covers what was asked, and what was asked for was there.
            raise Problem(Kind.TOO_MANY_EXPORTS, detail, headers=truth_headers(NOTHING_KNOWN))
        self._running += 1
        self._counts.gauge("exports_running", +1)
        try:
            yield
        finally:
            self._running -= 1
            self._counts.gauge("exports_running", -1)
            self._counts.count("exports", export.outcome)

    def stream(self, export: Export) -> Stream:
        """An export as the body of an answer."""
        return _Placed(self, export)

    def counted(self, export: Export) -> Iterator[bytes]:
        """The pieces of an export, counted as they are taken."""
        rows = 0
        for piece in export.pieces():
            self._counts.count("export_bytes", "", len(piece))
            self._counts.count("export_rows", "", export.rows - rows)
            rows = export.rows
            yield piece


class _Placed:
    """An export that takes its place among the others when it is sent."""

    def __init__(self, places: Exports, export: Export) -> None:
        self._places = places
        self._export = export

    def pieces(self) -> Iterator[bytes]:
        return self._places.counted(self._export)

    def running(self) -> AbstractContextManager[None]:
        return self._places.running(self._export)


def _lines(rows: list[Row]) -> bytes:
    """The rows' JSON, a line each.

    JSON escapes line feeds, but not the three characters beyond ASCII at which many a reader of lines (Python's
    `splitlines`, and with it httpx) breaks too: they are escaped here. Bare ones stand between the tokens of a
    `json` column, which PostgreSQL keeps as it was written: blanks do as well.
    """
    lines = b"\n".join([row.replace(b"\n", b" ") for _, row in rows]) + b"\n"
    for raw, escaped in _LINE_BREAKS:
        lines = lines.replace(raw, escaped)
    return lines


def _line(members: dict[str, object]) -> bytes:
    """A line that is no row: it has no user id."""
    return msgspec.json.encode(members) + b"\n"
