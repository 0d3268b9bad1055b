"""The events that were captured from a real Debezium, and four shards to replay them into.

`fixtures/captured-*/events.jsonl` holds every record with its partition and offset, and at each scenario's end
what SQL said then; `capture/` has the scripts and says what the lines are.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import kycache.model.view
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from kycache.model.lsn import parse_lsn, parse_sequence
from kycache.model.partition import partition_of
from kycache.model.values import uuid_bytes
from support.shards import ShardUnderTest

(EVENTS,) = (Path(__file__).parents[2] / "fixtures").glob("captured-*/events.jsonl")
VIEW = default_view()
VIEW_TOML = Path(kycache.model.view.__file__).parent / "kyc.toml"
PARTITIONS = 4
LOST = "timestamp-out-of-range"
"""Here the events do not say what Postgres held, and the profile is suspect (DEBEZIUM 36)."""

BORN = "dates-in-a-snapshot"
"""The last scenario: the snapshot's rows do not hold what Postgres did."""

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


def scenarios() -> dict[str, Scenario]:
    """What came, but for the last scenario."""
    return {name: scenario for name, scenario in all_scenarios().items() if name != BORN}


@cache
def all_scenarios() -> dict[str, Scenario]:
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
