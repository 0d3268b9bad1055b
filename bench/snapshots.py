"""Measures snapshots: create and read back, beside `cp` and `zstd -1 | sha256sum`; what a create does to others.

    python bench/snapshots.py [--users 100000] [--rounds 5] [--dir FOLDER] [--no-results]

One shard of the demo's people. Rounds alternate, so that a busy neighbour meets all of them. MB is 10^6 bytes of
the LMDB file; CPU is user and system of every process that took part.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import report

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.generations.create import create_store
from kycache.actors.integrity.vouching import Checker
from kycache.actors.reader import ShardReader
from kycache.actors.rules.state import Identity, Position
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import FORMAT, Store
from kycache.demo.population.people import ACCOUNT_COLUMNS, KYC_COLUMNS, USER_COLUMNS, people
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from kycache.model.render import Renderer
from kycache.model.values import uuid_bytes
from kycache.snapshots.storage import stores
from kycache.snapshots.storage.fetch import fetch
from kycache.snapshots.storage.keys import keys_of
from kycache.snapshots.storage.settings import SnapshotSettings
from kycache.snapshots.take import Taker

VIEW = default_view()
MAP_BYTES = 1 << 36
BATCH = 20_000
READS = 4_000
READ_PACE_S = 0.0005
"""Between two reads: a server under load, not one that is saturated."""
CHANGES = 20_000
COLUMNS = {
    table: [name.strip() for name in names.split(",")]
    for table, names in (("users", USER_COLUMNS), ("kyc_records", KYC_COLUMNS), ("accounts", ACCOUNT_COLUMNS))
}
SOURCE = {"ts_ms": 1_795_000_000_000, "snapshot": "true", "sequence": '[null,"1000"]', "lsn": 1000, "txId": 5}


def items(count: int, lsn: int | None = None) -> Iterator[Item]:
    """The demo's people as Debezium sends them: a snapshot's rows, or updates at an LSN."""
    decoder, offset = RecordDecoder(VIEW), 0
    source = (
        SOURCE if lsn is None else {**SOURCE, "snapshot": "false", "sequence": f'["{lsn}","{lsn}"]', "lsn": lsn}
    )
    for person in people(count):
        tables = (("users", (person.user,)), ("kyc_records", person.kyc), ("accounts", person.accounts))
        for table, rows in tables:
            for row in rows:
                image = {"after": dict(zip(COLUMNS[table], map(_sent, row), strict=True)), "before": None}
                value = {
                    **image,
                    "source": {**source, "table": table},
                    "op": "r" if lsn is None else "u",
                    "ts_ms": 1,
                }
                yield decoder.decode(Record(offset, 0, person.user[0].encode(), json.dumps(value).encode()))
                offset += 1


def _sent(value: object) -> object:
    if isinstance(value, datetime):
        return round((value - datetime(1970, 1, 1)).total_seconds() * 1_000_000)
    return (value - date(1970, 1, 1)).days if isinstance(value, date) else value


class Shard:
    """One shard in a data directory of its own."""

    def __init__(self, root: Path, users: int) -> None:
        self.root = root
        self.directory = DataDirectory(root / "data")
        self.directory.found(VIEW.hash, "kyc.changes", "id", 1)
        self.environments = Environments(readonly=False, map_size=MAP_BYTES)
        self.folder = self.directory.shard(0)
        self.folder.prepare()
        self.generation = self.folder.next_generation()
        identity = Identity(FORMAT, 0, 1, VIEW.hash)
        create_store(self.environments, self.generation, identity, self._position(0), from_start=True)
        self.folder.flip(self.generation)
        self.store = Store(self.environments, self.generation, VIEW, identity, lambda _: None)
        self.reader = ShardReader(self.environments, self.folder, VIEW, 1)
        self.offset = 0
        loading = items(users)
        while batch := list(islice(loading, BATCH)):
            self.apply(batch)
        self.keys = [uuid_bytes(person.user[0]) for person in people(users)]
        toml = f'[data]\ndir = "data"\n[snapshots]\nstore = "{(root / "others").as_uri()}"\n'
        (root / "kycache.toml").write_text(toml)

    def _position(self, offset: int) -> Position:
        return Position("kyc.changes", "id", 0, offset)

    def apply(self, batch: list[Item]) -> None:
        self.offset += len(batch)
        assert self.store.apply(batch, self._position(self.offset), self.offset, Fence()) is not None


@dataclass
class Cost:
    """One measured piece of work."""

    seconds: float
    cpu_s: float


def measured(work: Callable[[], object]) -> Cost:
    def cpu() -> float:
        own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

    spent, began = cpu(), time.perf_counter()
    work()
    return Cost(time.perf_counter() - began, cpu() - spent)


def rates(shard: Shard, rounds: int) -> tuple[dict[str, Any], int]:
    """MB/s of each way to move the same file, and its size."""
    settings = SnapshotSettings((shard.root / "store").as_uri())
    store = stores.Store(settings.store)
    keys = keys_of(settings, store, writing=True)
    taker = Taker(shard.directory, shard.environments, store, keys, settings, Checker(VIEW).ensure)
    manifest = taker.take()
    entry = manifest.shards[0]
    file = shard.root / "fetched" / "data.mdb"
    file.parent.mkdir()

    def read_back() -> None:
        file.unlink(missing_ok=True)
        fetch(store, keys, manifest, entry, file.parent)

    read_back()
    works: dict[str, Callable[[], object]] = {
        "cp": lambda: subprocess.run(["cp", str(file), str(shard.root / "copied")], check=True),
        "create": taker.take,
        "read back": read_back,
    }
    if shutil.which("zstd"):
        shell = f"zstd -q -1 -c '{file}' | sha256sum"
        works["zstd -1, sha256sum"] = lambda: subprocess.run(
            shell, shell=True, check=True, stdout=subprocess.DEVNULL
        )
    costs: dict[str, list[Cost]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            costs[name].append(measured(work))
    size = entry.raw_bytes / 1e6
    figures = {
        name: {
            "mb_per_s": round(size / statistics.median(cost.seconds for cost in found), 1),
            "cpu_ms_per_mb": round(statistics.median(cost.cpu_s for cost in found) * 1e3 / size, 2),
        }
        for name, found in costs.items()
    }
    return figures, entry.raw_bytes


def reads(shard: Shard, seed: int) -> list[float]:
    """Milliseconds of single reads of a profile, rendered."""
    rng, renderer, spent = Random(seed), Renderer(VIEW), []
    for _ in range(READS):
        key = rng.choice(shard.keys)
        began = time.perf_counter()
        with shard.reader.snapshot() as snapshot:
            profile = snapshot.profile(key)
            assert profile is not None
            renderer.body(profile)
        spent.append((time.perf_counter() - began) * 1e3)
        time.sleep(READ_PACE_S)
    return spent


def changes(shard: Shard, lsn: int) -> float:
    """Changes applied per second, in batches as ingest makes them."""
    ready = list(islice(items(CHANGES, lsn), CHANGES))
    began = time.perf_counter()
    for first in range(0, len(ready), 500):
        shard.apply(ready[first : first + 500])
    return len(ready) / (time.perf_counter() - began)


class Creating:
    """Snapshots one after the other, each a process at the priority that ingest gives it."""

    def __init__(self, root: Path) -> None:
        command = f"while :; do '{sys.executable}' -m kycache.cli.main snapshot create --json; done"
        self._process = subprocess.Popen(
            ["nice", "-n", "10", "sh", "-c", command], cwd=root, stdout=subprocess.DEVNULL, start_new_session=True
        )
        self._store = root / "others"

    def __enter__(self) -> Creating:
        while not list(self._store.glob("*/manifest.json")):
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._store)


def disturbance(shard: Shard, rounds: int) -> dict[str, float]:
    """P50 and P99 of reads, and the rate of changes, without and with a create running beside them."""
    alone: list[float] = []
    beside: list[float] = []
    rate_alone: list[float] = []
    rate_beside: list[float] = []
    for number in range(rounds):
        alone += reads(shard, number)
        rate_alone.append(changes(shard, 10_000 + 20 * number))
        with Creating(shard.root):
            beside += reads(shard, number)
            rate_beside.append(changes(shard, 10_010 + 20 * number))
    return {
        "read_p50_ms_alone": round(statistics.median(alone), 3),
        "read_p50_ms_beside": round(statistics.median(beside), 3),
        "read_p99_ms_alone": round(statistics.quantiles(alone, n=100)[98], 3),
        "read_p99_ms_beside": round(statistics.quantiles(beside, n=100)[98], 3),
        "changes_per_s_alone": round(statistics.median(rate_alone)),
        "changes_per_s_beside": round(statistics.median(rate_beside)),
    }


def text(figures: dict[str, Any], size: int, users: int, beside: dict[str, float]) -> str:
    rows = [(name, f["mb_per_s"], f["cpu_ms_per_mb"]) for name, f in figures.items()]
    parts = [
        f"One shard of {users:,} users, {size / 1e6:.0f} MB compacted. *create* copies it from a pinned "
        "transaction, takes out what was deleted, hashes, compresses (zstd level 1), hashes again, and writes and "
        "fsyncs; *read back* undoes and checks all of it. The file and the store are on one disk.",
        report.table(["", "MB/s", "CPU ms per MB"], rows),
        "What a create that runs all the time, in a process at low priority, does to the others:",
        report.table(
            ["", "alone", "beside a create"],
            [
                ("read of a profile, P50, ms", beside["read_p50_ms_alone"], beside["read_p50_ms_beside"]),
                ("read of a profile, P99, ms", beside["read_p99_ms_alone"], beside["read_p99_ms_beside"]),
                ("changes applied per second", beside["changes_per_s_alone"], beside["changes_per_s_beside"]),
            ],
        ),
    ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", type=Path, default=None, help="where to work; default: a temporary folder")
    parser.add_argument("--no-results", action="store_true", help="only print")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as folder:
        shard = Shard(Path(folder), arguments.users)
        figures, size = rates(shard, arguments.rounds)
        beside = disturbance(shard, min(3, arguments.rounds))
    said = text(figures, size, arguments.users, beside)
    print(said)
    if not arguments.no_results:
        report.write("snapshots", "Snapshots", said, {"rates": figures, "raw_bytes": size, "beside": beside})


if __name__ == "__main__":
    main()
