"""Query strings, read strictly: an unknown, repeated or empty parameter is an error that names it.

Parsed from the raw bytes, because a lenient parser drops what it does not understand, and a dropped filter
shows more users than were asked for. `+` is a blank (HTML forms).
"""

import re
from collections.abc import Collection
from typing import NamedTuple

from kycache.http.exchange.problems import Kind, Problem
from kycache.model.definition import LIST_PARAMETERS
from kycache.model.scalars.refused import ValueRefused
from kycache.model.scalars.times import is_printed_date
from kycache.model.values import integer, uuid_bytes
from kycache.model.view import Filter, View
from kycache.model.view import Kind as TypeKind

SIZE_MAX = 500
"""Rows of a page: 75 KB of JSON, a few milliseconds of work on the thread all clients share."""

SIZE_DEFAULT = 50

PAGE_DIGITS_MAX = 15
"""Digits of a page number: with any size the row it starts at stays below 2^63."""

FILTER_BYTES_MAX = 1024
"""UTF-8 of a text filter's value. A cursor carries it, and a cursor must fit a request line again."""

CURSOR_CHARS_MAX = 8192
"""Four filters at their limit make 5.6 KB. More is refused before it is decoded."""

NEWEST, OLDEST = ORDERS = ("newest", "oldest")
"""First in the list; the first of both is the default."""

_DIGITS = re.compile(r"[0-9]+")

_ESCAPE = re.compile(rb"%(?:([0-9A-Fa-f]{2})|)")


class ListQuery(NamedTuple):
    """What a list request asks for. `page` is None beside a cursor; other members None: not given."""

    cursor: str | None
    page: int | None
    size: int | None
    newest: bool | None
    filters: tuple[str | None, ...]


def _decode(raw: bytes) -> str | None:
    """The text of a percent-encoded piece, None where it is malformed."""
    broken = False

    def byte(match: re.Match[bytes]) -> bytes:
        nonlocal broken
        broken = broken or match[1] is None
        return b"" if match[1] is None else bytes.fromhex(match[1].decode())

    try:
        text = _ESCAPE.sub(byte, raw.replace(b"+", b" ")).decode()
    except UnicodeDecodeError:
        return None
    return None if broken else text


def parse_parameters(query: bytes, known: Collection[str], empty: Collection[str] = ()) -> dict[str, str]:
    """The parameters of a raw query string.

    Args:
        empty: those whose value may be the empty text.

    Raises:
        Problem: one is unknown, repeated, empty, or not percent-encoded UTF-8.
    """
    found: dict[str, str] = {}
    for piece in filter(None, query.split(b"&")):
        raw_name, _, raw_value = piece.partition(b"=")
        name = _decode(raw_name)
        if name is None or name not in known:
            shown = raw_name.decode("ascii", "replace") if name is None else name
            raise Problem(Kind.UNKNOWN_PARAMETER, _known_ones(known), shown)
        if name in found:
            raise Problem(Kind.REPEATED_PARAMETER, f"{name} may be given once.", name)
        value = _decode(raw_value)
        if value is None:
            raise Problem(Kind.INVALID_PARAMETER, f"{name} is not percent-encoded UTF-8.", name)
        if not value and name not in empty:
            raise Problem(Kind.EMPTY_PARAMETER, f"{name} needs a value, or is left out.", name)
        found[name] = value
    return found


def _known_ones(known: Collection[str]) -> str:
    return f"Known here: {', '.join(sorted(known))}." if known else "This route takes no query parameters."


def parse_list(query: bytes, view: View) -> ListQuery:
    """The query of `GET /users`.

    Raises:
        Problem: a parameter is wrong by itself, or page and cursor are both given.
    """
    given = parse_parameters(query, LIST_PARAMETERS | {f.name for f in view.filters}, _empty_labels(view))
    if "cursor" in given and "page" in given:
        raise Problem(Kind.CONFLICTING_PARAMETERS, "A cursor says where it goes on; leave out page.", "page")
    cursor = _cursor(given)
    page = _number(given, "page", 10**PAGE_DIGITS_MAX - 1)
    if page is None and cursor is None:
        page = 1
    return ListQuery(cursor, page, _number(given, "size", SIZE_MAX), _newest(given), _filters(given, view))


def parse_export(query: bytes, view: View) -> ListQuery:
    """The query of `GET /users/export`: that of the list without pages.

    Raises:
        Problem: a parameter is wrong by itself.
    """
    given = parse_parameters(query, {"cursor", "order", *(f.name for f in view.filters)}, _empty_labels(view))
    return ListQuery(_cursor(given), None, None, _newest(given), _filters(given, view))


def _empty_labels(view: View) -> tuple[str, ...]:
    """Filters that have the empty text among their labels: `kind=` asks for it."""
    return tuple(f.name for f in view.filters if "" in f.labels)


def _cursor(given: dict[str, str]) -> str | None:
    cursor = given.get("cursor")
    if cursor is not None and len(cursor) > CURSOR_CHARS_MAX:
        raise Problem(Kind.INVALID_CURSOR, "The cursor is longer than any of this service.", "cursor")
    return cursor


def _newest(given: dict[str, str]) -> bool | None:
    order = given.get("order")
    if order not in (None, *ORDERS):
        raise Problem(Kind.INVALID_PARAMETER, f"order is {' or '.join(ORDERS)}.", "order")
    return None if order is None else order == NEWEST


def _filters(given: dict[str, str], view: View) -> tuple[str | None, ...]:
    return tuple(_filter(f, given.get(f.name), view.filter_kind(f)) for f in view.filters)


def _is_integer(value: str) -> bool:
    try:
        integer(value)
    except ValueRefused:
        return False
    return True


def _number(given: dict[str, str], name: str, most: int) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    # Length first: int() of a long text costs time that its sender does not pay.
    if not _DIGITS.fullmatch(text) or len(text) > PAGE_DIGITS_MAX or not 1 <= int(text) <= most:
        raise Problem(Kind.INVALID_PARAMETER, f"{name} is a whole number from 1 to {most}.", name)
    return int(text)


def _filter(declared: Filter, value: str | None, kind: TypeKind) -> str | None:
    if value is None:
        return None
    if declared.labels and value not in declared.labels:
        raise Problem(
            Kind.INVALID_PARAMETER, f"{declared.name} is one of {', '.join(declared.labels)}.", declared.name
        )
    if kind is TypeKind.UUID:
        try:
            uuid_bytes(value)
        except ValueRefused:
            raise Problem(Kind.INVALID_PARAMETER, f"{declared.name} is a uuid.", declared.name) from None
        return value.lower()
    if kind is TypeKind.DATE and not is_printed_date(value):
        raise Problem(
            Kind.INVALID_PARAMETER, f"{declared.name} is a date, YYYY-MM-DD, or ±infinity.", declared.name
        )
    if kind is TypeKind.INT and not _is_integer(value):
        raise Problem(
            Kind.INVALID_PARAMETER,
            f"{declared.name} is a whole number of at most 64 bits, without leading zeros.",
            declared.name,
        )
    if len(value.encode()) > FILTER_BYTES_MAX:
        raise Problem(
            Kind.INVALID_PARAMETER,
            f"{declared.name} takes at most {FILTER_BYTES_MAX} bytes of UTF-8.",
            declared.name,
        )
    return value
