"""Measures exports of a whole list: time, CPU, bytes, and what the serving process holds in memory meanwhile.

    python bench/export.py [--users 1000000] [--shards 4] [--dir FOLDER] [--no-results]

A real `kycache web` over a data directory of the demo's people (their list rows; no KYC records and accounts,
which an export does not read), and a client in this process that throws away what it gets. Then a reader that
stands still in the middle, while a writer makes commits: how far do the shard files grow?

*Own* memory is what /proc/PID/smaps_rollup calls anonymous. Resident memory holds the mapped pages of the shard
files as well: page cache, which the kernel takes back.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import report
from shards import Shards

from kycache.demo.population.people import Person, people
from kycache.demo.servers.ports import free_ports

CODINGS = ("identity", "gzip", "zstd")
COMMITS = 2_000
"""While a reader stands still; each of one beat and one user, as a busy source makes them."""

SAMPLE_BYTES = 1 << 20
"""Memory is looked at after so many bytes received."""

READY_WAIT_S = 60.0


@dataclass(frozen=True)
class Memory:
    """What a process holds, in MB of 10^6 bytes."""

    own: float
    resident: float


class Web:
    """A `kycache web` of one process."""

    def __init__(self, folder: Path) -> None:
        [self.port] = free_ports(1)
        (folder / "kycache.toml").write_text(f'[data]\ndir = "data"\n[http]\nport = {self.port}\ndrain = 0\n')
        command = [sys.executable, "-m", "kycache.cli.main", "web"]
        self._process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + READY_WAIT_S
        while not self._ready():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit("web does not come up")
            time.sleep(0.1)

    def memory(self) -> Memory:
        rollup = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text(encoding="utf-8")
        found = dict(re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE))
        return Memory(int(found["Anonymous"]) * 1024 / 1e6, int(found["Rss"]) * 1024 / 1e6)

    def cpu_s(self) -> float:
        stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    def export(self, coding: str) -> socket.socket:
        """A connection on which the answer comes."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        made.sendall(f"GET /users/export HTTP/1.0\r\nAccept-Encoding: {coding}\r\n\r\n".encode())
        return made

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as probe:
                probe.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
                return probe.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False


@dataclass(frozen=True)
class Figure:
    """One export. Memory is the most that was seen, beyond what there was before the first one."""

    coding: str
    seconds: float
    cpu_s: float
    megabytes: float
    own_growth_mb: float
    resident_growth_mb: float


def measure(web: Web, users: int) -> Iterator[Figure]:
    """Every coding in turn, after a page of the list, which imports and opens everything."""
    with socket.create_connection(("127.0.0.1", web.port), timeout=30) as page:
        page.sendall(b"GET /users HTTP/1.0\r\n\r\n")
        while page.recv(1 << 16):
            pass
    before = web.memory()
    for coding in CODINGS:
        began, spent, received, sampled, tail = time.perf_counter(), web.cpu_s(), 0, 0, b""
        peak = [web.memory()]
        with web.export(coding) as answer:
            while data := answer.recv(1 << 18):
                received += len(data)
                tail = (tail + data)[-200:]
                if received - sampled >= SAMPLE_BYTES:
                    sampled = received
                    peak.append(web.memory())
        peak.append(web.memory())
        if coding == "identity":
            last = json.loads(tail.splitlines()[-1])
            assert (last["end"], last["rows"]) == (True, users), last
        yield Figure(
            coding,
            round(time.perf_counter() - began, 1),
            round(web.cpu_s() - spent, 1),
            round(received / 1e6, 1),
            round(max(m.own for m in peak) - before.own, 1),
            round(max(m.resident for m in peak) - before.resident, 1),
        )


def childless(users: int) -> Iterator[Person]:
    """The demo's people without their KYC records and accounts."""
    return (Person(person.user, (), ()) for person in people(users))


def growth_under_a_slow_reader(web: Web, shards: Shards) -> dict[str, float]:
    """MB that the files grow by in so many commits: with nobody reading, then beside a reader who stands still."""
    crowd = list(childless(COMMITS))

    def commits() -> float:
        before = shards.blocks()
        for person in crowd:
            shards.commit([person])
        return round((shards.blocks() - before) / 1e6, 2)

    commits()  # until freed pages suffice
    alone = commits()
    with web.export("identity") as answer:
        answer.recv(1 << 10)
        beside = commits()
    return {"alone_mb": alone, "beside_mb": beside}


def text(figures: list[Figure], growth: dict[str, float], users: int, shards: int) -> str:
    rows = [(f.coding, f.seconds, f.cpu_s, f.megabytes, f.own_growth_mb, f.resident_growth_mb) for f in figures]
    head = ["coding", "s", "CPU s", "MB", "own memory, + MB", "resident, + MB"]
    return "\n\n".join(
        [
            report.paragraph(
                f"""The whole list of {users:,} users in {shards} shards from one `kycache web`, to a client on the
                same machine. Memory is the most that was seen, beyond what there was before the first export. What
                is resident grows by the pages of the shard files that were read: they are mapped page cache."""
            ),
            report.table(head, rows),
            report.paragraph(
                f"""In {COMMITS:,} commits the shard files grew by {growth["alone_mb"]} MB with nobody reading, by
                {growth["beside_mb"]} MB beside an export whose reader stands still."""
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--dir", type=Path, default=None, help="where to work; default: a temporary folder")
    parser.add_argument("--no-results", action="store_true", help="only print")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir) as name:
        shards = Shards(Path(name) / "data", arguments.shards, childless(arguments.users))
        web = Web(Path(name))
        try:
            figures = list(measure(web, arguments.users))
            growth = growth_under_a_slow_reader(web, shards)
        finally:
            web.stop()
        shards.close()
    said = text(figures, growth, arguments.users, arguments.shards)
    print(said)
    if not arguments.no_results:
        written = {"users": arguments.users, "figures": [asdict(f) for f in figures], "growth": growth}
        report.write("export", "Exports", said, written)


if __name__ == "__main__":
    main()
