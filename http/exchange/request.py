"""The facts of a request, whichever lane it came in by; and how fresh it wants its answer."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from kycache.model.lsn import parse_lsn

from .problems import Kind, Problem

MIN_LSN = "Kycache-Min-LSN"
MAX_STALENESS = "Kycache-Max-Staleness"
CONSISTENCY = "Kycache-Consistency"

DEMANDS = (MIN_LSN, MAX_STALENESS, CONSISTENCY)

_OURS = "kycache"
_KNOWN = {name.lower() for name in DEMANDS}
_SECONDS = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)


class Demand(NamedTuple):
    """How fresh a request wants its answer."""

    min_lsn: int | None = None
    max_staleness_s: float | None = None
    strong: bool = False

    @property
    def any(self) -> bool:
        """The request makes a demand at all."""
        return self.min_lsn is not None or self.max_staleness_s is not None or self.strong


NO_DEMAND = Demand()


class RequestHeaders:
    """The headers of a request. A client that sends the same ones again may be given the same object again."""

    __slots__ = ("_demand", "_values", "if_none_match", "names")

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values: dict[str, list[str]] = {}
        self.names: list[str] = []
        """As they were sent."""
        for name, value in pairs:
            self.names.append(name)
            self._values.setdefault(name.lower(), []).append(value)
        self.if_none_match = self.all("If-None-Match")
        self._demand: Demand | None = None

    def all(self, name: str) -> list[str]:
        """All values of a header, in order; none where it is absent."""
        return self._values.get(name.lower(), [])

    def demand(self) -> Demand:
        """What they demand of the answer's freshness.

        Raises:
            Problem: a header of ours is malformed, empty, repeated, or unknown: that would drop a demand.
        """
        if self._demand is None:
            self._demand = self._parsed()
        return self._demand

    def _parsed(self) -> Demand:
        for name in self.names:
            if name.lower().startswith(_OURS) and name.lower() not in _KNOWN:
                raise Problem(Kind.UNKNOWN_HEADER, f"Known here: {', '.join(DEMANDS)}.", name)
        lsn_text = self._single(MIN_LSN)
        lsn = None if lsn_text is None else parse_lsn(lsn_text)
        if lsn_text is not None and lsn is None:
            raise _invalid(MIN_LSN, "is an LSN as Postgres prints it, such as 16/B374D848")
        seconds = self._single(MAX_STALENESS)
        if seconds is not None and not _SECONDS.fullmatch(seconds):
            raise _invalid(MAX_STALENESS, "is a decimal number of seconds, at least 0")
        consistency = self._single(CONSISTENCY)
        if consistency not in (None, "strong"):
            raise _invalid(CONSISTENCY, "takes the one value strong")
        demand = Demand(lsn, None if seconds is None else float(seconds), consistency is not None)
        return demand if demand.any else NO_DEMAND

    def _single(self, name: str) -> str | None:
        values = self.all(name)
        if not values:
            return None
        if len(values) > 1:
            raise _invalid(name, "may be given once")
        if not values[0].strip():
            raise _invalid(name, "needs a value, or is left out")
        return values[0].strip()


class Request(NamedTuple):
    """A request: its path and query string as they were sent, and its headers."""

    path: bytes
    query: bytes
    headers: RequestHeaders
    head: bool = False
    """HEAD: the answer is that to a GET, without its body."""


def _invalid(name: str, what: str) -> Problem:
    return Problem(Kind.INVALID_HEADER, f"{name} {what}.", name)
