"""FAULTS 14: kill -9 anywhere in create and prune, and a full disk: old or new, never mixed, and no leftovers.

`KYCACHE_TEST_KILLS=200` kills more often, and `KYCACHE_TEST_SEED` elsewhere.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from snapshot_stand import Stand

from kycache.model.errors import Unreachable
from kycache.snapshots.listing import Condition, survey

KILLS = int(os.environ.get("KYCACHE_TEST_KILLS", "6"))
SEED = os.environ.get("KYCACHE_TEST_SEED", "14")
KILLER = Path(__file__).parent / "snapshot_killer.py"


@pytest.mark.parametrize("command", ["create", "prune"])
def test_killed_anywhere(tmp_path: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLER), str(tmp_path), command, SEED, str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["kills"] >= min(KILLS, outcome["steps"]) * 0.8, outcome


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with little room."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """It is told, nothing is listed as whole, and with room again the next run goes on and leaves nothing else."""
    stand = Stand.make(tmp_path, 3, rounds=60)
    needed = sum(entry.stored_bytes for entry in stand.take().shards)
    subprocess.run(["mount", "-o", f"remount,size={needed // 2}", str(small_disk)], check=True)
    stand.set(store=(small_disk / "store").as_uri(), part_bytes=32 << 10)
    with pytest.raises(Unreachable, match="cannot write") as full:
        stand.take()
    assert "make room" in full.value.remedy
    assert Condition.WHOLE not in [found.condition for found in survey(stand.store(), stand.keys())]
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    manifest = stand.take()
    (found,) = survey(stand.store(), stand.keys())
    assert (found.id, found.condition) == (manifest.id, Condition.WHOLE)
    assert len(list((small_disk / "store" / manifest.id).iterdir())) == 4
    stand.close()
