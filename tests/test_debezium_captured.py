"""Events captured from a real Debezium on four partitions, replayed into four shards: each is as Postgres was.

`fixtures/captured-*/events.jsonl` holds every record with its partition and offset, and at each scenario's end what
SQL said then; `capture/` has the script and says what the lines are. Tests are named after the lines of DEBEZIUM.md
that the events show; the scenarios they speak of are functions of that script.
"""

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from shards import ShardUnderTest

from kycache.actors.freshness import Limits, Standing, freshness, status
from kycache.ingest.decode import Record, RecordDecoder
from kycache.model.change import Change, Item, Poison
from kycache.model.lsn import parse_lsn, parse_sequence
from kycache.model.partition import partition_of
from kycache.model.values import uuid_bytes
from kycache.model.view import HEARTBEAT_TABLE, default_view, parse_view

(EVENTS,) = (Path(__file__).parent / "fixtures").glob("captured-*/events.jsonl")
VIEW = default_view()
PARTITIONS = 4
LOST = "timestamp-out-of-range"
"""Here the events do not say what Postgres held, and the profile is suspect (DEBEZIUM 36)."""

ALTERED = "column-of-another-type"
"""Here a value is not of its declared type, and the profile is suspect (DEBEZIUM 28)."""

Order = list[int]
Event = dict[str, Any]


@dataclass(frozen=True)
class Captured:
    """One record, its item, and the event in it."""

    partition: int
    record: Record
    item: Item
    event: Event | None

    @property
    def table(self) -> str:
        return "" if self.event is None else str(self.event["source"]["table"])

    @property
    def op(self) -> str:
        return "tombstone" if self.event is None else str(self.event["op"])

    @property
    def sequence(self) -> tuple[int | None, int]:
        assert self.event is not None
        last, lsn = parse_sequence(self.event["source"]["sequence"])
        assert lsn is not None
        return last, lsn

    @property
    def streamed(self) -> bool:
        return self.op in ("c", "u", "d", "t")

    @property
    def tx(self) -> int:
        assert self.event is not None
        return int(self.event["source"]["txId"])


@dataclass(frozen=True)
class Scenario:
    """What came in one scenario, and what Postgres held at its end."""

    name: str
    records: list[Captured]
    offsets: list[int]
    token: int
    commits: list[tuple[int, int]]
    """(transaction id, LSN taken after its commit)"""
    order: list[str]
    """The users as the list shows them, newest first."""
    details: dict[str, Any]

    def of(self, partition: int) -> list[Captured]:
        return [c for c in self.records if c.partition == partition]

    def rows(self, table: str, op: str = "") -> list[Event]:
        return [c.event for c in self.records if c.event and c.table == table and c.op in (op or c.op)]


@cache
def scenarios() -> dict[str, Scenario]:
    """The fixture, decoded once."""
    decoder = RecordDecoder(VIEW)
    found: dict[str, Scenario] = {}
    records: list[Captured] = []
    details: dict[str, Any] = {}
    for line in EVENTS.read_text(encoding="utf-8").rstrip("\n").split("\n"):
        read = json.loads(line)
        if "scenario" in read:
            records = []
        elif "end" in read:
            details = {u: d for u, d in (details | read["details"]).items() if d is not None}
            assert sorted(details) == sorted(read["list"])
            commits = [(tx, _lsn(token)) for tx, token in read["commits"]]
            found[read["end"]] = Scenario(
                read["end"], records, read["offsets"], _lsn(read["token"]), commits, read["list"], details
            )
        else:
            key, value = read["key"], read["value"]
            record = Record(read["offset"], 0, key and key.encode(), value and value.encode())
            event = json.loads(value) if value else None
            records.append(Captured(read["partition"], record, decoder.decode(record), event))
    return found


def _lsn(text: str) -> int:
    lsn = parse_lsn(text)
    assert lsn is not None
    return lsn


def everything() -> list[Captured]:
    return [c for scenario in scenarios().values() for c in scenario.records]


class Cluster:
    """A shard per partition."""

    def __init__(self, root: Path) -> None:
        self.shards = [ShardUnderTest(root / str(p), VIEW, shard=p, shards=PARTITIONS) for p in range(PARTITIONS)]
        self.delivered = [0] * PARTITIONS
        """The greatest LSN that was streamed to each."""

    def deliver(self, partition: int, records: list[Captured]) -> None:
        if not records:
            return
        shard = self.shards[partition]
        applied = shard.apply([c.item for c in records])
        assert applied.halt is None, applied.halt
        streamed = [c.sequence[1] for c in records if c.streamed]
        self.delivered[partition] = max([self.delivered[partition], *streamed])
        assert applied.state.watermark <= self.delivered[partition]

    def check(self, scenario: Scenario) -> None:
        """Every detail and the list are what SQL said."""
        known = set(scenario.order)
        for p, shard in enumerate(self.shards):
            here = [u for u in scenario.order if partition_of(u.encode(), PARTITIONS) == p]
            rows = shard.listed()
            if scenario.name != LOST:
                assert [r["userId"] for r in rows] == here
            for row in rows:
                user = row["userId"]
                body, suspect = shard.detail(uuid_bytes(user)), shard.suspect(uuid_bytes(user))
                assert body is not None
                assert {k: body[k] for k in row} == row
                if body != scenario.details[user]:
                    assert scenario.name in (LOST, ALTERED), f"{body} != {scenario.details[user]}"
                    assert suspect
                else:
                    assert not suspect
                known.discard(user)
            state = shard.state
            assert state.users == len(here)
            assert state.watermark >= scenario.token
            assert state.bootstrapped
            assert state.heartbeat
            assert state.doubts == 0
            assert not shard.doubts
            assert (state.suspects > 0) <= (scenario.name in (LOST, ALTERED))
        assert not known
        assert (sum(s.state.suspects for s in self.shards) == 1) == (scenario.name in (LOST, ALTERED))

    def close(self) -> None:
        for shard in self.shards:
            shard.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


Play = Callable[[Cluster, Scenario, random.Random], None]


def whole(order: Order) -> Play:
    """Each partition's records in one batch, one partition after another."""

    def play(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
        del rng
        for p in order:
            cluster.deliver(p, scenario.of(p))

    return play


def one_by_one(order: Order) -> Play:
    """Record by record, one partition after another."""

    def play(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
        del rng
        for p in order:
            for captured in scenario.of(p):
                cluster.deliver(p, [captured])

    return play


def interleaved(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
    """Batches of any size, from any partition that has more, with restarts between."""
    left = {p: scenario.of(p) for p in range(PARTITIONS)}
    while left := {p: records for p, records in left.items() if records}:
        p = rng.choice(list(left))
        size = rng.choice([1, 2, 3, 5, 8, 40])
        cluster.deliver(p, left[p][:size])
        left[p] = left[p][size:]
        if rng.random() < 0.02:
            cluster.shards[p].reopen()


def again_and_again(cluster: Cluster, scenario: Scenario, rng: random.Random) -> None:
    """`1 2 3 2 3 4`: the connector goes back to an earlier place now and then, as after a crash.

    Not over a snapshot: one that starts anew is a later one, and does not come with the old LSN.
    """
    for p in range(PARTITIONS):
        records, at, repeats = scenario.of(p), 0, 6
        while at < len(records):
            size = rng.choice([2, 5, 20])
            cluster.deliver(p, records[at : at + size])
            at += size
            back = max(0, at - rng.choice([1, 4, 30]))
            if repeats and all(c.op != "r" for c in records[back:at]):
                repeats -= 1
                at = back


PLAYS = {
    "whole-0123": (whole([0, 1, 2, 3]), 0),
    "whole-3210": (whole([3, 2, 1, 0]), 0),
    "one-by-one": (one_by_one([2, 0, 3, 1]), 0),
    **{f"interleaved-{seed}": (interleaved, seed) for seed in range(4)},
    **{f"redelivered-{seed}": (again_and_again, seed) for seed in range(3)},
}


@pytest.mark.parametrize(("play", "seed"), list(PLAYS.values()), ids=list(PLAYS))
def test_after_every_scenario_each_shard_is_as_postgres_was(cluster: Cluster, play: Play, seed: int) -> None:
    rng = random.Random(seed)
    for scenario in scenarios().values():
        play(cluster, scenario, rng)
        try:
            cluster.check(scenario)
        except AssertionError as error:
            error.add_note(f"scenario {scenario.name}")
            raise


@pytest.mark.parametrize("partition", range(PARTITIONS))
def test_one_partition_to_its_end_before_the_others(tmp_path: Path, partition: int) -> None:
    """Either order of arrival converges (DEBEZIUM 14): one shard is done before the others have begun."""
    cluster = Cluster(tmp_path)
    for p in [partition, *(p for p in range(PARTITIONS) if p != partition)]:
        for scenario in scenarios().values():
            cluster.deliver(p, scenario.of(p))
    cluster.check(list(scenarios().values())[-1])
    cluster.close()
