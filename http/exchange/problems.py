"""What an answer is made of, and the errors a client may get: RFC 9457 problems with a stable `type`.

`docs/clients.md` lists every type. A problem says which parameter or header is wrong and never repeats its value:
answers may be logged by whoever receives them.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from enum import Enum
from typing import NamedTuple, Protocol

import msgspec

Headers = tuple[tuple[str, str], ...]

PROBLEM_JSON = "application/problem+json"

RETRY_AFTER_S = 1
"""Twice the beat of an idle shard (0.5 s): by then there is something new to look at."""

_TYPE_PREFIX = "urn:kycache:problem:"


class Stream(Protocol):
    """A body that is made while it is sent."""

    def pieces(self) -> Iterator[bytes]:
        """The bytes, each piece made when the one before it was taken."""
        ...

    def running(self) -> AbstractContextManager[None]:
        """Entered before the first piece is sent, left when the answer has ended in whatever way.

        Raises:
            Problem: there is no place for it.
        """
        ...


class Answer(NamedTuple):
    """What a request gets: whole, or as a stream whose `body` is empty."""

    status: int
    headers: Headers
    body: bytes
    stream: Stream | None = None


class Kind(Enum):
    """Every problem: the last part of its type, its status, its title."""

    UNKNOWN_PARAMETER = ("unknown-parameter", 400, "Unknown query parameter")
    REPEATED_PARAMETER = ("repeated-parameter", 400, "Query parameter given more than once")
    EMPTY_PARAMETER = ("empty-parameter", 400, "Query parameter without a value")
    INVALID_PARAMETER = ("invalid-parameter", 400, "Query parameter with a value it does not take")
    CONFLICTING_PARAMETERS = ("conflicting-parameters", 400, "Query parameters that contradict each other")
    INVALID_CURSOR = ("invalid-cursor", 400, "Not a cursor of this service")
    INVALID_ID = ("invalid-id", 400, "Not a user id")
    UNKNOWN_HEADER = ("unknown-header", 400, "Unknown Kycache request header")
    INVALID_HEADER = ("invalid-header", 400, "Request header that is malformed, empty or repeated")
    MALFORMED_REQUEST = ("malformed-request", 400, "Request that cannot be understood safely")
    NO_SUCH_USER = ("no-such-user", 404, "No such user")
    NO_SUCH_ROUTE = ("no-such-route", 404, "No such route")
    METHOD_NOT_ALLOWED = ("method-not-allowed", 405, "Method not allowed")
    INTERNAL = ("internal-error", 500, "Internal error")
    NOT_READY = ("not-ready", 503, "The data is not there yet")
    UNREADABLE = ("unreadable", 503, "The data cannot be read")
    NOT_FRESH = ("not-fresh-enough", 503, "The data is older than was asked for")
    FRESHNESS_UNKNOWN = ("freshness-unknown", 503, "How old the data is cannot be known")
    NO_SOURCE = ("source-not-configured", 503, "Strong reads are not available")
    TOO_MANY_EXPORTS = ("too-many-exports", 503, "As many exports run as are allowed")

    def __init__(self, slug: str, status: int, title: str) -> None:
        self.slug = slug
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        """The problem's type: a name, not an address."""
        return _TYPE_PREFIX + self.slug


class Body(msgspec.Struct, omit_defaults=True):
    """The members of a problem document."""

    type: str
    title: str
    status: int
    detail: str
    parameter: str | None = None
    unmet: tuple[str, ...] = ()


class Problem(Exception):
    """A request that gets no data.

    Attributes:
        parameter: names a query or path parameter, or a header, that is wrong.
        unmet: the headers whose demands are not met.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        parameter: str | None = None,
        headers: Headers = (),
        unmet: tuple[str, ...] = (),
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.parameter = parameter
        self.headers = headers
        self.unmet = unmet

    def answer(self) -> Answer:
        """The answer that says so."""
        kind = self.kind
        retry: Headers = (("Retry-After", str(RETRY_AFTER_S)),) if kind.status == 503 else ()
        headers = (("Content-Type", PROBLEM_JSON), ("Cache-Control", "no-store"), *retry, *self.headers)
        body = Body(kind.type, kind.title, kind.status, self.detail, self.parameter, self.unmet)
        return Answer(kind.status, headers, msgspec.json.encode(body))
