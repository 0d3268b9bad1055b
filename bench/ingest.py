"""Measures ingest: changes a second and core, from a real Apache Kafka, beside Quix Streams and a Redis writer.

    python bench/ingest.py [--users 50000] [--changes 300000] [--dir FOLDER] [--no-results]

Every contender first reads a whole snapshot and ends. Then it is started with nothing to read, which is what
starting costs, and again with the changes to read: the difference of both is theirs. CPU is the process's own,
user and system, taken by wait4; for Redis the server's is added. Needs redis-server, and the extra `bench`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import report
from redis_server import RedisServer, redis_server
from topic import LOOK_S, PARTITIONS, TOPIC, broker, end_offsets, held, positions, produce
from traffic import Traffic

QUIX = "Quix Streams (RocksDB)"
HERE = Path(__file__).parent
WAIT_S = 900.0


@dataclass
class Spent:
    """Seconds of one run."""

    cpu: float
    wall: float


@dataclass
class Contender:
    """Reads the topic from where it was to the end."""

    name: str
    run: Callable[[], Spent]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--changes", type=int, default=300_000)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kycache-bench-", dir=chosen.dir))
    try:
        with broker(folder) as bootstrap, redis_server(folder) as redis:
            measured = measure(folder, bootstrap, redis, chosen.users, chosen.changes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = explain(measured)
    print(text)
    if not chosen.no_results:
        report.write("ingest", "Ingest, beside its peers", text, measured)


def measure(folder: Path, bootstrap: str, redis: RedisServer, users: int, changes: int) -> dict[str, object]:
    """The figures of one run of all contenders, in turn, on the same records."""
    traffic = Traffic(users, PARTITIONS)
    snapshot_rows, _ = produce(bootstrap, traffic.snapshot())
    produce(bootstrap, traffic.beat())
    contenders = [
        Contender("kycache", lambda: kycache(folder, bootstrap)),
        Contender(QUIX, lambda: peer("quix", bootstrap, str(folder / "quix"))),
        Contender(
            "the same, with its changelog", lambda: peer("quix", bootstrap, str(folder / "logged"), "changelog")
        ),
        Contender(
            "kafka-python to Redis",
            lambda: with_server(redis, lambda: peer("redis_hash", bootstrap, str(redis.port))),
        ),
    ]
    first = {c.name: c.run() for c in contenders}
    idle = {c.name: c.run() for c in contenders}
    sent, mean_bytes = produce(bootstrap, traffic.changes(changes))
    produce(bootstrap, traffic.beat())
    full = {c.name: c.run() for c in contenders}
    rates = {name: rate(sent, full[name], idle[name]) for name in full}
    return {
        "users": users,
        "partitions": PARTITIONS,
        "snapshot_rows": snapshot_rows,
        "changes": sent,
        "change_bytes_mean": round(mean_bytes),
        "contenders": {
            name: {
                **rates[name],
                "snapshot_rows_per_cpu_s": round(snapshot_rows / max(0.01, first[name].cpu - idle[name].cpu)),
                "start_cpu_s": round(idle[name].cpu, 2),
            }
            for name in rates
        },
        "times_quix": round(rates["kycache"]["changes_per_cpu_s"] / rates[QUIX]["changes_per_cpu_s"], 2),
    }


def rate(sent: int, full: Spent, idle: Spent) -> dict[str, float]:
    cpu, wall = full.cpu - idle.cpu, full.wall - idle.wall
    return {
        "changes_per_cpu_s": round(sent / cpu),
        "cpu_us_per_change": round(cpu / sent * 1e6, 1),
        "changes_per_s": round(sent / wall),
    }


def explain(measured: dict[str, object]) -> str:
    contenders = measured["contenders"]
    assert isinstance(contenders, dict)
    rows = [
        (name, f"{c['changes_per_cpu_s']:,}", c["cpu_us_per_change"], f"{c['snapshot_rows_per_cpu_s']:,}")
        for name, c in contenders.items()
    ]
    head = ("", "changes a CPU second", "CPU µs a change", "snapshot rows a CPU second")
    return "\n\n".join(
        [
            f"{measured['changes']:,} changes of {measured['change_bytes_mean']} bytes on average: balances, "
            f"statuses, contact data, rows that come and go; a fifth of {measured['users']:,} users draws "
            f"four fifths. They are read from {measured['partitions']} partitions of Apache Kafka, behind a whole "
            f"snapshot of {measured['snapshot_rows']:,} rows. kycache has all its semantics on; the peers join "
            "rows per user and do no more: no versions, no delete markers, no list, no counts.",
            report.table(head, rows),
            f"kycache is {measured['times_quix']} times as fast as Quix Streams per core.",
        ]
    )


def kycache(folder: Path, bootstrap: str) -> Spent:
    """`kycache ingest` until its shards have read everything; ended by SIGTERM."""
    configuration = folder / "kycache.toml"
    configuration.write_text(
        f'[data]\ndir = "data"\n\n[kafka]\nbootstrap = "{bootstrap}"\ntopic = "{TOPIC}"\n', encoding="utf-8"
    )
    ends = end_offsets(bootstrap)
    command = [sys.executable, "-m", "kycache.cli.main", "--config", str(configuration), "ingest"]
    begin = time.monotonic()
    with (folder / "ingest.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    deadline = begin + WAIT_S
    while not held(folder / "data") or positions(folder / "data") != ends:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(
                f"kycache ingest did not read to the end: {(folder / 'ingest.log').read_text()[-2000:]}"
            )
        time.sleep(LOOK_S)
    wall = time.monotonic() - begin
    process.send_signal(signal.SIGTERM)
    return Spent(cpu_of(process), wall)


def peer(name: str, bootstrap: str, *options: str) -> Spent:
    """One of `bench/peers/`, to its end."""
    command = [sys.executable, str(HERE / "peers" / f"{name}.py"), bootstrap, TOPIC, *options]
    begin = time.monotonic()
    process = subprocess.Popen(command)
    cpu = cpu_of(process)
    if process.returncode != 0:
        raise SystemExit(f"the peer {name} ended with {process.returncode}")
    return Spent(cpu, time.monotonic() - begin)


def with_server(server: RedisServer, run: Callable[[], Spent]) -> Spent:
    """A run, with what the server spent meanwhile."""
    before = server.cpu_s()
    spent = run()
    return Spent(spent.cpu + server.cpu_s() - before, spent.wall)


def cpu_of(process: subprocess.Popen[bytes]) -> float:
    """Wait for a process; its CPU seconds."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
