"""Measures how long a node with empty shards takes to serve: from a snapshot and the log, and from the log alone.

    python bench/bootstrap.py [--users 50000] [--changes 300000] [--tail 10000] [--rounds 3] [--dir FOLDER]

The log is of a real Apache Kafka: a whole snapshot of Debezium's and the changes since, all but the last of which
are in kycache's snapshot too. Rounds alternate, each with an empty data directory; both ways end when every shard
stands at the end of the log. CPU is the process's and that of those it waited for.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import report
from topic import LOOK_S, PARTITIONS, TOPIC, broker, end_offsets, positions, produce
from traffic import Traffic

WAIT_S = 900.0
COMMAND = (sys.executable, "-m", "kycache.cli.main")


class Spent(NamedTuple):
    """Seconds of one start."""

    wall: float
    cpu: float


class Node:
    """A configuration and an empty data directory; members of one group must share a directory, so a group too."""

    def __init__(self, folder: Path, bootstrap: str, name: str, *, from_snapshot: bool) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.bootstrap = bootstrap
        text = (
            f'[data]\ndir = "data"\n[kafka]\nbootstrap = "{bootstrap}"\ntopic = "{TOPIC}"\ngroup = "{name}"\n'
            f'[snapshots]\nstore = "{(folder / "store").as_uri()}"\nbootstrap = {str(from_snapshot).lower()}\n'
        )
        (self.folder / "kycache.toml").write_text(text)

    def start(self) -> Spent:
        """Ingest until its shards have read everything; ended by SIGTERM."""
        ends = end_offsets(self.bootstrap)
        begin = time.monotonic()
        with (self.folder / "ingest.log").open("wb") as log:
            process = subprocess.Popen([*COMMAND, "ingest"], cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)
        while positions(self.folder / "data") != ends:
            if process.poll() is not None or time.monotonic() - begin > WAIT_S:
                raise SystemExit(f"did not read to the end: {(self.folder / 'ingest.log').read_text()[-2000:]}")
            time.sleep(LOOK_S)
        wall = time.monotonic() - begin
        process.send_signal(signal.SIGTERM)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return Spent(wall, used.ru_utime + used.ru_stime)

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def measure(folder: Path, bootstrap: str, users: int, changes: int, tail: int, rounds: int) -> dict[str, object]:
    """Seconds of both ways to begin, in turn, on the same log and snapshot."""
    traffic = Traffic(users, PARTITIONS)
    count, _ = produce(bootstrap, traffic.snapshot())
    count += produce(bootstrap, traffic.beat())[0]
    count += produce(bootstrap, traffic.changes(changes))[0] + produce(bootstrap, traffic.beat())[0]
    first = Node(folder, bootstrap, "first", from_snapshot=False)
    first.start()
    subprocess.run([*COMMAND, "snapshot", "create"], cwd=first.folder, check=True, capture_output=True)
    stored = sum(file.stat().st_size for file in (folder / "store").rglob("*.zst"))
    first.remove()
    behind = produce(bootstrap, traffic.changes(tail))[0] + produce(bootstrap, traffic.beat())[0]
    found: dict[bool, list[Spent]] = {True: [], False: []}
    for number in range(rounds):
        for from_snapshot, spent in found.items():
            node = Node(folder, bootstrap, f"{number}-{from_snapshot}".lower(), from_snapshot=from_snapshot)
            spent.append(node.start())
            said = (node.folder / "ingest.log").read_text().count("came back from a snapshot")
            assert said == PARTITIONS * from_snapshot, said
            node.remove()
    names = {True: "snapshot", False: "log_alone"}
    ways = {
        names[way]: {
            "seconds": round(statistics.median(s.wall for s in spent), 1),
            "cpu_seconds": round(statistics.median(s.cpu for s in spent), 1),
        }
        for way, spent in found.items()
    }
    return {
        "users": users,
        "partitions": PARTITIONS,
        "records": count + behind,
        "records_behind": behind,
        "stored_bytes": stored,
        "rounds": rounds,
        **ways,
    }


def explain(measured: dict[str, object]) -> str:
    ways = [("a snapshot, then the log", measured["snapshot"]), ("the log alone", measured["log_alone"])]
    rows = [(name, way["seconds"], way["cpu_seconds"]) for name, way in ways if isinstance(way, dict)]
    stored = measured["stored_bytes"]
    assert isinstance(stored, int)
    prose = f"""A node with {measured["partitions"]} empty shards, from its start until each of them stands at the
    end of a log of {measured["records"]:,} records ({measured["users"]:,} users, Apache Kafka). The snapshot has
    {stored / 1e6:.0f} MB in a folder on the same disk, and all but the last {measured["records_behind"]:,}
    records; what is fetched is hashed, decompressed, and every page of it walked, before it serves."""
    return "\n\n".join([report.paragraph(prose), report.table(("begins with", "seconds", "CPU seconds"), rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--changes", type=int, default=300_000)
    parser.add_argument("--tail", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--no-results", action="store_true", help="only print")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kycache-bench-", dir=chosen.dir))
    try:
        with broker(folder) as bootstrap:
            about = (chosen.users, chosen.changes, chosen.tail, chosen.rounds)
            measured = measure(folder, bootstrap, *about)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = explain(measured)
    print(text)
    if not chosen.no_results:
        report.write("bootstrap", "A node that starts with empty shards", text, measured)


if __name__ == "__main__":
    main()
