"""FAULTS 14: kill -9 anywhere in create and prune, and a full disk: old or new, never mixed, and no leftovers."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from kycache.model.errors import Unreachable
from kycache.snapshots.storage.listing import Condition, survey
from support.command_line import RunCommand
from support.faults import seeds
from support.small_disk import MIB, Resize
from support.snapshot_stand import Stand

KILLS = len(seeds(6))
SEED = 14
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("command", ["create", "prune"])
def test_killed_anywhere(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "support.killing.snapshot_killer", str(tmp_path), command, str(SEED), str(KILLS)],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 + 5 * KILLS,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] >= min(KILLS, outcome["steps"]) * 0.8, outcome


def test_a_full_disk(tmp_path: Path, disk: Path, resize: Resize) -> None:
    """It is told, nothing is listed as whole, and with room again the next run goes on and leaves nothing else."""
    stand = Stand.make(tmp_path, 3, rounds=60)
    needed = sum(entry.stored_bytes for entry in stand.take().shards)
    resize(needed // 2)
    stand.set(store=(disk / "store").as_uri(), part_bytes=32 << 10)
    with pytest.raises(Unreachable, match="cannot write") as full:
        stand.take()
    assert "make room" in full.value.remedy
    assert Condition.WHOLE not in [found.condition for found in survey(stand.store(), stand.keys())]
    resize(64 * MIB)
    manifest = stand.take()
    (found,) = survey(stand.store(), stand.keys())
    assert (found.id, found.condition) == (manifest.id, Condition.WHOLE)
    assert len(list((disk / "store" / manifest.id).iterdir())) == 4
    stand.close()


def test_a_full_disk_below_the_data_costs_no_snapshot(tmp_path: Path, disk: Path, kycache: RunCommand) -> None:
    """Into a store elsewhere: on a full disk it is wanted most. Only what is told of it finds no room."""
    stand = Stand.make(disk, 2, rounds=30)
    stand.close()
    config = tmp_path / "kycache.toml"
    store = (tmp_path / "store").as_uri()
    config.write_text(f'[data]\ndir = "{disk}/data"\nmap_size_gib = 1.0\n[snapshots]\nstore = "{store}"\n')
    assert kycache("--config", config, "snapshot", "create").code == 0  # makes its lock
    with (disk / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    ended = kycache("--config", config, "snapshot", "create", "--json")
    assert ended.code == 5
    assert "snapshots.json cannot be written: No space left" in ended.err
    stand.set(store=store)
    assert ended.json["id"] in [
        f.id for f in survey(stand.store(), stand.keys()) if f.condition is Condition.WHOLE
    ]
