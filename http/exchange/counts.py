"""Counts of requests, shared by all worker processes.

The cells lie in anonymous memory mapped before the workers are forked. Each worker adds to its own row; whoever is
scraped sums the rows. So any worker answers for all, a worker that is started again goes on where its
predecessor stopped, and counters never run backwards. (prometheus-client's own multi-process mode decides by an
environment variable at import and keeps files of dead processes.)
"""

import mmap
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

ROUTES = (
    "/users",
    "/users/export",
    "/users/<user_id>",
    "/livez",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "other",
)
"""Route labels; `other` is what no route matched. Ids never become labels."""

STATUSES = (200, 304, 400, 404, 405, 500, 503, 0)
"""Status labels; 0 is any other."""

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 5.0)
"""Upper bounds of the latency histogram; 0.2, 0.3 and 0.5 s are the goals for list, detail and any request."""


class _Counter(NamedTuple):
    """A counter beside those of requests; without outcomes it has the one value `""`."""

    text: str
    outcomes: tuple[str, ...] = ("",)


COUNTERS = {
    "freshness_waits": _Counter("Requests that waited for freshness.", ("reached", "refused")),
    "list_pages": _Counter(
        "Pages of the list: read, taken from the cache, or from it after a look that nothing changed.",
        ("read", "cached", "unchanged"),
    ),
    "bodies": _Counter("Details: taken from the bodies that are kept, or rendered.", ("kept", "rendered")),
    "lanes": _Counter("Requests, by the lane that answered them.", ("fast", "full")),
    "hand_overs": _Counter(
        "Requests that the fast lane left to the full one, by the reason.",
        ("route", "version", "header", "malformed", "long"),
    ),
    "exports": _Counter("Exports, by how they ended.", ("whole", "left", "cut_off", "refused")),
    "export_rows": _Counter("Rows exported."),
    "export_bytes": _Counter("Bytes exported, as sent."),
}

GAUGES = {
    "freshness_waiting": "Requests that wait now.",
    "exports_running": "Exports that run now.",
    "body_cache_bytes": "What the kept bodies of details take up.",
    "list_cache_bytes": "What the cached pages of the list take up.",
}

_PER_ROUTE = len(STATUSES) + len(BUCKETS_S) + 2  # statuses; buckets, one above all, the sum of seconds
_PREFIX = "kycache_http_"


def _places() -> tuple[dict[tuple[str, str], int], dict[str, int], int]:
    """Which cell each counter and each gauge has, and the one behind them all."""
    at = len(ROUTES) * _PER_ROUTE
    counters = {}
    for name, counter in COUNTERS.items():
        for outcome in counter.outcomes:
            counters[name, outcome] = at
            at += 1
    return counters, {name: at + i for i, name in enumerate(GAUGES)}, at + len(GAUGES)


_COUNTER_CELLS, _GAUGE_CELLS, _ASKED_CELL = _places()
_CELLS = _ASKED_CELL + 1


class Tally:
    """The cells of all workers.

    Args:
        workers: rows to keep; fixed from before the fork.
    """

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers
        self._cells = memoryview(mmap.mmap(-1, workers * _CELLS * 8)).cast("d")

    def row(self, worker: int) -> "Counts":
        """The row of one worker, for it alone to write."""
        row = self._cells[worker * _CELLS : (worker + 1) * _CELLS]
        for cell in _GAUGE_CELLS.values():  # what was under way at a predecessor is gone
            row[cell] = 0
        return Counts(self, row)

    def granted_lsn(self) -> int:
        """The greatest LSN that any worker was asked for and had."""
        return int(max(self._cells[worker * _CELLS + _ASKED_CELL] for worker in range(self._workers)))

    def _sum(self, cell: int) -> float:
        return sum(self._cells[worker * _CELLS + cell] for worker in range(self._workers))

    def collect(self) -> Iterator[Metric]:
        """The sums, for a prometheus registry."""
        yield from self._requests()
        for name, counter in COUNTERS.items():
            labels = ["outcome"] if counter.outcomes != ("",) else []
            family = CounterMetricFamily(_PREFIX + name, counter.text, labels=labels)
            for outcome in counter.outcomes:
                family.add_metric([outcome] if labels else [], self._sum(_COUNTER_CELLS[name, outcome]))
            yield family
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(_PREFIX + name, text, self._sum(_GAUGE_CELLS[name]))

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(f"{_PREFIX}requests", "Requests answered.", labels=["route", "status"])
        seconds = HistogramMetricFamily(
            f"{_PREFIX}request_seconds", "Time from a request's head to its whole answer.", labels=["route"]
        )
        for number, route in enumerate(ROUTES):
            at = number * _PER_ROUTE
            for status in STATUSES:
                if count := self._sum(at):
                    requests.add_metric([route, str(status) if status else "other"], count)
                at += 1
            counts = [self._sum(at + i) for i in range(len(BUCKETS_S) + 1)]
            bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
            sum_s = self._sum(at + len(BUCKETS_S) + 1)
            seconds.add_metric([route], list(zip(bounds, accumulate(counts), strict=True)), sum_s)
        yield requests
        yield seconds


class Counts:
    """One worker's row."""

    def __init__(self, tally: Tally, row: "memoryview[float]") -> None:
        self.tally = tally
        self._row = row
        self._routes = {route: number * _PER_ROUTE for number, route in enumerate(ROUTES)}
        self._statuses = {status: number for number, status in enumerate(STATUSES)}

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered; an export: its head and first chunk are ready."""
        at = self._routes.get(route, self._routes["other"])
        self._row[at + self._statuses.get(status, len(STATUSES) - 1)] += 1
        at += len(STATUSES)
        self._row[at + bisect_left(BUCKETS_S, seconds)] += 1
        self._row[at + len(BUCKETS_S) + 1] += seconds

    def count(self, counter: str, outcome: str = "", more: int = 1) -> None:
        """So many more of one of `COUNTERS`."""
        self._row[_COUNTER_CELLS[counter, outcome]] += more

    def gauge(self, gauge: str, change: int) -> None:
        """So many more, or fewer, of one of `GAUGES`."""
        self._row[_GAUGE_CELLS[gauge]] += change

    def note_granted(self, lsn: int) -> None:
        """A request asked for this LSN, and the view had it. (Whole up to 2^53: nine petabytes of log.)"""
        self._row[_ASKED_CELL] = max(self._row[_ASKED_CELL], lsn)
