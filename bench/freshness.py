"""Measures freshness: from a commit in Postgres to its being visible over HTTP, while the source keeps writing.

    python bench/freshness.py [--stack apache] [--users 10000] [--write-rate 1000] [--probes 300] [--no-results]

The whole pipeline is the demo's, every part a process of its own, all of them and this probe on the same cores. A
probe writes a number into a row of its own, and asks for the user's detail until it is there.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import report

from kycache.demo.servers.ports import free_ports

ROWS_PER_COMMIT = 10
"""Statements of one transaction: with one each, the source's own fsyncs would be what is measured."""

STATEMENTS: tuple[tuple[LiteralString, LiteralString], ...] = (
    (
        "SELECT account_id FROM accounts ORDER BY account_id",
        "UPDATE accounts SET balance = %(value)s WHERE account_id = %(key)s",
    ),
    (
        "SELECT user_id FROM users ORDER BY user_id",
        "UPDATE users SET phone = %(value)s, updated_at = now() WHERE user_id = %(key)s",
    ),
    (
        "SELECT kyc_id FROM kyc_records ORDER BY kyc_id",
        "UPDATE kyc_records SET status = 'VERIFIED', updated_at = now() WHERE kyc_id = %(key)s",
    ),
)
"""Which rows there are, and what changes one of them."""

READY_S = 300.0
VISIBLE_S = 60.0
LOOK_S = 0.004
"""Between two looks: a finer one would be a load of its own."""

PAUSE_S = (0.02, 0.2)
"""Between two probes, at random, so that they do not fall into step with a batch or a beat."""

SETTLE_S = 10.0
"""The writer runs for so long before the first probe: caches are warm, the connector is no longer behind."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--stack", choices=["apache", "embedded"], default="apache")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--write-rate", type=int, default=1_000)
    parser.add_argument("--probes", type=int, default=300)
    parser.add_argument("--no-results", action="store_true")
    chosen = parser.parse_args()
    options = ["--stack", chosen.stack, "--users", str(chosen.users)]
    with demo(options) as ready, load(ready["postgres"], chosen.write_rate):
        time.sleep(SETTLE_S)
        measured = {
            "stack": chosen.stack,
            "users": chosen.users,
            "asked_changes_per_s": chosen.write_rate,
            **measure(ready, chosen.probes),
        }
    text = explain(measured)
    print(text)
    if not chosen.no_results:
        report.write("freshness", "Freshness: from commit to visible", text, measured)


@contextmanager
def load(dsn: str, rate: int) -> Iterator[None]:
    """The source writes so many rows a second, in transactions of `ROWS_PER_COMMIT`."""
    stop = threading.Event()
    writer = threading.Thread(target=write, args=(dsn, ROWS_PER_COMMIT / rate, stop))
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def write(dsn: str, every_s: float, stop: threading.Event) -> None:
    """Balances, statuses and phone numbers of users drawn at random, until told to stop."""
    rng = random.Random(11)
    with psycopg.connect(dsn) as source:
        keys = [[row[0] for row in source.execute(which)] for which, _ in STATEMENTS]
        due = time.monotonic()
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += every_s
            for number in range(ROWS_PER_COMMIT):
                which = number % len(STATEMENTS)
                change = {"key": rng.choice(keys[which]), "value": rng.randrange(10**6)}
                source.execute(STATEMENTS[which][1], change)
            source.commit()


def measure(ready: dict[str, Any], probes: int) -> dict[str, object]:
    """Milliseconds of each probe, summed up, and how fast the source really wrote meanwhile."""
    rng = random.Random(7)
    user = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    address = urlsplit(ready["http"])
    web = http.client.HTTPConnection(address.hostname or "", address.port or 80, timeout=30)
    seen_ms: list[float] = []
    with psycopg.connect(ready["postgres"], autocommit=True) as source:
        source.execute("INSERT INTO users (user_id, first_name, last_name) VALUES (%s, 'Probe', '0')", (user,))
        begin, before = time.monotonic(), written(source)
        for number in range(1, probes + 1):
            source.execute("UPDATE users SET last_name = %s WHERE user_id = %s", (str(number), user))
            committed = time.monotonic()
            wait_visible(web, user, str(number))
            seen_ms.append((time.monotonic() - committed) * 1e3)
            time.sleep(rng.uniform(*PAUSE_S))
        rate = (written(source) - before) / (time.monotonic() - begin)
        source.execute("DELETE FROM users WHERE user_id = %s", (user,))
    web.close()
    cuts = statistics.quantiles(seen_ms, n=100)
    return {
        "probes": probes,
        "changes_per_s": round(rate),
        "visible_ms": {
            "p50": round(cuts[49]),
            "p90": round(cuts[89]),
            "p99": round(cuts[98]),
            "max": round(max(seen_ms)),
        },
    }


def written(source: psycopg.Connection[Any]) -> int:
    """Rows changed in the view's tables since the server keeps count."""
    source.execute("SELECT pg_stat_clear_snapshot()")
    counted = source.execute(
        "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables "
        "WHERE relname <> 'kycache_heartbeat'"
    ).fetchone()
    assert counted is not None
    return int(counted[0])


def wait_visible(web: http.client.HTTPConnection, user: str, name: str) -> None:
    """Ask for the user until the number is there."""
    deadline = time.monotonic() + VISIBLE_S
    while time.monotonic() < deadline:
        web.request("GET", f"/users/{user}")
        answer = web.getresponse()
        body = answer.read()
        if answer.status == 200 and json.loads(body)["lastName"] == name:
            return
        time.sleep(LOOK_S)
    raise SystemExit(f"change {name} is not visible after {VISIBLE_S:.0f} s")


def explain(measured: dict[str, Any]) -> str:
    visible = measured["visible_ms"]
    return "\n\n".join(
        [
            f"The demo on the `{measured['stack']}` stack with {measured['users']:,} users, its source writing "
            f"{measured['changes_per_s']:,} rows a second in transactions of {ROWS_PER_COMMIT}, and "
            f"{measured['probes']} probes beside it: from the commit's return to the first answer that shows it. "
            "PostgreSQL, Debezium, the broker, `ingest`, `web`, the writer and the probe share the same cores.",
            report.table(
                ("", "P50", "P90", "P99", "worst"),
                [("ms from commit to visible", visible["p50"], visible["p90"], visible["p99"], visible["max"])],
            ),
        ]
    )


@contextmanager
def demo(options: list[str]) -> Iterator[dict[str, Any]]:
    """`kycache demo`, ready; what its ready file says."""
    folder = Path(tempfile.mkdtemp(prefix="kycache-bench-"))
    ready = folder / "ready.json"
    command = [sys.executable, "-m", "kycache.cli.main", "demo", *options]
    command += ["--port", str(free_ports(1)[0]), "--dir", str(folder / "demo"), "--ready-file", str(ready)]
    with (folder / "demo.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + READY_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the demo does not come up:\n{(folder / 'demo.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield json.loads(ready.read_text(encoding="utf-8"))
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
