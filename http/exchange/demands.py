"""How true an answer is: what it says of that, and whether it meets what a request demands. Pure.

Headers of DESIGN section 7. A shard that is not bootstrapped says watermark 0/0: the one lower bound that is
right for it, and one that covers nothing anybody asked for.
"""

from typing import NamedTuple

from kycache.actors.rules.freshness import Freshness, Limits, staleness_s
from kycache.model.lsn import format_lsn
from kycache.model.scalars.times import date_of

from .problems import Answer, Headers, Kind, Problem
from .request import CONSISTENCY, DEMANDS, MAX_STALENESS, MIN_LSN, Demand
from .wire import header_lines

AS_OF = "Kycache-As-Of"
WATERMARK = "Kycache-Watermark"
SERVED_BY = "Kycache-Served-By"
SUSPECT = "Kycache-Suspect"
FRESHNESS = "Kycache-Freshness"

VARY = ("Vary", ", ".join(DEMANDS))
"""A cache must not answer a demand with what it kept from a request that made none."""

NOTHING_KNOWN = Freshness(None, 0, False, True)

NOT_CLAIMED: Headers = ((WATERMARK, "0/0"), (SERVED_BY, "view"), (SUSPECT, "true"))
"""No 503 says a watermark that covers what was asked."""


class Wait(NamedTuple):
    """A demand not met yet: wait for these shards and ask again; `otherwise` is the answer if that is in vain."""

    shards: tuple[int, ...]
    min_lsn: int
    max_staleness_s: float | None
    otherwise: Answer


def truth_headers(fresh: Freshness) -> Headers:
    """What an answer with data of this freshness says about itself."""
    headers = [(WATERMARK, format_lsn(fresh.watermark)), (SERVED_BY, "view")]
    if fresh.as_of_ms is not None:
        headers.append((AS_OF, format_instant(fresh.as_of_ms)))
    if not fresh.heartbeat:
        headers.append((FRESHNESS, "kafka"))
    if fresh.suspect:
        headers.append((SUSPECT, "true"))
    return tuple(headers)


class Truth(NamedTuple):
    """What answers made of the same states say about themselves, made once for all of them."""

    fresh: Freshness
    headers: Headers
    lines: bytes
    """The same headers as HTTP/1.1 sends them."""

    @classmethod
    def of(cls, fresh: Freshness) -> "Truth":
        """The headers of a freshness."""
        headers = truth_headers(fresh)
        return cls(fresh, headers, header_lines(headers))


def unmet(demand: Demand, fresh: Freshness, shards: tuple[int, ...], now_s: float, limits: Limits) -> Wait | None:
    """None where data of this freshness meets the demand, else what to wait for.

    Raises:
        Problem: no wait would help.
    """
    bound, stale = demand.max_staleness_s, staleness_s(fresh.as_of_ms, now_s, limits)
    lacking = []
    if demand.min_lsn is not None and (fresh.cut_off or fresh.watermark < demand.min_lsn):
        lacking.append(MIN_LSN)
    if bound is not None and (fresh.cut_off or stale is None or stale > bound):
        lacking.append(MAX_STALENESS)
    if demand.strong:
        lacking.append(CONSISTENCY)
    if not lacking:
        return None

    def refusal(kind: Kind, detail: str, parameter: str | None = None) -> Problem:
        headers = NOT_CLAIMED if fresh.cut_off else truth_headers(fresh)
        return Problem(kind, detail, parameter, headers, tuple(lacking))

    if demand.strong:
        no_source = "No source is configured to read from; ask for a Kycache-Min-LSN instead."
        raise refusal(Kind.NO_SOURCE, no_source, CONSISTENCY)
    if fresh.cut_off:
        raise refusal(Kind.NOT_FRESH, "The view missed a change of the source and awaits a rebuild.")
    if bound is not None and stale is None:
        unknown = "The source sends no heartbeat, or its clock is ahead: age is known only up to Kafka."
        raise refusal(Kind.FRESHNESS_UNKNOWN, unknown, MAX_STALENESS)
    waited = refusal(Kind.NOT_FRESH, "The view has not caught up with what was asked for; try again.")
    return Wait(shards, demand.min_lsn or 0, bound, waited.answer())


def met(demand: Demand, fresh: Freshness, now_s: float, limits: Limits) -> bool:
    """Whether data of this freshness meets the demand."""
    try:
        return not demand.any or unmet(demand, fresh, (), now_s, limits) is None
    except Problem:
        return False


def format_instant(ms: int) -> str:
    """Milliseconds since 1970 as `2026-11-22T08:09:17.829Z`."""
    days, rest = divmod(ms, 86_400_000)
    seconds, millis = divmod(rest, 1000)
    year, month, day = date_of(days)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{millis:03d}"
    return f"{year:04d}-{month:02d}-{day:02d}T{clock}Z"
