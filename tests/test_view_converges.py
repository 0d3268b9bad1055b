"""Random histories, whatever order and repetition they arrive in, give the view that SQL gives.

One seed is one history; a failing one is printed in the test's id and replays alone.
"""

import random
from pathlib import Path

import pytest
from fake_source import FakeSource
from shards import ShardUnderTest

from kycache.ingest.decode import RecordDecoder
from kycache.model.values import uuid_bytes
from kycache.model.view import default_view

VIEW = default_view()
PARTITIONS = 3
SEEDS = range(12)


def history(seed: int) -> FakeSource:
    """A source that lived through everything that DEBEZIUM.md lists."""
    rng = random.Random(seed)
    source = FakeSource(rng, PARTITIONS)
    source.transactions(4)
    source.snapshot()
    source.beat()
    for _ in range(40):
        kind = rng.random()
        if kind < 0.75:
            source.transactions(rng.randint(1, 3))
        elif kind < 0.88:
            source.beat()
        elif kind < 0.93:
            source.redeliver(rng.choice([1, 5, 30, 200]))
        elif kind < 0.97:
            source.snapshot(lose=0.5)
        else:
            source.truncate(rng.choice(["users", "accounts", "kyc_records"]))
    source.beat()
    return source


def drain(source: FakeSource, shards: list[ShardUnderTest], rng: random.Random) -> None:
    """Feed every partition from its store's position on, in batches of any size, with restarts between."""
    decoder = RecordDecoder(VIEW)
    for shard, records in zip(shards, source.records(), strict=True):
        at = shard.state.position.offset
        while at < len(records):
            size = rng.choice([1, 2, 7, 50, 500])
            items = [decoder.decode(record) for record in records[at : at + size]]
            applied = shard.apply(items)
            assert applied.halt is None, applied.halt
            at = applied.state.position.offset
            if rng.random() < 0.05:
                shard.reopen()


def compare(source: FakeSource, shards: list[ShardUnderTest]) -> None:
    listed = source.listing()
    rows = [row for shard in shards for row in shard.listed()]
    position = {row["userId"]: n for n, row in enumerate(listed)}
    rows.sort(key=lambda row: position[row["userId"]])
    assert rows == [{k: v for k, v in row.items() if k != "region"} for row in listed]
    for row in listed:
        key = uuid_bytes(row["userId"])
        details = [shard.detail(key) for shard in shards]
        assert [d for d in details if d is not None] == [source.profile(row["userId"])]
    assert sum(shard.state.users for shard in shards) == len(listed)
    for region in ("EMEA", "APAC"):
        for status in ("VERIFIED", "NONE"):
            found = {r["userId"] for s in shards for r in s.listed(region=region, kycStatus=status)}
            assert found == {r["userId"] for r in listed if r["region"] == region and r["kycStatus"] == status}


@pytest.mark.parametrize("seed", SEEDS)
def test_view_equals_source(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = history(seed)
    shards = [ShardUnderTest(tmp_path / str(n), VIEW, shard=n, shards=PARTITIONS) for n in range(PARTITIONS)]
    drain(source, shards, rng)
    compare(source, shards)
    for shard in shards:
        assert shard.state.bootstrapped
        assert not shard.doubts
        shard.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_reading_everything_again_changes_nothing(tmp_path: Path, seed: int) -> None:
    """A shard that reads its whole partition a second time ends as it was: redelivery of everything."""
    rng = random.Random(seed)
    source = FakeSource(rng, 1)
    source.transactions(4)
    source.snapshot()
    for _ in range(15):
        source.transactions(2)
    source.beat()
    shard = ShardUnderTest(tmp_path, VIEW)
    drain(source, [shard], rng)
    compare(source, [shard])
    source.redeliver(len(source.log))
    drain(source, [shard], rng)
    compare(source, [shard])
    shard.close()
