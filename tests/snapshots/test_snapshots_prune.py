"""What a prune removes and keeps: by count and age, never the last good one, nothing that it cannot read."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import msgspec
import pytest

from kycache.snapshots.prune import carry_out, decide, decide_surely
from kycache.snapshots.storage.listing import Condition, Found, survey
from kycache.snapshots.storage.manifest import FORMAT, Manifest, ReadFrom, ShardEntry, instant
from kycache.snapshots.storage.stores import Stored
from support.snapshot_stand import Stand

NOW = datetime(2026, 11, 25, tzinfo=UTC)


def entry(shard: int) -> ShardEntry:
    return ShardEntry(
        shard=shard,
        file=f"shard-{shard}",
        copied_at=instant(NOW),
        encrypted=False,
        raw_bytes=1,
        raw_sha256="",
        stored_bytes=1,
        stored_sha256="",
        epoch=0,
        bootstrapped=True,
        users=1,
        quarantined=0,
        suspect=0,
        position=ReadFrom("t", "i", shard, 0),
        watermark="0/1",
        as_of_ms=0,
    )


def found(days: float, shards: tuple[int, ...] = (0,), condition: Condition = Condition.WHOLE) -> Found:
    at = NOW - timedelta(days=days)
    name = f"{at:%Y%m%dT%H%M%S}.000Z-00000000"
    manifest = Manifest(
        format=FORMAT,
        id=name,
        tool="",
        created_at=instant(at),
        node="n",
        view="v",
        shard_count=2,
        shards=tuple(map(entry, shards)),
    )
    name_of = "run.json" if condition is Condition.UNFINISHED else "x"
    unknown = condition is Condition.UNFINISHED or not shards
    return Found(name, condition, None if unknown else manifest, "", (Stored(f"{name}/{name_of}", 1, at),))


def kept(*snapshots: Found, keep: int | None = None, older_than: timedelta | None = None) -> list[bool]:
    decisions = decide(snapshots, NOW, keep=keep, older_than=older_than)
    assert [d.id for d in decisions] == [s.id for s in snapshots]
    return [not d.removed for d in decisions]


def test_by_count() -> None:
    assert kept(found(3), found(2), found(1), keep=2) == [False, True, True]
    assert kept(found(3), keep=2) == [True]
    with pytest.raises(ValueError, match="needs"):
        decide([], NOW)


def test_by_age_but_never_the_last_good_one() -> None:
    week = timedelta(days=7)
    assert kept(found(30), found(20), found(1), older_than=week) == [False, False, True]
    assert kept(found(30), found(20), older_than=week) == [False, True]
    assert kept(found(30), found(3), found(2), found(1), keep=1, older_than=week) == [False, True, True, True]
    assert kept(found(30), found(20), found(10), keep=2, older_than=week) == [False, True, True]


def test_one_that_a_clock_that_ran_ahead_has_dated_stands_for_nothing() -> None:
    """With it as the newest for ever, what is taken now would be what is removed."""
    assert kept(found(3), found(2), found(-30), keep=1) == [False, True, True]
    assert kept(found(9), found(8), found(-30), older_than=timedelta(days=7)) == [False, True, True]


def test_a_shard_that_only_an_old_one_holds_keeps_it() -> None:
    assert kept(found(9, (0, 1)), found(3, (0,)), found(1, (0,)), keep=1) == [True, False, True]


def test_another_view_or_topic_stands_for_nothing() -> None:
    """Two views, or a topic and the one made anew under its name, in one store: each keeps its own."""

    def of(days: float, *, view: str = "v", topic_id: str = "i") -> Found:
        there = found(days)
        assert there.manifest is not None
        shards = (msgspec.structs.replace(entry(0), position=ReadFrom("t", topic_id, 0, 0)),)
        return there._replace(manifest=msgspec.structs.replace(there.manifest, view=view, shards=shards))

    for others in ({"view": "w"}, {"topic_id": "j"}):
        assert kept(of(9), of(8), of(3, **others), of(1, **others), keep=1) == [False, True, False, True]
        assert kept(of(40), of(3, **others), older_than=timedelta(days=7)) == [True, True]


def read_to(there: Found, offset: int) -> Found:
    """The same, of a shard that has read so far."""
    assert there.manifest is not None
    shards = (msgspec.structs.replace(entry(0), position=ReadFrom("t", "i", 0, offset)),)
    return there._replace(manifest=msgspec.structs.replace(there.manifest, shards=shards))


def test_what_has_read_less_stands_for_nothing_that_has_read_more() -> None:
    """A shard that went to another node leaves its file: copied later, it is older than what the other has."""
    other, left = read_to(found(2), 900), read_to(found(1), 100)
    assert kept(other, left, keep=1) == [True, True]
    assert kept(read_to(found(40), 900), left, older_than=timedelta(days=7)) == [True, True]
    assert kept(read_to(found(3), 800), other, left, read_to(found(0.5), 950), keep=1) == [
        False,
        False,
        False,
        True,
    ]
    assert kept(read_to(found(3), 800), other, left, keep=1) == [False, True, True]


def test_what_is_not_whole_stands_for_nothing() -> None:
    damaged = found(1, (0,), Condition.DAMAGED)
    assert kept(found(3), damaged, keep=1) == [True, True]
    assert kept(found(3, (0,), Condition.DAMAGED), found(1), keep=1) == [False, True]
    unread = found(3, (), Condition.DAMAGED)
    assert kept(unread, found(1), keep=1) == [True, True]  # the key may be wrong
    assert kept(found(2, (), Condition.UNFINISHED), found(0.5, (), Condition.UNFINISHED), keep=1) == [False, True]


def test_one_that_nothing_can_come_back_from_goes_like_any_other() -> None:
    """Its shards were still bootstrapping. It stands for nothing, and does not stay for ever either."""

    def empty(days: float) -> Found:
        there = found(days)
        assert there.manifest is not None
        shards = (msgspec.structs.replace(entry(0), bootstrapped=False),)
        return there._replace(manifest=msgspec.structs.replace(there.manifest, shards=shards))

    assert kept(empty(40), found(30), found(20), found(10), keep=3) == [False, True, True, True]
    assert kept(empty(40), found(1), empty(0.5), keep=3, older_than=timedelta(days=7)) == [False, True, True]


@pytest.mark.parametrize("seed", range(5))
def test_every_shard_keeps_a_good_one(seed: int) -> None:
    rng = Random(seed)
    for _ in range(200):
        conditions = [*[Condition.WHOLE] * 3, Condition.DAMAGED, Condition.UNFINISHED]
        there = [
            found(days, tuple(s for s in (0, 1) if rng.random() < 0.7), rng.choice(conditions))
            for days in sorted((rng.random() * 40 for _ in range(rng.randrange(8))), reverse=True)
        ]
        keep, older_than = rng.choice([None, 1, 2, 5]), rng.choice([None, timedelta(days=7)])
        if keep is None and older_than is None:
            continue
        decisions = decide(there, NOW, keep=keep, older_than=older_than)
        left = [s for s, d in zip(there, decisions, strict=True) if not d.removed]

        def good(snapshots: list[Found]) -> set[int]:
            whole = [s.manifest for s in snapshots if s.condition is Condition.WHOLE and s.manifest]
            return {entry.shard for manifest in whole for entry in manifest.shards}

        assert good(left) == good(there), f"seed {seed}"


def test_what_is_damaged_inside_stands_for_nothing(tmp_path: Path) -> None:
    """Name and size are right, one byte is not: the older good one stays, and the one before that may go."""
    stand = Stand.make(tmp_path, 2)
    snapshots = [stand.take() for _ in range(3)]
    file = tmp_path / "store" / snapshots[2].id / snapshots[2].entry(1).file
    changed = bytearray(file.read_bytes())
    changed[len(changed) // 2] ^= 4
    file.write_bytes(changed)
    store = stand.store()
    known, decisions = decide_surely(store, survey(store, stand.keys()), datetime.now(UTC), keep=1)
    assert [found.condition for found in known] == [Condition.WHOLE, Condition.WHOLE, Condition.DAMAGED]
    assert [decision.removed for decision in decisions] == [True, False, False]
    stand.close()


def test_what_is_finished_while_the_store_is_listed_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list came by the manifest's place before it was there, and by the run's when that was gone."""
    stand = Stand.make(tmp_path)
    taken = stand.take()
    store = stand.store()
    listed = [file for file in store.files() if not file.path.endswith(".json")]
    monkeypatch.setattr(store, "files", lambda: listed)
    found = survey(store, stand.keys())
    assert [(f.id, f.condition) for f in found] == [(taken.id, Condition.WHOLE)]
    assert [d.removed for d in decide(found, datetime.now(UTC), keep=1)] == [False]
    stand.close()


def test_a_prune_leaves_nothing_of_what_it_removes(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    first, second = stand.take(), stand.take()
    before = survey(stand.store(), stand.keys())
    carry_out(stand.store(), before, decide(before, datetime.now(UTC), keep=1))
    assert [s.id for s in survey(stand.store(), stand.keys())] == [second.id]
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [second.id, "store.key"]
    assert first.id < second.id
    stand.close()
