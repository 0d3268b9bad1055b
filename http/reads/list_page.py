"""A page of the list: which rows, which cursors beside it, and its bytes.

Rank is what ties pages by number and by cursor together: how many rows stand in front of a page's first row says
whether there is a page in front, and the total says whether there is one behind.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from kycache.actors.order import reader as order_reader
from kycache.http.exchange.demands import format_instant
from kycache.http.exchange.problems import Headers

from .cursors import Cursor

Row = tuple[bytes, bytes]
"""(key in the order, JSON object)."""


class Window(NamedTuple):
    """A page of the list in one moment: its rows, how many match in all, and the cursors beside it."""

    rows: list[Row]
    total: int
    next: Cursor | None
    prev: Cursor | None


def read_window(
    orders: Sequence[order_reader.OrderSnapshot],
    where: tuple[bytes | None, ...],
    place: Cursor,
    page: int | None,
) -> Window:
    """Read page number `page`, or what lies beside the cursor `place`."""
    size, newest = place.size, place.newest
    total = order_reader.total(orders, where)
    if page is not None:
        front = (page - 1) * size
        rows = order_reader.page(orders, where, newest=newest, skip=front, size=size) if front < total else []
    else:
        if place.back and place.edge is not None:
            rows = order_reader.walk_back(orders, where, newest=newest, before=place.edge, size=size)
        else:
            rows = order_reader.walk(orders, where, newest=newest, after=place.edge, size=size)
        front = order_reader.rank(orders, where, newest=newest, key=rows[0][0]) if rows else 0

    def beside(edge: bytes | None, *, back: bool) -> Cursor:
        return msgspec.structs.replace(place, edge=edge, back=back)

    if rows:
        behind = total - front - len(rows)
        return Window(
            rows,
            total,
            beside(rows[-1][0], back=False) if behind else None,
            beside(rows[0][0], back=True) if front else None,
        )
    if not total:
        return Window(rows, total, None, None)
    if page is None and place.back:  # nothing is left in front: the list begins behind
        return Window(rows, total, beside(None, back=False), None)
    # Past the end. The page in front is the last one, aligned as pages by number are.
    aligned = (total - 1) // size * size
    edge = order_reader.page(orders, where, newest=newest, skip=aligned - 1, size=1)[0][0] if aligned else None
    return Window(rows, total, None, beside(edge, back=False))


def list_body(
    window: Window, size: int, number: int | None, links: dict[str, str | None], as_of_ms: int | None
) -> bytes:
    """The list's JSON: the rows are ready bytes and are joined, not decoded."""
    page = {"size": size, "number": number, "total": window.total, **links}
    as_of = None if as_of_ms is None else format_instant(as_of_ms)
    rows = b",".join(row for _, row in window.rows)
    return b'{"data":[%b],"page":%b,"asOf":%b}' % (rows, msgspec.json.encode(page), msgspec.json.encode(as_of))


def link_header(links: dict[str, str | None]) -> Headers:
    """RFC 8288. A cursor is URL-safe as it is."""
    shown = [f'</users?cursor={cursor}>; rel="{rel}"' for rel, cursor in links.items() if cursor is not None]
    return (("Link", ", ".join(shown)),) if shown else ()
