"""What `bench/reads.py` measured, and its section of docs/benchmarks.md."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import report

from .load import CONNECTIONS, RATE, Latency, Throughput
from .rows import ROWS, Row
from .sides import PEERS

DEEP_RATE = 200
"""Requests a second: a list that keeps no page answers some times as many, so no queue builds up."""


@dataclass(frozen=True)
class Figure:
    """One row, asked of one side in one round."""

    row: str
    side: str
    round: int
    throughput: Throughput
    latency: Latency
    kept: float | None = None
    """How much of the details kycache answered with a kept body; None of pages, and of peers."""
    fast: float | None = None
    """How many requests its fast lane answered, of all."""


@dataclass(frozen=True)
class Deep:
    """A page of the list in one round, without kept pages."""

    users: int
    page: int
    round: int
    p50_ms: float | None
    p99_ms: float | None


class Spread(NamedTuple):
    """The middle, and how far the rounds lie apart."""

    median: float
    low: float
    high: float

    def shown(self, form: str) -> str:
        """All three; one where there was one round."""
        median, low, high = (format(value, form) for value in self)
        return median if low == high else f"{median} ({low}–{high})"


@dataclass(frozen=True)
class Measured:
    """Everything of one run of the bench."""

    users: int
    body_bytes_mean: int
    rounds: int
    seconds: float
    lanes: Sequence[str]
    """Names of kycache's sides; the first is the one that is compared."""
    versions: Mapping[str, str]
    calibration_ms: Sequence[float]
    """Of the server's core, before each round."""
    figures: Sequence[Figure] = ()
    deep: Sequence[Deep] = ()
    rows: Sequence[Row] = field(default=ROWS)

    def as_json(self) -> dict[str, object]:
        """All figures, and medians beside them."""
        made = {name: value for name, value in asdict(self).items() if name not in ("rows", "figures")}
        figures = [
            {"row": f.row, "side": f.side, "round": f.round, "kept": f.kept, "fast": f.fast}
            | asdict(f.throughput)
            | asdict(f.latency)
            for f in self.figures
        ]
        ratios = {
            row.name: {PEERS[peer]: self.ratio(row.name, PEERS[peer])._asdict() for peer in row.peers}
            for row in self._measured()
        }
        return {**made, "times_kycache": ratios, "figures": figures}

    def ratio(self, row: str, side: str, *, of_row: str | None = None) -> Spread:
        """How many times kycache answers what this side does; of each round, then the median."""
        ours, theirs = self._rates(row, self.lanes[0]), self._rates(of_row or row, side)
        return spread(ours[number] / theirs[number] for number in ours.keys() & theirs.keys())

    def rate(self, row: str, side: str) -> str:
        """Requests per CPU second, as shown."""
        return spread(self._rates(row, side).values()).shown(",.0f")

    def latency(self, row: str, side: str) -> str:
        """P50 and P99, as shown: medians of the rounds."""
        found = [f.latency for f in self.figures if (f.row, f.side) == (row, side)]
        p50, p99 = [f.p50_ms for f in found], [f.p99_ms for f in found]
        if None in p50 or None in p99:
            return "too slow"
        return " / ".join(f"{statistics.median([v for v in many if v is not None]):.3g}" for many in (p50, p99))

    def _rates(self, row: str, side: str) -> dict[int, float]:
        return {f.round: f.throughput.per_cpu_s for f in self.figures if (f.row, f.side) == (row, side)}

    def _measured(self) -> list[Row]:
        found = {figure.row for figure in self.figures}
        return [row for row in self.rows if row.name in found]

    def section(self) -> str:
        """Markdown."""
        parts = ["\n".join(report.paragraph(point).replace("\n", "\n  ") for point in READING)]
        if not self.figures:
            return "\n\n".join([*parts, "Not measured yet: `python bench/reads.py` writes the figures here."])
        parts.append(report.paragraph(self._conditions()))
        for title, of_list in (("One profile", False), ("A page of the list", True)):
            rows = [row for row in self._measured() if row.of_list == of_list]
            if rows:
                parts += [f"### {title}", *self._tables(rows)]
        if {"min-lsn", "kept"} <= {row.name for row in self._measured()}:
            share = self.ratio("min-lsn", self.lanes[0], of_row="kept").shown(".2f")
            parts.append(f"With a `Kycache-Min-LSN` that is met, kycache answers {share} of its rate without one.")
        if self.deep:
            parts += ["### Page 10,000", *self._deep()]
        return "\n\n".join(parts)

    def _conditions(self) -> str:
        low, high = min(self.calibration_ms), max(self.calibration_ms)
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return f"""{self.users:,} users, {self.body_bytes_mean:,} bytes a profile on average; rounds:
            {self.rounds}, {self.seconds:g} s for each cell and tool; calibration of the server's core before
            each round {low} to {high} ms. Versions: {versions}."""

    def _tables(self, rows: Sequence[Row]) -> list[str]:
        peers = [PEERS[peer] for peer in rows[0].peers]
        sides = [*self.lanes, *peers]
        rates = [[row.label, *(self.rate(row.name, side) for side in sides), *self._ratios(row)] for row in rows]
        latencies = [[row.label, *(self.latency(row.name, side) for side in sides)] for row in rows]
        return [
            report.table(["requests per CPU second", *sides, *(f"times {peer}" for peer in peers)], rates),
            report.table([f"P50 / P99 at {RATE:,}/s, ms", *sides], latencies),
            self._shares(rows),
        ]

    def _shares(self, rows: Sequence[Row]) -> str:
        """What kycache itself counted: whether a row is what its label says."""

        def shown(row: Row, name: str) -> str:
            found = [getattr(f, name) for f in self.figures if (f.row, f.side) == (row.name, self.lanes[0])]
            return "" if None in found else spread(found).shown(".1%")

        lines = [[row.label, shown(row, "kept"), shown(row, "fast")] for row in rows]
        return report.table([f"{self.lanes[0]}, as it counted", "kept bodies", "by the fast lane"], lines)

    def _ratios(self, row: Row) -> Iterable[str]:
        return (self.ratio(row.name, PEERS[peer]).shown(".2f") for peer in row.peers)

    def _deep(self) -> list[str]:
        first, far = sorted({d.page for d in self.deep})
        p99 = {
            page: {d.round: d.p99_ms for d in self.deep if d.page == page and d.p99_ms is not None}
            for page in (first, far)
        }
        both = p99[first].keys() & p99[far].keys()
        rows = []
        for page in (first, far):
            p50s = [d.p50_ms for d in self.deep if d.page == page and d.p50_ms is not None]
            found = (p50s, p99[page].values())
            rows.append([f"{page:,}", *(spread(many).shown(".3g") if many else "too slow" for many in found)])
        times = spread(p99[far][n] / p99[first][n] for n in both).shown(".2f") if both else "an unknown number of"
        users = self.deep[0].users
        return [
            report.paragraph(
                f"""{users:,} users, no page kept, {DEEP_RATE} requests a second. The P99 of the far page is
                {times} times that of page {first}."""
            ),
            report.table(["page", "P50, ms", "P99, ms"], rows),
        ]


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    found = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1])


READING = (
    f"""- **Requests per CPU second**: what a side answers in one second of CPU time, user and system, of
    all its processes, Redis and PostgreSQL included. All servers share one core. wrk has the other one and
    sends as fast as answers come, over {CONNECTIONS} connections.""",
    f"""- **P50 / P99**: vegeta sends {RATE:,} requests a second, however long the answers take. "Too slow":
    the side did not keep up.""",
    """- **Ratios** compare two runs of one round, seconds apart: a slow hour of the machine changes both. A
    cell shows the median of the rounds and, in brackets, the lowest and the highest. Between two days
    compare ratios, not rates.""",
    """- **Requests**: a fifth of the users gets four fifths of them. Where bodies are not kept, all users
    are asked for in turn. The source commits a heartbeat twice a second. How many bodies were kept, and
    what the fast lane answered, kycache counts itself.""",
    """- **Peers** do less than kycache. They know no freshness, no ETag (they send the body where kycache
    answers 304) and no cursor (they get the page's number). Redis holds every profile. *Bare ASGI* sends
    1,150 constant bytes: the most that uvicorn allows. *Tuned*: far pages come from an index alone, and
    msgspec makes the JSON. Before the first round all sides with data answered the same requests with the
    same JSON.""",
)
"""How to read the section."""
