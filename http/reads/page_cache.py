"""Pages of the list that were read a moment ago, shared by all clients of a process.

A page younger than `ttl_s` is answered as it is, with the headers of its read, unless the request demands more
than it has. An older one is looked at: where no shard has committed since, it is what a read would give, and
counts as read now; else it is read again. A read is a synchronous call of about a millisecond on the thread that
all requests share: there is never more than one under way, and nobody whom the old page could serve meanwhile.

Not answered again: a page from before a change of what the view is suspected of; or, to who names no LSN, from
before a write that any request asked for by `Kycache-Min-LSN` and got (who saw it once, sees it in every later
answer). A page that was read since holds that write, whatever its watermark: a write costs a page one read.
"""

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from kycache.actors.rules.reports import Doubt
from kycache.http.exchange.demands import Truth
from kycache.http.exchange.problems import Headers

from .cursors import Cursor

PAGES_MAX = 4096
"""The first pages of every filter and order of a view, many times over; what walks leave behind does not push them
out within their second."""

BYTES_MAX = 32 << 20
"""What all pages of a process may take up: 4,096 of the default size, or 400 of the largest."""

_OVERHEAD_BYTES = 1500
"""An entry without its body and the texts of its key and links: headers, bookkeeping."""

Key = tuple[Cursor, int | None]
"""The place, with all that a page depends on, and the page number where one was given."""

Commits = tuple[tuple[str, int], ...]
"""The commit id of each shard."""


class Page(NamedTuple):
    """A page as it was read."""

    body: bytes
    links: Headers
    truth: Truth
    lines: bytes
    """The header lines that say nothing of how true it is; and those where a demand was made."""
    lines_bound: bytes
    commits: Commits
    """From before the read: a commit between the two makes the page look older than it is, never newer."""
    doubts: tuple[Doubt, ...]
    granted: int
    """The greatest LSN that a request had asked for and got before the read: what is read since covers it."""


class _Entry:
    __slots__ = ("page", "read_s", "size")

    def __init__(self, page: Page, read_s: float, size: int) -> None:
        self.page = page
        self.read_s = read_s
        self.size = size


class PageCache:
    """The pages of one process.

    Args:
        ttl_s: how old a page may be answered although a shard has committed since; 0 keeps none.
        resized: told by how many bytes the cache grew or shrank.
    """

    def __init__(
        self,
        ttl_s: float,
        resized: Callable[[int], None] = lambda _: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on = ttl_s > 0
        self._ttl_s = ttl_s
        self._resized = resized
        self._now_s = now_s
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._bytes = 0

    def get(self, key: Key) -> tuple[Page, bool] | None:
        """A page that is kept, and whether it is young enough to be answered without a look at the shards."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.page, self._now_s() - entry.read_s < self._ttl_s

    def unchanged(self, key: Key, granted: int) -> None:
        """The page is what a read would give now."""
        entry = self._entries[key]
        entry.page = entry.page._replace(granted=granted)
        entry.read_s = self._now_s()

    def put(self, key: Key, page: Page) -> None:
        """Keep a page that was read now; the ones longest unused go where there are too many."""
        if not self.on:
            return
        self._drop(key)
        texts = [text for link in page.links for text in link] + [text for text in key[0].filters if text]
        size = len(page.body) + _OVERHEAD_BYTES + sum(map(sys.getsizeof, texts))
        self._entries[key] = _Entry(page, self._now_s(), size)
        self._resize(size)
        while len(self._entries) > PAGES_MAX or self._bytes > BYTES_MAX:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._resize(-entry.size)

    def _resize(self, change: int) -> None:
        self._bytes += change
        self._resized(change)
