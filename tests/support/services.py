"""Commands that run until a signal, as processes of their own: started, asked, and ended."""

import json
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

START_WAIT_S = 60.0


READY_WAIT_S = 120.0


class Running:
    """A command that runs, and the lines of its log as they come."""

    def __init__(self, child: "subprocess.Popen[str]") -> None:
        self.child = child
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.lines.put(line)

    def logged(self, event: str) -> dict[str, object]:
        """The next log line that says `event`."""
        deadline = time.monotonic() + START_WAIT_S
        while True:
            entry: dict[str, object] = json.loads(self.lines.get(timeout=max(0.1, deadline - time.monotonic())))
            if entry["event"] == event:
                return entry

    def stop(self, number: signal.Signals) -> int:
        """Send a signal; returns the exit code."""
        self.child.send_signal(number)
        return self.child.wait(START_WAIT_S)

    def close(self) -> None:
        """Kill it where it still runs."""
        self.child.kill()
        self.child.wait(START_WAIT_S)
        self._reader.join(START_WAIT_S)
        assert self.child.stderr is not None
        self.child.stderr.close()


@contextmanager
def started(folder: Path, *arguments: str, descriptors: int = 0) -> Iterator[Running]:
    """A command in a process of its own, which may have no more descriptors than said."""
    command = [sys.executable, "-m", "kycache.cli.main", *arguments]
    if descriptors:
        command = ["sh", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"', *command]
    child = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    running = Running(child)
    try:
        yield running
    finally:
        running.close()


def status_of(url: str) -> int:
    """The status of a GET."""
    try:
        with urlopen(url, timeout=START_WAIT_S) as answer:
            return int(answer.status)
    except HTTPError as error:
        with error:
            return error.code


def wait_ready(url: str) -> None:
    """Wait until `/readyz` says so."""
    deadline = time.monotonic() + READY_WAIT_S
    while status_of(f"{url}/readyz") != 200:
        assert time.monotonic() < deadline, "never ready"
        time.sleep(0.05)


GROWTH_BYTES_MAX = 2 << 20
"""What the allocator may round up. The rows of one export are 1.3 MB as they are sent, and more as
they are read: four exports that kept them grow by twice this (tried)."""


def own_bytes(pid: int) -> int:
    """Memory that is the process's own. Mapped shard files are not: they count as resident, and are page cache."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    found = re.search(r"^Anonymous: +(\d+) kB$", rollup, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def wait_metric(url: str, line: str) -> None:
    deadline = time.monotonic() + 30
    while f"{line}\n".encode() not in urlopen(f"{url}/metrics", timeout=30).read():
        assert time.monotonic() < deadline, line
        time.sleep(0.01)
