"""Heads of requests that the fast lane answers: read whole, or left to the full lane with every byte. Pure.

The lane understands one form of request only: GET or HEAD of the two hot paths in HTTP/1.1, written without any
freedom that the standard leaves. Whatever else comes, well-formed or not, is not judged here: Hypercorn reads it
again from its first byte. So no request is read in two ways.

Every pattern is possessive: each byte is looked at once, whatever a head holds.
"""

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from kycache.http.exchange.request import RequestHeaders

from .limits import HEAD_BYTES_MAX, HEADERS_MAX

_END = b"\r\n\r\n"
_STARTS = (b"GET /users", b"HEAD /users")
_START_BYTES = max(map(len, _STARTS))

# Bytes of a target: printable, but for # everywhere, and for / and ? in an id.
_LINE = re.compile(rb"(GET|HEAD) (/users(?:/[!\"$-.0->@-~]++)?+)(?:\?([!\"$-~]*+))?+ HTTP/1\.1\r\n")
_LINES = re.compile(
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+\r\n){1," + str(HEADERS_MAX).encode() + rb"}+"
)

_EXPORT = b"/users/export"

_FRAMING = frozenset({"transfer-encoding", "expect", "te", "trailer"})
_CONNECTION = frozenset({"close", "keep-alive", "upgrade", "http2-settings"})


class Head(NamedTuple):
    """A request's head; `lines` are its headers, not looked at yet."""

    is_head: bool
    path: bytes
    query: bytes
    lines: bytes
    end: int
    """Where the next request begins."""


class Foreign(NamedTuple):
    """What the lane leaves to the full one, and why (an outcome of the counter `hand_overs`)."""

    reason: str


class Understood(NamedTuple):
    """A request's headers."""

    headers: RequestHeaders
    close: bool
    """The client wants the connection to end."""


def read_head(data: bytes, at: int, searched: int = 0) -> Head | Foreign | None:
    """The request that begins at an offset; None while its head is not whole.

    Args:
        searched: so many bytes were looked through in vain for the end of the head.
    """
    end = data.find(_END, max(at, searched - len(_END) + 1))
    if end < 0:
        return _unfinished(data, at)
    if end + len(_END) - at > HEAD_BYTES_MAX:
        return Foreign("long")
    found = _LINE.match(data, at, end + 2)
    if found is None:
        line = data[at : data.index(b"\r\n", at)]
        return Foreign("version" if line.startswith(_STARTS) and not line.endswith(b" HTTP/1.1") else "route")
    method, path, query = found.groups()
    if path == _EXPORT or (b"%" in path and _another_route(path)):
        return Foreign("route")
    return Head(method == b"HEAD", path, query or b"", data[found.end() : end + 2], end + len(_END))


def _another_route(path: bytes) -> bool:
    """Whether a path is no user's once it is decoded."""
    decoded = unquote_to_bytes(path)
    return decoded == _EXPORT or decoded.count(b"/") > 2


def _unfinished(data: bytes, at: int) -> Foreign | None:
    """Whether what has come of a head may still become one of the lane's."""
    size = len(data) - at
    if size > HEAD_BYTES_MAX:
        return Foreign("long")
    start = data[at : at + _START_BYTES]
    if not any(known.startswith(start[: len(known)]) for known in _STARTS):
        return Foreign("route")
    if data.count(b"\n", at) != data.count(b"\r\n", at):  # Hypercorn takes a bare LF for the end of a line
        return Foreign("malformed")
    return None


def understand(lines: bytes) -> Understood | Foreign:
    """The headers of a head, where none of them changes how the connection goes on."""
    if not _LINES.fullmatch(lines):
        return Foreign("malformed")
    pairs = []
    for line in lines[:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        # Written as Quart writes it, since a problem may name it.
        pairs.append((name.decode("ascii").title(), value.strip(b" \t").decode("latin1")))
    headers = RequestHeaders(pairs)
    if len(headers.all("host")) != 1:
        return Foreign("malformed")
    tokens = {token.strip().lower() for value in headers.all("connection") for token in value.split(",")}
    framing = any(name.lower() in _FRAMING for name, _ in pairs)
    if framing or not tokens <= _CONNECTION or not _unframed(headers):
        return Foreign("header")
    return Understood(headers, "close" in tokens)


def _unframed(headers: RequestHeaders) -> bool:
    """No body follows, and no other protocol. Java's client, and curl's, offer h2c beside each first request."""
    upgrades = [value.lower() for value in headers.all("upgrade")]
    return headers.all("content-length") in ([], ["0"]) and (
        not upgrades or (upgrades == ["h2c"] and len(headers.all("http2-settings")) == 1)
    )
