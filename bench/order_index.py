"""Measures the order index: load, upkeep, size, and the CPU a page takes, near and far, filtered or not.

    python bench/order_index.py [--users 1000000] [--shards 4] [--regions 4 250] [--dir FOLDER] [--no-results]

CPU is the process's own (user + system). A page is measured with all that a request does for it: one read
transaction per shard, the total, the rows. Beside the upkeep stands its floor: the same rows rewritten in the same
transaction, with no index at all.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import report

from kycache.actors.order import reader as order_reader
from kycache.actors.order import recount as order_check
from kycache.actors.order.layout import Entry, Where
from kycache.actors.order.writer import OrderWriter

SEED = 20261124
PAGE_SIZE = 50
ROUNDS = 300
LOAD_BATCH = 10_000
BATCHES = (1_000, 5_000)
MAP_BYTES = 1 << 34
STATUSES = {b"VERIFIED": 0.62, b"PENDING": 0.2, b"NONE": 0.1, b"REJECTED": 0.05, b"EXPIRED": 0.03}
RARE = (b"EXPIRED", b"RARE")
RARE_SHARE = 0.001

Moves = list[tuple[Entry | None, Entry | None]]


@dataclass
class Shard:
    env: lmdb.Environment
    rows: lmdb._Database
    directory: lmdb._Database
    writer: OrderWriter
    users: list[Entry]

    @classmethod
    def open(cls, path: Path) -> Shard:
        env = lmdb.open(str(path), map_size=MAP_BYTES, max_dbs=2)
        rows, directory = env.open_db(b"rows"), env.open_db(b"directory")
        return cls(env, rows, directory, OrderWriter(2, rows, directory), [])

    def apply(self, moves: Moves) -> None:
        with self.env.begin(write=True) as txn:
            self.writer.apply(txn, moves)

    def bytes_used(self) -> int:
        with self.env.begin() as txn:
            stats = [txn.stat(db) for db in (self.rows, self.directory)]
        return sum(s["psize"] * (s["branch_pages"] + s["leaf_pages"] + s["overflow_pages"]) for s in stats)


class Source:
    """Believable users: skewed statuses and regions, one rare combination."""

    def __init__(self, regions: int) -> None:
        self.random = random.Random(SEED)
        self.regions = [b"region-%d" % i for i in range(regions)]
        self.weights = [1 / (i + 1) for i in range(regions)]
        self.clock = 1_600_000_000_000_000

    def filters(self, count: int) -> Iterator[tuple[bytes, bytes]]:
        statuses = self.random.choices(list(STATUSES), list(STATUSES.values()), k=count)
        regions = self.random.choices(self.regions, self.weights, k=count)
        for pair in zip(statuses, regions, strict=True):
            yield RARE if self.random.random() < RARE_SHARE else pair

    def users(self, count: int) -> list[Entry]:
        made = []
        for filters in self.filters(count):
            self.clock += self.random.randrange(1, 60_000_000)
            made.append(self.entry(filters))
        return made

    def entry(self, filters: tuple[bytes, bytes]) -> Entry:
        user = self.random.randbytes(16)
        return Entry(self.clock.to_bytes(8, "big") + user, filters, self.row(user, filters))

    def row(self, user: bytes, filters: tuple[bytes, bytes]) -> bytes:
        name = f"name-{self.random.randrange(10_000_000):07}"
        return b'{"userId":"%s","firstName":"%s","lastName":"x","kycStatus":"%s"}' % (
            user.hex().encode(),
            name.encode(),
            filters[0],
        )


class Clock:
    """CPU and wall seconds since it was made."""

    def __init__(self) -> None:
        self._cpu, self._wall = time.process_time(), time.perf_counter()

    def read(self) -> tuple[float, float]:
        return time.process_time() - self._cpu, time.perf_counter() - self._wall


def load(shards: list[Shard], source: Source, users: int) -> dict[str, float]:
    cpu = wall = 0.0
    share = users // len(shards)
    for start in range(0, share, LOAD_BATCH):
        size = min(LOAD_BATCH, share - start)
        made = source.users(size * len(shards))
        for number, shard in enumerate(shards):
            batch = made[number :: len(shards)]
            shard.users += batch
            clock = Clock()
            shard.apply([(None, entry) for entry in batch])
            spent = clock.read()
            cpu, wall = cpu + spent[0], wall + spent[1]
    return {
        "users_per_cpu_second": round(users / cpu),
        "users_per_second": round(users / wall),
        "bytes_per_user": round(sum(shard.bytes_used() for shard in shards) / users, 1),
    }


def mix(shard: Shard, source: Source, size: int, *, rewrite: float) -> Moves:
    """80 % touch no key (`rewrite` of them change the row), 15 % change the status, 5 % come or go."""
    rnd = source.random
    moves: Moves = []
    places = rnd.sample(range(len(shard.users)), size)
    for place, filters in zip(places, source.filters(size), strict=True):
        old, kind = shard.users[place], rnd.random()
        if kind < 0.8:
            row = source.row(old.key[8:], RARE) if rnd.random() < rewrite else old.row
            new: Entry | None = Entry(old.key, old.filters, row)
        elif kind < 0.95:
            values = (filters[0], old.filters[1])
            new = Entry(old.key, values, old.row)
        elif kind < 0.975:
            new = None
        else:
            source.clock += 1
            moves.append((None, source.entry(filters)))
            continue
        moves.append((old, new))
        shard.users[place] = new or old
    gone = {old.key for old, new in moves if old is not None and new is None}
    shard.users = [user for user in shard.users if user.key not in gone]
    shard.users += [new for old, new in moves if old is None and new is not None]
    return moves


def upkeep(shards: list[Shard], source: Source, batch: int, *, rewrite: float = 0.0) -> dict[str, float]:
    """What a change costs, the 80 % that touch no key included; and what only rewriting the others' rows costs."""
    cpu: list[float] = []
    floor: list[float] = []
    for number in range(40):
        shard = shards[number % len(shards)]
        moves = mix(shard, source, batch, rewrite=rewrite)
        clock = Clock()
        shard.apply(moves)
        spent = clock.read()[0] / batch
        keys = [new.key for old, new in moves if new is not None and new != old]
        rest = bare(shard, sorted(keys)) / batch
        if number >= len(shards):  # the first finds no mirror
            cpu.append(spent)
            floor.append(rest)
    return {
        "cpu_us": micro(statistics.median(cpu)),
        "cpu_us_p10": micro(statistics.quantiles(cpu, n=10)[0]),
        "floor_cpu_us": micro(statistics.median(floor)),
    }


def bare(shard: Shard, keys: list[bytes]) -> float:
    """CPU seconds of rewriting some rows as they are, commit included."""
    clock = Clock()
    with shard.env.begin(write=True) as txn, txn.cursor(shard.rows) as cursor:
        for key in keys:
            cursor.replace(key, cursor.get(key, b""))
    return clock.read()[0]


def micro(seconds: float) -> float:
    return round(seconds * 1e6, 2)


def pages(shards: list[Shard], source: Source) -> dict[str, dict[str, float]]:
    region = source.regions[0]
    questions: dict[str, Where] = {
        "no filter": (None, None),
        "status": (b"VERIFIED", None),
        "region": (None, region),
        "status+region": (b"VERIFIED", region),
        "rare": RARE,
    }
    gc.collect()
    gc.freeze()  # a reader has no million users in its heap for the collector to walk
    cases = []
    for name, where in questions.items():
        last = (ask(shards, where, 0)[0] + PAGE_SIZE - 1) // PAGE_SIZE
        for label, number in {"1": 1, "100": 100, "10,000": 10_000, "last": last}.items():
            if number <= last:
                cases.append((name, label, where, number))
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):  # every page in turn, so that a busy moment of the machine falls on all
        for name, label, where, number in cases:
            start = time.process_time()
            ask(shards, where, number - 1)
            spent.setdefault((name, label), []).append(time.process_time() - start)
    figures: dict[str, dict[str, float]] = {}
    for (name, label), seconds in spent.items():
        tenth, *_ = statistics.quantiles(seconds, n=10)
        figures.setdefault(name, {})[label] = round(statistics.median(seconds) * 1e6)
        figures[name][f"{label}_p10"] = round(tenth * 1e6)
    gc.unfreeze()
    return figures


def ask(shards: list[Shard], where: Where, skipped: int) -> tuple[int, list[tuple[bytes, bytes]]]:
    transactions = [shard.env.begin() for shard in shards]
    seen = [
        order_reader.OrderSnapshot(2, txn, shard.rows, shard.directory)
        for txn, shard in zip(transactions, shards, strict=True)
    ]
    rows = order_reader.page(seen, where, newest=True, skip=skipped * PAGE_SIZE, size=PAGE_SIZE)
    answer = order_reader.total(seen, where), rows
    for txn in transactions:
        txn.abort()
    return answer


def keysets(shards: list[Shard], source: Source) -> dict[str, float]:
    """A page behind a cursor at random places."""
    spent: dict[str, list[float]] = {"no filter": [], "status+region": []}
    for _ in range(ROUNDS):
        after = source.random.choice(source.random.choice(shards).users).key
        for name, where in {"no filter": (None, None), "status+region": (b"VERIFIED", source.regions[0])}.items():
            start = time.process_time()
            transactions = [shard.env.begin() for shard in shards]
            seen = [
                order_reader.OrderSnapshot(2, txn, shard.rows, shard.directory)
                for txn, shard in zip(transactions, shards, strict=True)
            ]
            order_reader.walk(seen, where, newest=True, after=after, size=PAGE_SIZE)
            for txn in transactions:
                txn.abort()
            spent[name].append(time.process_time() - start)
    return {name: round(statistics.median(seconds) * 1e6) for name, seconds in spent.items()}


def recount(shards: list[Shard]) -> float:
    clock = Clock()
    for shard in shards:
        with shard.env.begin() as txn:
            order_check.check(order_reader.OrderSnapshot(2, txn, shard.rows, shard.directory))
    return round(clock.read()[0], 2)


def measure(folder: Path, users: int, shard_count: int, regions: int) -> dict[str, Any]:
    source = Source(regions)
    shards = [Shard.open(folder / f"{number:04}") for number in range(shard_count)]
    figures: dict[str, Any] = {"users": users, "shards": shard_count, "regions": regions}
    steps: dict[str, Callable[[], object]] = {
        "load": lambda: load(shards, source, users),
        "page_cpu_us": lambda: pages(shards, source),
        "cursor_cpu_us": lambda: keysets(shards, source),
        **{f"upkeep_per_change_batch_{batch}": partial(upkeep, shards, source, batch) for batch in BATCHES},
        "upkeep_per_change_batch_5000_a_quarter_rewrites_its_row": lambda: upkeep(
            shards, source, 5_000, rewrite=0.25
        ),
        "page_cpu_us_after_changes": lambda: pages(shards, source),
        "recount_cpu_s": lambda: recount(shards),
    }
    for name, step in steps.items():
        figures[name] = step()
        print(f"{name}: {json.dumps(figures[name])}", flush=True)
    for shard in shards:
        shard.env.close()
    return figures


def text(runs: list[dict[str, Any]]) -> str:
    """The section of docs/benchmarks.md."""
    parts = [
        report.paragraph(
            """The index by itself, without HTTP and without decoding changes. CPU of the process in
            microseconds: the median, and behind it the quietest tenth, since this machine is shared. *Upkeep* is
            per change of a mix in which 80 % touch no key, 15 % change the status and 5 % come or go, commit
            included; its *floor* is only rewriting those rows, without an index."""
        )
    ]
    for run in runs:
        combinations = len(STATUSES) * run["regions"]
        parts.append(
            f"### {run['users']:,} users, {run['shards']} shards, {combinations:,} combinations of values"
        )
        pages = run["page_cpu_us"]
        labels = [label for label in pages["no filter"] if not label.endswith("_p10")]
        rows = [
            [name, *[f"{found[label]} / {found[f'{label}_p10']}" if label in found else "" for label in labels]]
            for name, found in pages.items()
        ]
        parts.append(report.table(["page", *labels], rows))
        rows = [
            [f"{batch:,}", f"{found['cpu_us']} / {found['cpu_us_p10']}", found["floor_cpu_us"]]
            for batch in BATCHES
            for found in [run[f"upkeep_per_change_batch_{batch}"]]
        ]
        parts.append(report.table(["upkeep, changes a batch", "CPU µs a change", "floor"], rows))
        load = run["load"]
        parts.append(
            f"Load in order: {load['users_per_cpu_second']:,} users per second of CPU, {load['bytes_per_user']} "
            f"bytes each, their list row included. A recount of everything: {run['recount_cpu_s']} s of CPU."
        )
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--regions", type=int, nargs="*", default=[4, 250])
    parser.add_argument("--dir", type=Path, default=None, help="where the stores are made, and removed")
    parser.add_argument("--no-results", action="store_true", help="print only")
    arguments = parser.parse_args()
    runs = []
    for regions in arguments.regions:
        folder = Path(tempfile.mkdtemp(prefix="order-index-", dir=arguments.dir))
        try:
            print(f"{arguments.users} users, {arguments.shards} shards, {regions} regions", flush=True)
            runs.append(measure(folder, arguments.users, arguments.shards, regions))
        finally:
            shutil.rmtree(folder)
    if not arguments.no_results:
        report.write("order_index", "The order index", text(runs), {"seed": SEED, "runs": runs})


if __name__ == "__main__":
    main()
