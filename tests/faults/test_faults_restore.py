"""FAULTS 14: restore killed anywhere, and on a full disk: the old file or the new one, and no leftovers."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from kycache.cli.support.transfer import room_wanted
from kycache.model.errors import Refused
from kycache.snapshots import restore
from kycache.snapshots.home import home_facts
from kycache.snapshots.plan import plan
from support.faults import in_child, kill_at, seeds
from support.small_disk import MIB, Resize
from support.snapshot_stand import VIEW, Stand, content_position, facts_of, restored

KILLS = len(seeds(8))
SEED = 6
STEPS = 60
"""A restore has about as many on the file system."""


def written(files: dict[str, bytes]) -> Callable[..., None]:
    """As `fetch` ends: its library's threads do not live on in a fork."""

    def write(*about: Any) -> None:
        manifest, generation = about[2], about[4]
        descriptor = os.open(generation / "data.mdb", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, files[manifest.id])
        os.fsync(descriptor)
        os.close(descriptor)

    return write


def test_killed_anywhere_it_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two snapshots by turns; the next start removes what is left over."""
    stand = Stand.make(tmp_path, rounds=10)
    manifests = [stand.take()]
    stand.go_on(5)
    manifests.append(stand.take())
    stand.close()
    folder = stand.shards[0].folder
    files = {manifest.id: (stand.fetched(manifest) / "data.mdb").read_bytes() for manifest in manifests}
    monkeypatch.setattr(restore, "fetch", written(files))
    store, keys = stand.store(), stand.keys()
    seen, kills = set(), 0
    rng = Random(SEED)
    for number in range(KILLS):
        before = content_position(stand)
        (manifest,) = [m for m in manifests if m.entry(0).position.offset != before] or manifests[:1]
        step = rng.randrange(1, STEPS)
        lived = in_child(
            kill_at(step, lambda: restored(stand, manifest, stand.shards[0].directory, store=store, keys=keys))  # noqa: B023
        )
        found = content_position(stand)
        assert found in (before, manifest.entry(0).position.offset), f"kill {number}, step {step} of seed {SEED}"
        seen.add((lived, found == before))
        kills += not lived
        folder.clean()
        assert len(list(folder.path.glob("gen-*"))) == 1
        assert not list(folder.path.glob(".CURRENT*"))
    assert len(seen) > 1, seen
    assert kills >= KILLS // 3, f"only {kills} of {KILLS} steps were met"


def test_a_disk_that_fills_up_leaves_the_old_one(tmp_path: Path, disk: Path, resize: Resize) -> None:
    """Told with what next; nothing is left behind; with room again the same restore is done."""
    stand = Stand.make(disk, rounds=60)
    stand.set(store=(tmp_path / "store").as_uri())
    manifest = stand.take()
    stand.go_on(5)
    stand.close()
    shard = stand.shards[0]
    before = content_position(stand)
    needed = manifest.entry(0).raw_bytes
    taken = sum(path.stat().st_blocks * 512 for path in disk.rglob("*"))
    resize(taken + needed // 2)
    with pytest.raises(Refused, match="0 MiB are free in"):
        plan(manifest, facts_of(manifest), home_facts(shard.directory, VIEW.hash), None)
    with pytest.raises(Refused, match="shard 0: it cannot be written below") as full, room_wanted(0, disk):
        restored(stand, manifest, shard.directory)
    assert "No space left" in full.value.problem
    assert "make room there, then run the command again" in full.value.remedy
    assert len(list(shard.folder.path.glob("gen-*"))) == 1
    assert content_position(stand) == before
    resize(64 * MIB)
    restored(stand, manifest, shard.directory)
    shard.folder.clean()
    assert content_position(stand) == manifest.entry(0).position.offset
    assert len(list(shard.folder.path.glob("gen-*"))) == 1


def test_what_the_system_refuses_names_the_shard_and_the_folder(tmp_path: Path) -> None:
    problem = f"shard 3: it cannot be written below {tmp_path}: Disk quota"
    with pytest.raises(Refused, match=problem) as refused, room_wanted(3, tmp_path):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
    assert refused.value.exit_code == 5
