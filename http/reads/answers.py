"""Answers to the two reads: request facts in; status, headers and bytes out.

Synchronous and free of any framework, so that every way a request may come in gets the same bytes. Where the
view is not yet as fresh as the request demands, the result is a `Wait`; where the answer takes longer to make than
others may wait for, it is `Slow`. The driver (http/exchange/driver.py) does the waiting and asks again. No read
transaction outlives a call.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import lmdb

from kycache.actors.integrity.vouching import Unchecked
from kycache.actors.order import reader as order_reader
from kycache.actors.order.list_key import user_of
from kycache.actors.reader import NoStore, ShardSnapshot
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Freshness, freshness
from kycache.actors.rules.reports import Doubt
from kycache.actors.rules.state import ShardState
from kycache.http.exchange.counts import Counts
from kycache.http.exchange.demands import (
    NOTHING_KNOWN,
    VARY,
    Truth,
    Wait,
    met,
    truth_headers,
    unmet,
)
from kycache.http.exchange.driver import KeptAnswer, Outcome
from kycache.http.exchange.problems import Answer, Headers, Kind, Problem
from kycache.http.exchange.request import NO_DEMAND, Demand, Request
from kycache.http.exchange.slow import Slow
from kycache.http.exchange.sparing_log import SparingLog
from kycache.http.exchange.wire import header_lines
from kycache.model.errors import Refused
from kycache.model.profile import Profile, unpack_profile
from kycache.model.render import Renderer, etag

from .codings import CODINGS, choose
from .cursors import Cursor, CursorCodec
from .exports import CHUNK_ROWS, Chunk, Export, Exports, Walk
from .kept_bodies import KeptBodies, KeptBody
from .list_page import Row, link_header, list_body, read_window
from .page_cache import Key, Page, PageCache
from .query import SIZE_DEFAULT, ListQuery, parse_export, parse_list, parse_parameters

PREFIX = b"/users/"
"""An id follows, in which a slash is written `%2F`."""

JSON = ("Content-Type", "application/json")
NDJSON = ("Content-Type", "application/x-ndjson")
DETAIL_CACHING = ("Cache-Control", "private, no-cache")
LIST_CACHING = ("Cache-Control", "private, max-age=1")
LIST_CACHING_BOUND = ("Cache-Control", "private, no-cache")
"""Of a list that was asked with a demand: a second later the kept answer may no longer meet it."""

ROWS_HERE_MAX = 500
"""Of a profile that is rendered on the thread of all requests: 3 ms, no more than other answers take."""

EXPORT_CACHING = ("Cache-Control", "no-store")
EXPORT_VARY = ("Vary", f"{VARY[1]}, Accept-Encoding")


KEYS_MAX = 4096
"""Query strings of the list that are remembered with what they mean: as many as pages are kept."""

KEY_QUERY_BYTES_MAX = 1024
"""Of a query string that is remembered: all of them take up 8 MB at the most, with what they mean."""


class _Found(NamedTuple):
    """A user who exists: where, under which key, the stored profile, and what it says."""

    shard: int
    user: bytes
    stored: bytes
    profile: Profile


class Answers:
    """The answer functions of one view."""

    def __init__(
        self,
        router: Router,
        cursors: CursorCodec,
        pages: PageCache,
        bodies: KeptBodies,
        exports: Exports,
        counts: Counts,
    ) -> None:
        self._router = router
        self._cursors = cursors
        self._pages = pages
        self._exports = exports
        self._bodies = bodies
        self._counts = counts
        self._keys: dict[bytes, Key] = {}  # by query string: what a page that may be kept depends on
        self._truths: dict[int, tuple[ShardState, tuple[Doubt, ...], Truth]] = {}
        self._renderer = Renderer(router.view)
        self._log = SparingLog(logging.getLogger("kycache.http"))
        self._id_name = ".".join(router.view.root.columns[router.view.root.index_of(router.view.root.key)].output)

    def user(self, request: Request) -> Outcome:
        """`GET /users/{userId}`."""
        parse_parameters(request.query, ())
        demand = request.headers.demand()
        text = _id_of(request.path)
        user = None if text is None else self._router.user_id(text)
        if user is None:
            raise Problem(Kind.INVALID_ID, f"{self._id_name} is not an id of this service.", self._id_name)
        with self._reading():
            if self._router.shard_count is None:
                raise _not_ready()
            shard = self._router.shard_of(user)
            state, stored = self._router.look_up(shard, user.key)
            profile = None if stored is None else unpack_profile(stored)
            truth = self._truth(shard, state, suspect=profile is not None and bool(profile.suspicions))
        wait = self._unmet(demand, truth.fresh, (shard,))
        if wait is not None:
            return wait
        self._granted(demand)
        if stored is None or profile is None or not profile.exists:
            raise Problem(Kind.NO_SUCH_USER, "There is no such user.", headers=truth.headers)
        found = _Found(shard, user.key, stored, profile)
        if profile.size > ROWS_HERE_MAX:
            return Slow(lambda: self._detail(found, request, truth))
        return self._detail(found, request, truth, keep=not profile.suspicions)

    def _detail(self, found: "_Found", request: Request, truth: Truth, *, keep: bool = False) -> Answer:
        """The answer about a user who exists. Reads nothing, so any thread may make one that is not kept."""
        body = self._renderer.body(found.profile)
        tag = etag(body)
        headers: Headers = (("ETag", tag), DETAIL_CACHING, VARY)
        if keep:
            self._counts.count("bodies", "rendered")
            whole = (("Content-Length", str(len(body))), JSON, *headers)
            kept = KeptBody(*found[:3], body, tag, header_lines(whole), header_lines(headers))
            self._bodies.put(request.path[len(PREFIX) :], kept)
        if matches(request.headers.if_none_match, tag):
            return Answer(304, (*headers, *truth.headers), b"")
        return Answer(200, (JSON, *headers, *truth.headers), body)

    def kept_user(self, request: Request) -> KeptAnswer | None:
        """The answer about a user whose body is kept, where that is as fresh as is demanded; else ask `user`."""
        kept = None if request.query else self._bodies.get(request.path[len(PREFIX) :])
        if kept is None:
            return None
        try:
            demand = request.headers.demand()
            state, stored = self._router.look_up(kept.shard, kept.user)
            if stored != kept.stored or not state.bootstrapped:
                return None
            truth = self._truth(kept.shard, state)
        except (Problem, Refused, lmdb.Error):
            return None  # asked, it says what is wrong
        if demand is not NO_DEMAND:
            if not met(demand, truth.fresh, time.time(), self._router.limits):
                return None
            self._granted(demand)
        self._counts.count("bodies", "kept")
        conditions = request.headers.if_none_match
        if conditions and matches(conditions, kept.tag):
            return KeptAnswer(304, kept.lines_unchanged, truth.lines, b"")
        return KeptAnswer(200, kept.lines, truth.lines, kept.body)

    def users(self, request: Request) -> Outcome:
        """`GET /users`."""
        key = self._key(request.query)
        demand = request.headers.demand()
        page = self._kept(key, demand)
        if page is None:
            read = self._read_page(key, demand)
            if isinstance(read, Wait):
                return read
            page = read
            self._pages.put(key, page)
        caching = LIST_CACHING_BOUND if demand.any else LIST_CACHING
        self._granted(demand)
        return Answer(200, (JSON, caching, VARY, *page.links, *page.truth.headers), page.body)

    def _key(self, query: bytes) -> Key:
        """What a query string of the list means. Remembered: clients send few different ones again and again."""
        key = self._keys.get(query)
        if key is None:
            parsed = parse_list(query, self._router.view)
            key = (self._place(parsed), parsed.page)
            if len(self._keys) >= KEYS_MAX:
                self._keys.clear()
            if len(query) <= KEY_QUERY_BYTES_MAX:
                self._keys[query] = key
        return key

    def kept_users(self, request: Request) -> KeptAnswer | None:
        """A page of the list that is kept, where that is as fresh as is demanded; else ask `users`."""
        key = self._keys.get(request.query)
        if key is None:
            return None
        try:
            demand = request.headers.demand()
        except Problem:
            return None
        page = self._kept(key, demand)
        if page is None:
            return None
        self._granted(demand)
        return KeptAnswer(200, page.lines_bound if demand.any else page.lines, page.truth.lines, page.body)

    def _kept(self, key: Key, demand: Demand) -> Page | None:
        """A page from the cache that may be the answer."""
        found = self._pages.get(key)
        if found is None:
            return None
        page, young = found
        if not met(demand, page.truth.fresh, time.time(), self._router.limits):
            return None
        granted = self._counts.tally.granted_lsn()
        covers = demand.min_lsn is not None or granted <= max(page.truth.fresh.watermark, page.granted)
        try:
            if page.doubts != self._router.doubts():
                return None
            if young and covers:
                self._counts.count("list_pages", "cached")
                return page
            if page.commits != self._router.commit_ids():
                return None
        except (Refused, lmdb.Error):
            return None  # a read says what is wrong
        self._pages.unchanged(key, granted)
        self._counts.count("list_pages", "unchanged")
        return page

    def _read_page(self, key: Key, demand: Demand) -> Page | Wait:
        place, number = key
        doubts = self._router.doubts()
        granted = self._counts.tally.granted_lsn()
        with self._reading():
            commits = self._router.commit_ids() if self._pages.on else ()
            with self._router.all_snapshots() as snapshots:
                fresh = self._freshness(snapshots)
                wait = self._unmet(demand, fresh, tuple(s.shard for s in snapshots))
                if wait is not None:
                    return wait
                window = read_window([s.order for s in snapshots], place.where, place, number)
                fresh = fresh._replace(suspect=fresh.suspect or _one_is_suspect(snapshots, window.rows))
        self._counts.count("list_pages", "read")
        links = {
            "next": None if window.next is None else self._cursors.encode(window.next),
            "prev": None if window.prev is None else self._cursors.encode(window.prev),
        }
        body = list_body(window, place.size, number, links, fresh.as_of_ms)
        links_shown = link_header(links)
        length = ("Content-Length", str(len(body)))
        lines = header_lines((length, JSON, LIST_CACHING, VARY, *links_shown))
        bound = header_lines((length, JSON, LIST_CACHING_BOUND, VARY, *links_shown))
        return Page(body, links_shown, Truth.of(fresh), lines, bound, commits, doubts, granted)

    def export(self, request: Request) -> Outcome:
        """`GET /users/export`."""
        query = parse_export(request.query, self._router.view)
        demand = request.headers.demand()
        place = self._place(query._replace(size=CHUNK_ROWS) if query.cursor is None else query)
        if place.back:
            raise Problem(Kind.INVALID_CURSOR, "The cursor leads back; an export goes on only.", "cursor")
        first = self._read_chunk(place, demand, first=True)
        if isinstance(first, Wait):
            return first
        self._granted(demand)
        coding = choose(request.headers.all("Accept-Encoding"))
        headers = [NDJSON, EXPORT_CACHING, EXPORT_VARY, *truth_headers(first.fresh)]
        if coding != "identity":
            headers.append(("Content-Encoding", coding))
        walk = Walk(self._read_on, self._cursors.encode)
        export = Export(walk, place, first, CODINGS[coding]())
        return Answer(200, tuple(headers), b"", self._exports.stream(export))

    def _read_on(self, place: Cursor) -> Chunk:
        """The chunk behind a place, whatever was demanded at the start."""
        chunk = self._read_chunk(place, NO_DEMAND)
        assert isinstance(chunk, Chunk)
        return chunk

    def _read_chunk(self, place: Cursor, demand: Demand, *, first: bool = False) -> Chunk | Wait:
        with self._reading(), self._router.all_snapshots() as snapshots:
            fresh = self._freshness(snapshots)
            wait = self._unmet(demand, fresh, tuple(s.shard for s in snapshots))
            if wait is not None:
                return wait
            orders = [s.order for s in snapshots]
            rows = order_reader.walk(orders, place.where, newest=place.newest, after=place.edge, size=CHUNK_ROWS)
            # The first speaks for all that follow: whoever is suspect now may be among them.
            suspect = any(s.state.suspects for s in snapshots) if first else _one_is_suspect(snapshots, rows)
            return Chunk(rows, fresh._replace(suspect=fresh.suspect or suspect))

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What keeps a shard from being read, as a problem. That says no path; the log does."""
        try:
            yield
        except (NoStore, Unchecked):
            raise _not_ready() from None
        except (Refused, lmdb.Error) as error:
            self._log.error(str(error))
            raise Problem(
                Kind.UNREADABLE, "The view's files cannot be read now.", headers=truth_headers(NOTHING_KNOWN)
            ) from error

    def _granted(self, demand: Demand) -> None:
        """A demand was met: who saw a write once must see it in every later answer."""
        if demand.min_lsn is not None:
            self._counts.note_granted(demand.min_lsn)

    def _place(self, query: ListQuery) -> Cursor:
        """Where the page begins, and all that it depends on."""
        if query.cursor is None:
            newest = True if query.newest is None else query.newest
            return Cursor(newest, query.size or SIZE_DEFAULT, query.filters, None)
        cursor = self._cursors.decode(query.cursor)
        names = [f.name for f in self._router.view.filters]
        beside: list[tuple[str, object, object]] = [
            ("order", query.newest, cursor.newest),
            ("size", query.size, cursor.size),
        ]
        beside += zip(names, query.filters, cursor.filters, strict=True)
        for name, given, carried in beside:
            if given is not None and given != carried:
                raise Problem(
                    Kind.CONFLICTING_PARAMETERS, f"The cursor carries another {name}; leave it out.", name
                )
        return cursor

    def _freshness(self, snapshots: Sequence[ShardSnapshot]) -> Freshness:
        if not all(s.state.bootstrapped for s in snapshots):
            raise _not_ready()
        return freshness([s.state for s in snapshots], self._router.doubts())

    def _truth(self, shard: int, state: ShardState, *, suspect: bool = False) -> Truth:
        """How true an answer from one shard is: made once for a state of it and the doubts there are."""
        doubts = self._router.doubts()
        seen, about, truth = self._truths.get(shard, (None, (), None))
        if truth is None or seen is not state or about is not doubts:
            if not state.bootstrapped:
                raise _not_ready()
            truth = Truth.of(freshness([state], doubts))
            self._truths[shard] = state, doubts, truth
        return Truth.of(truth.fresh._replace(suspect=True)) if suspect and not truth.fresh.suspect else truth

    def _unmet(self, demand: Demand, fresh: Freshness, shards: tuple[int, ...]) -> Wait | None:
        return unmet(demand, fresh, shards, time.time(), self._router.limits) if demand.any else None


def _id_of(path: bytes) -> str | None:
    """The id at the end of a path. None where it is not UTF-8: replaced characters could make it another's id."""
    try:
        return unquote_to_bytes(path[len(PREFIX) :]).decode()
    except UnicodeDecodeError:
        return None


def _one_is_suspect(snapshots: Sequence[ShardSnapshot], rows: Sequence[Row]) -> bool:
    """Whether a row of the list is about a user of whom something could not be applied."""
    return any(snapshot.suspects_one_of(user_of(key) for key, _ in rows) for snapshot in snapshots)


def _not_ready() -> Problem:
    return Problem(
        Kind.NOT_READY,
        "The view has not been built up yet; an answer now might miss users.",
        headers=truth_headers(NOTHING_KNOWN),
    )


_ENTITY_TAG = re.compile(r'(?:W/)?("[\x21\x23-\x7e\x80-\xff]*")')


def matches(if_none_match: Sequence[str], tag: str) -> bool:
    """Whether an If-None-Match header names the tag (RFC 9110, 13.1.2: `*`, or a list compared weakly)."""
    value = ", ".join(if_none_match).strip()
    return value == "*" or tag in _ENTITY_TAG.findall(value)
