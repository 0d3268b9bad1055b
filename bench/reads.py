"""Measures the two reads over HTTP, beside what else could answer them: requests per CPU second, P50 and P99.

    python bench/reads.py [--rounds 5] [--seconds 3] [--only ROW...] [--million] [--quick] [--no-results]

Starts each side on a port of its own: `kycache web` (with its fast lane, and without), FastAPI with
Redis, FastAPI with asyncpg and PostgreSQL, a bare ASGI application. All servers share one core; wrk and vegeta
have another. Before the first round every side is asked the same, and must answer the same. Needs two cores, wrk,
redis-server, Go (which builds vegeta into the user's cache folder), and the extra `bench`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import report
from reading import load
from reading.deep import deep_pages
from reading.figures import Figure, Measured
from reading.rows import ROWS, Row, World
from reading.sides import LANES, LOAD_CORE, SERVER_CORE, Side, Sides, on_core
from reading.world import beating, compare, crowd, discover, fill_redis, warm
from shards import Shards

from kycache.demo.population.people import Person
from kycache.demo.servers.postgres import binary

USERS = 20_000
SHARDS = 4
ROUNDS, SECONDS = 5, 3
"""Of each side and row, once for wrk and once for vegeta: a whole run takes half an hour."""

PACKAGES = ("fastapi", "starlette", "uvicorn", "uvloop", "httptools", "redis", "hiredis", "asyncpg", "msgspec")


@dataclass(frozen=True)
class Cell:
    """A row to be asked of a side, and the files of its requests."""

    row: Row
    side: Side
    for_wrk: Path
    for_vegeta: Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of each cell, for wrk and for vegeta")
    names = [row.name for row in ROWS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="ROW", help=", ".join(names))
    parser.add_argument(
        "--million", action="store_true", help="also page 10,000 of a million users: some minutes more"
    )
    parser.add_argument("--quick", action="store_true", help="one round of one second: whether it works")
    parser.add_argument("--dir", type=Path, default=None, help="where the stores are made, and removed")
    parser.add_argument("--no-results", action="store_true", help="print only")
    chosen = parser.parse_args()
    rounds, seconds = (1, 1) if chosen.quick else (max(1, chosen.rounds), max(1, chosen.seconds))
    versions = found_versions()  # what is missing is missed before anything is made
    rows = [row for row in ROWS if row.name in chosen.only]
    folder = Path(tempfile.mkdtemp(prefix="kycache-reads-", dir=chosen.dir))
    try:
        measured = measure(folder, rows, rounds, seconds, versions)
        deep = list(deep_pages(folder / "deep", rounds, seconds)) if chosen.million else []
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    measured = replace(measured, deep=deep)
    section = measured.section()
    print(f"\n{section}")
    if not chosen.no_results:
        report.write("reads", "The two reads, beside their peers", section, measured.as_json())


def found_versions() -> dict[str, str]:
    """Of the peers, their servers and the tools.

    Raises:
        SystemExit: one of them is missing.
    """
    redis = shutil.which("redis-server")
    if redis is None:
        raise SystemExit("redis-server is missing: apt-get install redis-server")
    said = [
        subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.split()
        for program in (redis, str(binary("postgres")))
    ]
    servers = {"redis-server": said[0][2].removeprefix("v="), "PostgreSQL": said[1][-1]}
    return {**load.versions(), **servers, **{package: version(package) for package in PACKAGES}}


def measure(folder: Path, rows: Sequence[Row], rounds: int, seconds: int, versions: Mapping[str, str]) -> Measured:
    """All rows of all sides, in rounds."""
    everyone = crowd(USERS)
    shards = Shards(folder / "data", SHARDS, everyone)
    figures: list[Figure] = []
    calibration: list[float] = []
    try:
        with on_core(LOAD_CORE), Sides(folder, folder / "data") as sides, beating(shards):
            world = discover(sides.kycache(LANES[0], {}), everyone)
            for lane in LANES[1:]:
                warm(sides.kycache(lane, {}), world)
            cells = [cell for row in rows for cell in prepared(folder, row, sides, world, everyone, seconds)]
            for number in range(rounds):
                with on_core(SERVER_CORE):
                    calibration.append(report.calibration_ms())
                for cell in turned(cells, number):
                    figure = one(cell, number, seconds)
                    figures.append(figure)
                    print(line_of(figure), flush=True)
    finally:
        shards.close()
    return Measured(
        users=USERS,
        body_bytes_mean=round(sum(map(len, world.bodies.values())) / len(world.bodies)),
        rounds=rounds,
        seconds=seconds,
        lanes=[lane.name for lane in LANES],
        versions=versions,
        calibration_ms=calibration,
        figures=figures,
    )


def prepared(
    folder: Path, row: Row, sides: Sides, world: World, everyone: Sequence[Person], seconds: int
) -> Iterator[Cell]:
    """The sides of a row, started, asked the same once, and their requests written down."""
    ours = [sides.kycache(lane, row.settings) for lane in LANES]
    peers = {peer: started(peer, sides, world, everyone) for peer in row.peers}
    count = compare(row, world, ours, peers)
    print(f"{row.name}: {len(ours) + len(peers)} sides, {count} requests compared", flush=True)
    asked = [(side, row.ours(world)) for side in ours]
    asked += [(side, row.of_peers(world)) for side in peers.values()]
    for side, requests in asked:
        files = folder / f"{row.name}-{side.port}.wrk"
        cell = Cell(row, side, files, files.with_suffix(".vegeta"))
        load.write_for_wrk(cell.for_wrk, requests)
        load.write_for_vegeta(cell.for_vegeta, requests, side.url, seconds)
        yield cell


def started(peer: str, sides: Sides, world: World, everyone: Sequence[Person]) -> Side:
    """A peer, holding what kycache holds."""
    if peer == "redis":
        return sides.redis(lambda port: fill_redis(port, world))
    if peer == "hello":
        return sides.hello()
    return sides.postgres(everyone, tuned=peer == "tuned")


def turned(cells: Sequence[Cell], number: int) -> list[Cell]:
    """Row by row, in each round another side first: none is always measured after the same one."""
    made: list[Cell] = []
    for row in dict.fromkeys(cell.row.name for cell in cells):
        of_row = [cell for cell in cells if cell.row.name == row]
        first = number % len(of_row)
        made += of_row[first:] + of_row[:first]
    return made


def one(cell: Cell, number: int, seconds: int) -> Figure:
    """Latency first: it warms the side up at a rate that says nothing about throughput."""
    ours = cell.side.name in [lane.name for lane in LANES]
    before = cell.side.counted() if ours else {}
    spent = load.latency(cell.side, cell.for_vegeta, seconds)
    reached = load.throughput(cell.side, cell.for_wrk, seconds)
    after = cell.side.counted() if ours else {}
    counted = {key: after[key] - before.get(key, 0.0) for key in after}
    kept, fast = (
        share(counted, "kycache_http_bodies_total", "kept"),
        share(counted, "kycache_http_lanes_total", "fast"),
    )
    return Figure(cell.row.name, cell.side.name, number, reached, spent, kept, fast)


def share(counted: Mapping[tuple[str, str], float], counter: str, label: str) -> float | None:
    """How much of a counter has this label; None where it counted nothing."""
    total = sum(value for (name, _), value in counted.items() if name == counter)
    return round(counted.get((counter, label), 0.0) / total, 3) if total else None


def line_of(figure: Figure) -> str:
    spent = figure.latency
    return (
        f"{time.strftime('%H:%M:%S')} round {figure.round}, {figure.row}: {figure.side} "
        f"{figure.throughput.per_cpu_s:,.0f} a CPU second, {figure.throughput.per_s:,.0f} a second, "
        f"P50 {spent.p50_ms} P99 {spent.p99_ms} ms at {spent.answered_per_s:,.0f}/s"
    )


if __name__ == "__main__":
    main()
