"""Restore: planned, fetched into a new generation, walked, brought into use; then the log (FAULTS 14-16)."""

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kycache.actors.integrity.vouching import vouched
from kycache.actors.rules.state import ShardState
from kycache.model.errors import Refused
from kycache.snapshots.plan import plan
from kycache.snapshots.storage.manifest import Manifest
from support.snapshot_stand import Stand, content_position, facts_of, home_of, restored


def content(stand: Stand) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]], ShardState]:
    with stand.shards[0].snapshot() as snapshot:
        txn, databases = snapshot._txn, snapshot._databases
        return (
            list(txn.cursor(databases.profiles)),
            [(key, value[2:]) for key, value in txn.cursor(databases.rows)],
            snapshot.state,
        )


@pytest.mark.parametrize("days", [0, 8])
def test_an_older_snapshot_and_the_log_equal_a_shard_never_restored(tmp_path: Path, days: int) -> None:
    """FAULTS 15: deletes, re-inserts, moves and a sweep in between; also where delete markers fell due."""
    stand = Stand.make(tmp_path, rounds=60, seed=11)
    manifest = stand.take()
    stand.go_on(60)
    stand.source.wait(days)
    stand.source.snapshot()
    stand.go_on(60)
    never = content(stand)
    shard = stand.shards[0]
    shard.close()
    restored(stand, manifest, shard.directory)
    shard.store = shard._open()
    shard._offset = shard.store.opened_at.position.offset
    assert shard.store.opened_at.position.offset == manifest.entry(0).position.offset
    stand.follow(shard)
    again = content(stand)
    assert again[0] == never[0]
    assert again[1] == never[1]
    different = {
        name for name in ShardState.__struct_fields__ if getattr(again[2], name) != getattr(never[2], name)
    }
    assert different <= {"counters"}
    for user in stand.source.users:
        assert shard.detail(bytes.fromhex(user.replace("-", ""))) == stand.source.profile(user)
    stand.close()


def test_what_serves_goes_on_until_the_restored_one_has_caught_up(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    manifest = stand.take()
    stand.go_on(5)
    stand.close()
    folder = stand.shards[0].folder
    serves = folder.current()
    restored(stand, manifest, stand.shards[0].directory, replace=False)
    assert folder.current() == serves
    built = folder.building()
    assert built is not None
    assert vouched(built)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Of two shards."""
    stand = Stand.make(tmp_path_factory.mktemp("plan"), 2, rounds=10)
    manifest = stand.take()
    stand.close()
    return manifest


@pytest.mark.parametrize("with_its_folder", [False, True])
def test_what_comes_back_for_removed_files_has_another_name(tmp_path: Path, with_its_folder: bool) -> None:
    """Or readers that still have the removed file open would never look at it."""
    stand = Stand.make(tmp_path, rounds=5)
    manifest = stand.take()
    stand.close()
    folder = stand.shards[0].folder
    gone = folder.current()
    assert gone is not None
    shutil.rmtree(gone.parent if with_its_folder else gone)
    restored(stand, manifest, stand.shards[0].directory, replace=False)
    assert folder.current() not in (None, gone)
    assert content_position(stand) == manifest.entry(0).position.offset


class TestPlan:
    def test_says_what_each_shard_will_have_to_read(self, manifest: Manifest) -> None:
        made = plan(manifest, facts_of(manifest), home_of(manifest, shards=None, keeps=()), None)
        assert [(step.entry.shard, step.behind) for step in made.steps] == [(0, 7), (1, 7)]
        assert [s.entry.shard for s in plan(manifest, facts_of(manifest), home_of(manifest), [1]).steps] == [1]

    def test_refuses_what_the_log_no_longer_holds(self, manifest: Manifest) -> None:
        """FAULTS 16: it would skip deletes."""
        offset = manifest.entry(1).position.offset
        plan(manifest, facts_of(manifest, starts=(0, offset)), home_of(manifest), None)
        with pytest.raises(Refused, match=rf"offset {offset}, and the log begins at {offset + 1}") as raised:
            plan(manifest, facts_of(manifest, starts=(0, offset + 1)), home_of(manifest), None)
        assert (
            "`kycache rebuild --shard 1 --epoch`" in raised.value.remedy
        )  # without, the log lacks its start as well
        assert "resurrect" in raised.value.remedy
        with pytest.raises(Refused, match=f"the log ends at {offset - 1}") as raised:
            plan(manifest, facts_of(manifest, ends=(1 << 40, offset - 1)), home_of(manifest), None)
        assert (
            raised.value.remedy == "run `kycache rebuild --epoch`"
        )  # an older snapshot reads what was lost neither

    @pytest.mark.parametrize(
        ("topic", "home", "why"),
        [
            ({"id": "another"}, {}, "with id another"),
            ({"starts": (0,)}, {}, "2 shards, topic 'kyc.changes' has 1"),
            ({}, {"view": "0123"}, "view definition"),
            ({}, {"shards": 3}, "data has 3"),
            ({}, {"epoch": 1}, "of epoch 0, data of 1"),
            ({}, {"free_bytes": 1000}, "0 MiB are free"),
        ],
    )
    def test_refuses_what_does_not_fit(
        self, manifest: Manifest, topic: dict[str, Any], home: dict[str, Any], why: str
    ) -> None:
        with pytest.raises(Refused, match=why):
            plan(manifest, facts_of(manifest, **topic), home_of(manifest, **home), None)

    def test_refuses_a_shard_it_does_not_hold_or_that_was_not_whole(self, manifest: Manifest) -> None:
        with pytest.raises(Refused, match="does not hold shard 7"):
            plan(manifest, facts_of(manifest), home_of(manifest), [7])
        young = tuple(msgspec.structs.replace(entry, bootstrapped=False) for entry in manifest.shards)
        with pytest.raises(Refused, match="still bootstrapping"):
            plan(msgspec.structs.replace(manifest, shards=young), facts_of(manifest), home_of(manifest), None)


def test_a_file_that_is_another_than_its_manifest_says_is_refused(tmp_path: Path) -> None:
    """Sealed with the right key and all hashes right, and yet of another moment: the live shard is untouched."""
    stand = Stand.make(tmp_path)
    manifest = stand.take()
    stand.close()
    folder = stand.shards[0].folder
    before = sorted(folder.path.iterdir())
    wrong = msgspec.structs.replace(manifest.entry(0), users=manifest.entry(0).users + 1)
    wrong_manifest = msgspec.structs.replace(manifest, shards=(wrong,))
    with pytest.raises(Refused, match="is not what its manifest says"):
        restored(stand, wrong_manifest, stand.shards[0].directory)
    assert [p for p in sorted(folder.path.iterdir()) if p.name != "generations.lock"] == [
        p for p in before if p.name != "generations.lock"
    ]
