"""What `bench/reads.py` draws, writes down and concludes; its servers and tools are tried by running it."""

import json
import math
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
USERS = [f"user-{number}" for number in range(1_000)]


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Its modules that need no peer to be installed. They are imported by their names in `bench/`."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return {name: import_module(f"reading.{name}") for name in ("figures", "load", "rows", "sides", "world")}


def world(reading: dict[str, ModuleType]) -> Any:
    tags = {user: f'"{user}"' for user in USERS}
    return reading["rows"].World(USERS, USERS[-100:], tags, {}, "0/400", 20, [(2, "c2"), (9, "c9")])


def test_a_fifth_of_the_users_gets_four_fifths_of_the_requests(reading: dict[str, ModuleType]) -> None:
    rows = {row.name: row for row in reading["rows"].ROWS}
    drawn = rows["kept"].ours(world(reading)).order
    assert math.isclose(sum(place < 200 for place in drawn) / len(drawn), 0.8, abs_tol=0.01)
    assert drawn == rows["kept"].ours(world(reading)).order


def test_bodies_that_must_not_be_kept_come_again_only_after_all_others(reading: dict[str, ModuleType]) -> None:
    rows = {row.name: row for row in reading["rows"].ROWS}
    assert sorted(rows["never-kept"].ours(world(reading)).order) == list(range(1_000))
    half = rows["half-kept"].ours(world(reading)).order
    hot = [place for place in half if place < reading["rows"].HOT_USERS]
    assert len(half) - len(hot) == 900
    assert math.isclose(len(hot) / len(half), 0.5, abs_tol=0.05)


def test_every_row_writes_the_same_requests_for_both_tools(reading: dict[str, ModuleType], tmp_path: Path) -> None:
    load = reading["load"]
    for row in reading["rows"].ROWS:
        for asked in (row.ours(world(reading)), row.of_peers(world(reading))):
            load.write_for_wrk(tmp_path / "wrk", asked)
            load.write_for_vegeta(tmp_path / "vegeta", asked, "http://h:1", 0.1)
            common, order, *targets = (tmp_path / "wrk").read_text().splitlines()
            sent = [json.loads(line) for line in (tmp_path / "vegeta").read_text().splitlines()]
            assert len(sent) == load.RATE // 10
            assert len(targets) == len(asked.paths)
            for at, request in enumerate(sent):
                path, *own = targets[int(order.split()[(len(asked.order) // 2 + at) % len(asked.order)])].split(
                    "\t"
                )
                headers = dict(line.split(": ", 1) for line in [*common.split("\t"), *own])
                assert headers.pop("Host")
                assert request["url"] == f"http://h:1{path}"
                assert request["header"] == {name: [value] for name, value in headers.items()}


def test_a_ratio_is_the_median_of_the_rounds(reading: dict[str, ModuleType]) -> None:
    figures, load = reading["figures"], reading["load"]
    rates = {
        "kycache": (50.0, 60.0, 90.0),
        "FastAPI + Redis": (10.0, 10.0, 10.0),
        "bare ASGI": (100.0, 100.0, 90.0),
    }
    found = [
        figures.Figure(
            "kept", side, number, load.Throughput(rate, rate, 1.0, 900), load.Latency(1.0, number + 2.0, 1_200.0)
        )
        for side, many in rates.items()
        for number, rate in enumerate(many)
    ]
    measured = figures.Measured(20_000, 900, 3, 3, ["kycache"], {"wrk": "4"}, [20.0, 21.0], figures=found)
    assert measured.ratio("kept", "FastAPI + Redis") == (6.0, 5.0, 9.0)
    section = measured.section()
    assert "| every body kept | 60 (50–90) | 10 | 100 (90–100) | 6.00 (5.00–9.00) | 0.60 (0.50–1.00) |" in section
    assert "| every body kept | 1 / 3 | 1 / 3 | 1 / 3 |" in section
    assert json.loads(json.dumps(measured.as_json()))["times_kycache"]["kept"]["bare ASGI"]["median"] == 0.6


def test_a_side_that_did_not_keep_up_has_no_latency(reading: dict[str, ModuleType]) -> None:
    figures, load = reading["figures"], reading["load"]
    slow = figures.Figure("kept", "kycache", 0, load.Throughput(9.0, 9.0, 1.0, 1), load.Latency(None, None, 500.0))
    measured = figures.Measured(1, 1, 1, 1, ["kycache"], {}, [20.0], figures=[slow])
    assert measured.latency("kept", "kycache") == "too slow"


def test_a_side_that_answers_otherwise_ends_the_bench(reading: dict[str, ModuleType]) -> None:
    rows = {row.name: row for row in reading["rows"].ROWS}
    same, side = reading["world"]._same, SimpleNamespace(name="peer")
    page = b'{"data":[1],"page":{"total":%d,"size":50,"next":%b},"asOf":null}'
    same(rows["kept"], side, (200, b"{}"), (200, b"{}"))
    same(rows["not-modified"], side, (200, b"{}"), (304, b""))
    same(rows["list-kept"], side, (200, page % (7, b"null")), (200, page % (7, b'"c"')))
    for row, got, expected in (
        ("kept", (200, b'{"a":1}'), (200, b'{"a":2}')),
        ("kept", (404, b"{}"), (200, b"{}")),
        ("kept", (503, b"{}"), (503, b"{}")),
        ("list-kept", (200, page % (8, b"null")), (200, page % (7, b"null"))),
    ):
        with pytest.raises(SystemExit, match="peer answers"):
            same(rows[row], side, got, expected)


def test_a_side_counts_all_descendants(reading: dict[str, ModuleType]) -> None:
    nested = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", nested], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        family = reading["sides"]._family([os.getpid()])
        assert child.pid in family
        assert len(reading["sides"]._family([child.pid])) == 2
        child.communicate(b"\n")
