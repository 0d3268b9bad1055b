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

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

ROUTES = ("/users", "/users/<user_id>", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "other")
"""Route labels; `other` is what no route matched. Ids never become labels."""

STATUSES = (200, 304, 400, 404, 405, 500, 503, 0)
"""Status labels; 0 is any other."""

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 3.0, 5.0)
"""Upper bounds of the latency histogram; 0.2, 0.3 and 0.5 s are the goals for list, detail and any request."""

_WAITS = ("reached", "refused")
_PER_ROUTE = len(STATUSES) + len(BUCKETS_S) + 2  # statuses; buckets, one above all, the sum of seconds
_WAIT_CELLS = len(ROUTES) * _PER_ROUTE
_CELLS = _WAIT_CELLS + len(_WAITS) + 1  # the last: requests that wait now


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
        row[_CELLS - 1] = 0  # whoever waited at a predecessor is gone
        return Counts(self, row)

    def _sum(self, cell: int) -> float:
        return sum(self._cells[worker * _CELLS + cell] for worker in range(self._workers))

    def collect(self) -> Iterator[Metric]:
        """The sums, for a prometheus registry."""
        requests = CounterMetricFamily("kycache_http_requests", "Requests answered.", labels=["route", "status"])
        seconds = HistogramMetricFamily(
            "kycache_http_request_seconds", "Time from a request's head to its whole answer.", labels=["route"]
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
        waits = CounterMetricFamily(
            "kycache_http_freshness_waits", "Requests that waited for freshness.", labels=["outcome"]
        )
        for number, outcome in enumerate(_WAITS):
            waits.add_metric([outcome], self._sum(_WAIT_CELLS + number))
        yield waits
        yield GaugeMetricFamily("kycache_http_freshness_waiting", "Requests that wait now.", self._sum(_CELLS - 1))


class Counts:
    """One worker's row."""

    def __init__(self, tally: Tally, row: "memoryview[float]") -> None:
        self.tally = tally
        self._row = row
        self._routes = {route: number * _PER_ROUTE for number, route in enumerate(ROUTES)}
        self._statuses = {status: number for number, status in enumerate(STATUSES)}

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        at = self._routes.get(route, self._routes["other"])
        self._row[at + self._statuses.get(status, len(STATUSES) - 1)] += 1
        at += len(STATUSES)
        self._row[at + bisect_left(BUCKETS_S, seconds)] += 1
        self._row[at + len(BUCKETS_S) + 1] += seconds

    def waits(self, change: int) -> None:
        """So many more requests wait now."""
        self._row[_CELLS - 1] += change

    def waited(self, *, reached: bool) -> None:
        """A request that waited has its answer."""
        self._row[_WAIT_CELLS + (0 if reached else 1)] += 1
