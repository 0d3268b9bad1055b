"""The load: wrk for requests per CPU second, vegeta for latencies at a constant rate, the same requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from .sides import Side

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kycache-bench"
VEGETA = "github.com/tsenart/vegeta/v12@v12.13.0"

CONNECTIONS = 32
"""Of wrk: they keep a server of one core busy, and an event loop has more to do than manage sockets."""

RATE = 1_200
"""Requests per second of vegeta: what one process of an ordinary service gets in its busy hour."""

WORKERS_MAX = 256
"""Requests of vegeta on their way at once: the attack on a side that cannot keep up takes longer."""

KEEPS_UP = 0.9
"""Of the rate. Below it a latency says how long the queue is, not how long an answer takes."""

TIMEOUT_S = 10
KILLED_AFTER_S = 120.0
"""What a run may take beyond its seconds, before it is ended and the bench with it."""


@dataclass(frozen=True)
class Requests:
    """What one row sends to one side."""

    paths: Sequence[str]
    order: Sequence[int]
    """Places in `paths`, in the order in which they are sent; from the start again after the last one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    own: Sequence[Mapping[str, str]] = ()
    """Headers of each path beside those of all; empty: there are none."""

    def headers_of(self, place: int) -> dict[str, str]:
        """All headers of the request at this place in `paths`."""
        return {**self.headers, **(self.own[place] if self.own else {})}


@dataclass(frozen=True)
class Throughput:
    """One run of wrk."""

    per_cpu_s: float
    per_s: float
    cpu_s: float
    bytes_mean: int


@dataclass(frozen=True)
class Latency:
    """One run of vegeta; without figures where the side did not keep up."""

    p50_ms: float | None
    p99_ms: float | None
    answered_per_s: float


def wrk() -> str:
    """The program.

    Raises:
        SystemExit: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise SystemExit("wrk is missing, which makes the load: apt-get install wrk")
    return found


@cache
def vegeta() -> str:
    """The program: on the path, in the user's cache folder, or built into it.

    Raises:
        SystemExit: it is in neither place, and cannot be built.
    """
    built = CACHE / VEGETA.rpartition("@")[2] / "vegeta"
    if built.exists():
        return str(built)
    if shutil.which("go") is None:
        raise SystemExit(
            f"Go is missing, with which vegeta is built (go install {VEGETA}), which makes the load at a constant "
            "rate: install Go, 1.22 or later"
        )
    done = subprocess.run(["go", "install", VEGETA], env={**os.environ, "GOBIN": str(built.parent)}, check=False)
    if done.returncode != 0 or not built.exists():
        raise SystemExit(f"vegeta cannot be built: run `go install {VEGETA}` and see what it says")
    return str(built)


def write_for_wrk(path: Path, requests: Requests) -> None:
    """The file that `requests.lua` reads."""
    common = {"Host": "127.0.0.1", **requests.headers}
    with path.open("w", encoding="ascii") as file:
        file.write("\t".join(f"{name}: {value}" for name, value in common.items()) + "\n")
        file.write(" ".join(map(str, requests.order)) + "\n")
        for place, target in enumerate(requests.paths):
            own = requests.own[place] if requests.own else {}
            file.write("\t".join([target, *(f"{name}: {value}" for name, value in own.items())]) + "\n")


def write_for_vegeta(path: Path, requests: Requests, url: str, seconds: float, rate: int = RATE) -> None:
    """As many targets as are sent in so many seconds, each with its headers.

    They begin in the middle of the order. wrk begins at its start: it must not find there what was just asked for.
    """
    middle = len(requests.order) // 2
    with path.open("w", encoding="ascii") as file:
        for sent in range(round(rate * seconds)):
            place = requests.order[(middle + sent) % len(requests.order)]
            header = {name: [value] for name, value in requests.headers_of(place).items()}
            file.write(json.dumps({"method": "GET", "url": url + requests.paths[place], "header": header}) + "\n")


def throughput(side: Side, file: Path, seconds: float) -> Throughput:
    """As many requests as the side answers, over some connections; its CPU counted.

    Raises:
        SystemExit: an answer was an error.
    """
    before = side.cpu_s()
    whole = max(1, round(seconds))  # wrk takes whole seconds
    command = [wrk(), "-t1", f"-c{CONNECTIONS}", f"-d{whole}s", f"--timeout={TIMEOUT_S}s"]
    output = _run([*command, "-s", str(HERE / "requests.lua"), side.url, "--", str(file)], whole)
    cpu_s = side.cpu_s() - before
    said = json.loads(output.splitlines()[-1])
    if said["statuses"] or said["broken"] or not said["requests"]:
        raise SystemExit(f"{side.name} did not answer all of {file.name}: {said}")
    return Throughput(
        round(said["requests"] / max(cpu_s, 1e-3), 1),
        round(said["requests"] / said["duration_us"] * 1e6, 1),
        round(cpu_s, 2),
        round(said["bytes"] / said["requests"]),
    )


def latency(side: Side, file: Path, seconds: float, rate: int = RATE) -> Latency:
    """A constant rate, whatever the side takes for each.

    Raises:
        SystemExit: an answer was an error.
    """
    result = file.with_suffix(".result")
    attack = [vegeta(), "attack", "-format=json", f"-targets={file}", f"-rate={rate}/1s", f"-duration={seconds}s"]
    limits = [f"-max-workers={WORKERS_MAX}", f"-timeout={TIMEOUT_S}s", "-max-body=0", "-http2=false"]
    _run([*attack, *limits, f"-output={result}"], seconds)
    said: dict[str, Any] = json.loads(_run([vegeta(), "report", "-type=json", str(result)], 0))
    result.unlink()
    kept_up = said["throughput"] >= KEEPS_UP * rate
    if said["success"] < 1 and (kept_up or set(said["status_codes"]) - {"200", "304", "0"}):
        raise SystemExit(f"{side.name} did not answer all of {file.name}: {said['status_codes']} {said['errors']}")
    quantiles = said["latencies"]
    return Latency(
        round(quantiles["50th"] / 1e6, 2) if kept_up else None,
        round(quantiles["99th"] / 1e6, 2) if kept_up else None,
        round(said["throughput"], 1),
    )


def versions() -> dict[str, str]:
    """Of both programs.

    Raises:
        SystemExit: one of them cannot be had.
    """
    vegeta()
    said = subprocess.run([wrk(), "-v"], capture_output=True, text=True, check=False).stdout.split()
    return {"wrk": said[1], "vegeta": VEGETA.rpartition("@")[2]}


def _run(command: list[str], seconds: float) -> str:
    limit = seconds + KILLED_AFTER_S
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {(done.stderr or done.stdout)[-500:]}")
    return done.stdout
