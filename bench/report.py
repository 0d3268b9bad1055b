"""Where a bench leaves what it measured: its figures as JSON, and its section of docs/benchmarks.md.

    report.write("pages", "Pages at any depth", text, figures, plot=svg)

writes bench/results/pages.json (the figures, and what they were measured on), docs/benchmarks/pages.svg, and
the section between `<!-- pages -->` and `<!-- end of pages -->`. Sections stand in the order of their names, so
that whoever runs a bench again changes that one alone.
"""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import textwrap
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lmdb

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "benchmarks"
RESULTS = ROOT / "bench" / "results"

PACKAGES = ("lmdb", "kafka-python", "trio", "msgspec", "quart", "hypercorn", "psycopg")

CALIBRATION_ROUNDS = 7
"""Odd, so that the median is one of them; the first ones also warm the core up."""

HEAD = """\
# Benchmarks

Every figure here is written by a script in `bench/`, none by hand: `make bench` runs them all and writes this
page, with the figures behind it in `bench/results/`. Each section says what it ran on. CPU is the time that the
process itself spent, user and system, which a busy neighbour disturbs less than the clock on the wall.

*Calibration* is the CPU time of a fixed piece of pure Python (`bench/report.py`): divide by it to compare two
machines, or two days on one.
"""


def write(name: str, title: str, text: str, figures: dict[str, object], plot: str | None = None) -> None:
    """Put a bench's figures and section where they belong.

    Args:
        name: of the script without `.py`; names the files and the section.
        title: the section's heading.
        text: Markdown; `table` makes one.
        figures: whatever JSON can hold; units last in the names.
        plot: an SVG (see `chart.py`), shown at the end of the section.
    """
    if not re.fullmatch(r"[a-z][a-z_]*", name):
        raise ValueError(f"{name!r} cannot name a section")
    measured_on = machine()
    body = [f"## {title}", text.strip()]
    if plot is not None:
        _replace(PLOTS / f"{name}.svg", plot)
        body.append(f"![{title}](benchmarks/{name}.svg)")
    body.append(f"*{_measured(name, measured_on)}*")
    _replace(RESULTS / f"{name}.json", json.dumps({"machine": measured_on, **figures}, indent=2) + "\n")
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else HEAD
    _replace(PAGE, with_section(page, name, "\n\n".join(body)))


def with_section(page: str, name: str, body: str) -> str:
    """The page with this section new, or in place of the one of the same name; its head as it is here now."""
    found = re.findall(r"<!-- ([a-z_]+) -->\n(.*?)\n<!-- end of \1 -->", page, re.DOTALL)
    sections = {**dict(found), name: body}
    parts = [f"<!-- {key} -->\n{sections[key]}\n<!-- end of {key} -->\n" for key in sorted(sections)]
    return "\n".join([HEAD, *parts])


def paragraph(text: str) -> str:
    """Prose of any indentation, in lines as long as those of the other pages."""
    return textwrap.fill(" ".join(text.split()), 120, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine() -> dict[str, object]:
    """What a figure was measured on, and when."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "lmdb_library": ".".join(map(str, lmdb.version())),
        "packages": dict(_installed()),
        "calibration_ms": calibration_ms(),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "commit": COMMIT,
        "measured": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime()),
    }


def calibration_ms() -> float:
    """CPU milliseconds of a fixed piece of pure Python: what this machine does at the moment."""
    spent = []
    for _ in range(CALIBRATION_ROUNDS):
        start = time.process_time()
        found: dict[int, bytes] = {}
        state = 1
        for number in range(50_000):
            state = (state * 1_103_515_245 + 12_345) & 0x7FFFFFFF
            found[state] = number.to_bytes(4, "big")
        b"".join(found[key] for key in sorted(found))
        spent.append(time.process_time() - start)
    return round(statistics.median(spent) * 1e3, 2)


def _installed() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return models[0] if models else platform.processor() or platform.machine()


def _commit() -> str:
    """The commit that was measured; with a plus where files of it were changed since."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs", ":!bench/results")
    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("+" if changed else "")


COMMIT = _commit()
"""As the bench began: others may have committed by the time it ends."""


def _measured(name: str, on: dict[str, object]) -> str:
    loads = on["load_average"]
    load = loads[0] if isinstance(loads, list) else "?"
    return (
        f"`bench/{name}.py`, commit {on['commit']}, {str(on['measured'])[:10]}: {on['cpu']}, {on['cores']} cores, "
        f"{on['os']}, Python {on['python']}, LMDB {on['lmdb_library']}; calibration {on['calibration_ms']} ms, "
        f"load {load} at the end."
    )


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
