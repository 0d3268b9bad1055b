"""A page of the list, near and far, filtered or not, beside PostgreSQL's OFFSET and keyset on the same rows.

    python bench/pages.py [--users 100000 1000000] [--shards 4] [--dir FOLDER] [--no-results]

Both answer what `GET /users` asks: 50 rows and the total. kycache: one read transaction per shard, page, total,
rows joined to JSON. PostgreSQL: the query over a local connection, its rows fetched, and apart from it the
`count(*)` that a total needs. PostgreSQL has an index for every filter and order asked, the user's status in the
row (a real schema must join or copy it), and a warm cache. Every page is compared: both must have the same users.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import chart
import order_index
import psycopg
import report

from kycache.actors.order import reader as order_reader
from kycache.actors.order.layout import Entry, Where
from kycache.demo.servers import postgres
from kycache.demo.servers.children import stopping
from kycache.demo.servers.ports import free_ports

SIZE = 50
PAGES = (1, 10, 100, 1_000, 10_000)
"""And the last one."""

ROUNDS_MIN = 5
ROUNDS_MAX = 300
BUDGET_S = 0.8
"""Rounds of one figure: as many as fit, so that the slow ones do not take the day."""

SCHEMA = """
CREATE TABLE users (user_id uuid PRIMARY KEY, created_at timestamp NOT NULL, kyc_status text NOT NULL,
                    region text NOT NULL, first_name text NOT NULL, last_name text NOT NULL)
"""
INDEXES = (
    "CREATE INDEX ON users (created_at, user_id)",
    "CREATE INDEX ON users (kyc_status, created_at, user_id)",
    "CREATE INDEX ON users (region, created_at, user_id)",
    "CREATE INDEX ON users (kyc_status, region, created_at, user_id)",
)
COLUMNS = ("kyc_status", "region")
METHODS = ("kycache page", "kycache cursor", "OFFSET", "keyset", "count(*)")

Ids = list[bytes]


@dataclass(frozen=True)
class Figure:
    """How long one question took. Of fewer than a hundred rounds the P99 is the slowest."""

    users: int
    where: str
    order: str
    page: int
    method: str
    median_ms: float
    p99_ms: float
    cpu_us: int | None
    cpu_p10_us: int | None
    cpu_p99_us: int | None
    rounds: int


class Ours:
    """The order index over some shards."""

    def __init__(self, shards: list[order_index.Shard]) -> None:
        self.shards = shards

    @contextmanager
    def snapshots(self) -> Iterator[list[order_reader.OrderSnapshot]]:
        transactions = [shard.env.begin() for shard in self.shards]
        yield [
            order_reader.OrderSnapshot(2, txn, shard.rows, shard.directory)
            for txn, shard in zip(transactions, self.shards, strict=True)
        ]
        for txn in transactions:
            txn.abort()

    def total(self, where: Where) -> int:
        with self.snapshots() as seen:
            return order_reader.total(seen, where)

    def page(self, where: Where, *, newest: bool, number: int) -> Ids:
        with self.snapshots() as seen:
            rows = order_reader.page(seen, where, newest=newest, skip=(number - 1) * SIZE, size=SIZE)
            order_reader.total(seen, where)
        b",".join([row for _, row in rows])
        return [key for key, _ in rows]

    def walk(self, where: Where, *, newest: bool, after: bytes | None) -> Ids:
        with self.snapshots() as seen:
            rows = order_reader.walk(seen, where, newest=newest, after=after, size=SIZE)
            order_reader.total(seen, where)
        b",".join([row for _, row in rows])
        return [key for key, _ in rows]


class Theirs:
    """The same users in PostgreSQL."""

    def __init__(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        self.connection = connection

    def run(self, where: Where, *, newest: bool, after: bytes | None = None, skip: int = 0) -> Ids:
        tests, values = _tests(where)
        if after is not None:
            tests.append(f"(created_at, user_id) {'<' if newest else '>'} (%s::timestamp, %s::uuid)")
            values += [_instant(after), uuid.UUID(bytes=after[8:])]
        way = "DESC" if newest else "ASC"
        rows = self.connection.execute(
            "SELECT user_id, first_name, last_name, kyc_status FROM users "
            f"{'WHERE ' if tests else ''}{' AND '.join(tests)} ORDER BY created_at {way}, user_id {way} "
            f"LIMIT {SIZE}{f' OFFSET {skip}' if skip else ''}".encode(),
            values,
            prepare=False,  # a plan made for this offset, not for any
        ).fetchall()
        return [row[0].bytes for row in rows if isinstance(row[0], uuid.UUID)]

    def count(self, where: Where) -> int:
        tests, values = _tests(where)
        row = self.connection.execute(
            f"SELECT count(*) FROM users {'WHERE ' if tests else ''}{' AND '.join(tests)}".encode(),
            values,
            prepare=False,
        ).fetchone()
        assert row is not None
        assert isinstance(row[0], int)
        return row[0]


def _tests(where: Where) -> tuple[list[str], list[object]]:
    asked = [(name, value) for name, value in zip(COLUMNS, where, strict=True) if value is not None]
    return [f"{name} = %s" for name, _ in asked], [value.decode() for _, value in asked]


def _instant(key: bytes) -> str:
    micros = int.from_bytes(key[:8], "big")
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(micros // 1_000_000))}.{micros % 1_000_000:06}"


def load(ours: Ours, theirs: Theirs, source: order_index.Source, users: int) -> None:
    """The same users on both sides, in the order in which they came."""
    theirs.connection.execute(SCHEMA)
    with theirs.connection.cursor() as cursor, cursor.copy("COPY users FROM STDIN") as copy:
        for start in range(0, users, order_index.LOAD_BATCH):
            made = source.users(min(order_index.LOAD_BATCH, users - start))
            for number, shard in enumerate(ours.shards):
                shard.apply([(None, entry) for entry in made[number :: len(ours.shards)]])
            copy.write("".join(map(_line, made)))
    for statement in INDEXES:
        theirs.connection.execute(statement)
    theirs.connection.execute("VACUUM ANALYZE users")


def _line(entry: Entry) -> str:
    status, region = (value.decode() for value in entry.filters if value is not None)
    return f"{entry.key[8:].hex()}\t{_instant(entry.key)}\t{status}\t{region}\t{entry.row[65:77].decode()}\tx\n"


def timed(run: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Seconds on the wall, and of CPU of this process, for each round; sorted."""
    run()
    wall: list[float] = []
    cpu: list[float] = []
    deadline = time.perf_counter() + BUDGET_S
    while len(wall) < ROUNDS_MIN or (len(wall) < ROUNDS_MAX and time.perf_counter() < deadline):
        began, spent = time.perf_counter(), time.process_time()
        run()
        cpu.append(time.process_time() - spent)
        wall.append(time.perf_counter() - began)
    return sorted(wall), sorted(cpu)


def p99(spent: list[float]) -> float:
    return spent[min(len(spent) - 1, int(len(spent) * 0.99))]


def questions(source: order_index.Source) -> dict[str, Where]:
    return {
        "no filter": (None, None),
        "kycStatus=VERIFIED (62 %)": (b"VERIFIED", None),
        "kycStatus and region (30 %)": (b"VERIFIED", source.regions[0]),
        "both, rare (0.1 %)": order_index.RARE,
    }


def measure(ours: Ours, theirs: Theirs, source: order_index.Source, users: int) -> Iterator[Figure]:
    gc.collect()
    gc.freeze()
    for name, where in questions(source).items():
        total = ours.total(where)
        assert total == theirs.count(where)
        last = (total + SIZE - 1) // SIZE
        for newest in (True, False):
            for page in [*[page for page in PAGES if page < last], last]:
                runs = asks(ours, theirs, where, newest=newest, page=page)
                for method, run in runs.items():
                    wall, cpu = timed(run)
                    ours_alone = method.startswith("kycache")
                    yield Figure(
                        users,
                        name,
                        "newest" if newest else "oldest",
                        page,
                        method,
                        round(statistics.median(wall) * 1e3, 3),
                        round(p99(wall) * 1e3, 3),
                        round(statistics.median(cpu) * 1e6) if ours_alone else None,
                        round(cpu[len(cpu) // 10] * 1e6) if ours_alone else None,
                        round(p99(cpu) * 1e6) if ours_alone else None,
                        len(wall),
                    )


def asks(ours: Ours, theirs: Theirs, where: Where, *, newest: bool, page: int) -> dict[str, Callable[[], object]]:
    """One page, asked in every way; all must answer the same."""
    skip = (page - 1) * SIZE
    after = ours.page(where, newest=newest, number=page - 1)[-1] if page > 1 else None
    runs: dict[str, Callable[[], object]] = {
        "kycache page": lambda: ours.page(where, newest=newest, number=page),
        "kycache cursor": lambda: ours.walk(where, newest=newest, after=after),
        "OFFSET": lambda: theirs.run(where, newest=newest, skip=skip),
        "keyset": lambda: theirs.run(where, newest=newest, after=after),
    }
    expected = [key[8:] for key in ours.page(where, newest=newest, number=page)]
    assert expected
    for name in ("OFFSET", "keyset"):
        assert runs[name]() == expected, f"{name}: another page {page} of {where}"
    assert [key[8:] for key in ours.walk(where, newest=newest, after=after)] == expected
    if page == 1 and newest:
        runs["count(*)"] = lambda: theirs.count(where)
    return runs


@contextmanager
def database(folder: Path) -> Iterator[Theirs]:
    """A PostgreSQL of our own, configured as the demo's, but with room for all of the table in memory."""
    [port] = free_ports(1)
    settings = postgres.Postgres(folder / "postgres", port, postgres.new_password())
    server = postgres.prepare(settings, folder / "postgres.log", durable=False)
    with (settings.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.write("shared_buffers = '512MB'\nwork_mem = '64MB'\nmaintenance_work_mem = '256MB'\njit = off\n")
    with stopping(server):
        server.start()
        postgres.wait_ready(settings, server)
        with psycopg.connect(settings.dsn, autocommit=True) as connection:
            yield Theirs(connection)


def versions(theirs: Theirs) -> str:
    row = theirs.connection.execute("SHOW server_version").fetchone()
    assert row is not None
    return str(row[0])


def text(figures: list[Figure], shards: int, server: str) -> str:
    parts = [
        report.paragraph(
            f"""A page of {SIZE} rows and the total, {shards} shards, beside PostgreSQL {server} with an index for
            every filter and order asked, everything in memory. Milliseconds on the wall, median / P99; CPU of the
            reading process in microseconds, median / the quietest tenth. PostgreSQL's figures are without the
            total: `count(*)` comes on top of every page that shows one. Every page was compared: both had the same
            users. Order `newest`; `oldest` is in [the figures](../bench/results/pages.json)."""
        )
    ]
    for users in sorted({figure.users for figure in figures}):
        parts.append(f"### {users:,} users")
        found = {(f.where, f.page, f.method): f for f in figures if f.users == users and f.order == "newest"}
        rows = []
        for where, page in dict.fromkeys((where, page) for where, page, _ in found):
            cells = [found.get((where, page, method)) for method in METHODS]
            spent = f"{cells[0].cpu_us} / {cells[0].cpu_p10_us}" if cells[0] else ""
            rows.append([where, f"{page:,}", spent, *["" if c is None else _cell(c) for c in cells]])
        parts.append(report.table(["filter", "page", "CPU µs", *METHODS], rows))
    return "\n\n".join(parts)


def _cell(figure: Figure) -> str:
    return f"{figure.median_ms:.3g} / {figure.p99_ms:.3g}"


def plot(figures: list[Figure], users: int) -> str:
    series = {
        method: [
            (f.page, f.median_ms)
            for f in figures
            if (f.users, f.where, f.order, f.method) == (users, "no filter", "newest", method)
        ]
        for method in METHODS[:4]
    }
    title = f"A page of {SIZE} of {users:,} users, by its number"
    return chart.lines(title, series, x="page", y="median, ms", log_x=True, log_y=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--dir", type=Path, default=None, help="where the stores are made, and removed")
    parser.add_argument("--no-results", action="store_true", help="print only")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    server = ""
    for users in arguments.users:
        folder = Path(tempfile.mkdtemp(prefix="pages-", dir=arguments.dir))
        try:
            with database(folder) as theirs:
                server = versions(theirs)
                source = order_index.Source(4)
                shards = [order_index.Shard.open(folder / f"{number:04}") for number in range(arguments.shards)]
                load(Ours(shards), theirs, source, users)
                for figure in measure(Ours(shards), theirs, source, users):
                    figures.append(figure)
                    print(
                        f"{figure.users} {figure.where}, {figure.order}, page {figure.page}: {figure.method} "
                        f"{_cell(figure)} ms, CPU {figure.cpu_us} µs, {figure.rounds} rounds",
                        flush=True,
                    )
                for shard in shards:
                    shard.env.close()
        finally:
            shutil.rmtree(folder)
    if not arguments.no_results:
        written = {"postgresql": server, "shards": arguments.shards, "figures": [asdict(f) for f in figures]}
        report.write(
            "pages",
            "Pages at any depth",
            text(figures, arguments.shards, server),
            written,
            plot(figures, max(arguments.users)),
        )


if __name__ == "__main__":
    random.seed(order_index.SEED)
    main()
