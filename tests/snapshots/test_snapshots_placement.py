"""Which shards a snapshot is taken of: those that ingest reads here, all that lie here where it reads none."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.shard_folder import ShardLock
from kycache.actors.files.snapshot_report import read_report
from kycache.cli.commands.snapshot import _lacking
from kycache.model.errors import Refused
from kycache.snapshots import placement as placing
from kycache.snapshots.placement import placement
from support.command_line import RunCommand
from support.snapshot_stand import Stand

SHARDS = 4


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    stand = Stand.make(tmp_path, SHARDS)
    stand.close()
    return stand.shards[0].directory


@pytest.fixture
def holding(directory: DataDirectory) -> Iterator[list[ShardLock]]:
    """An ingest that reads shards 0 and 1."""
    held = [_locked(directory, 0), _locked(directory, 1)]
    yield held
    for lock in held:
        lock.release()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "HELD_WAIT_S", 0.0)


def _locked(directory: DataDirectory, shard: int) -> ShardLock:
    lock = directory.shard(shard).lock()
    assert lock is not None
    return lock


def test_without_ingest_whatever_lies_here(directory: DataDirectory) -> None:
    """It cannot be known whether what has no file is another node's or lost: both are said."""
    assert placement(directory, SHARDS) == ([0, 1, 2, 3], [], "")
    shutil.rmtree(directory.shard(2).path)
    own, strays, said = placement(directory, SHARDS)
    assert (own, strays) == ([0, 1, 3], [])
    assert said.startswith("left out: shard 2: has no file here")
    assert "or lost" in said
    for shard in own:
        shutil.rmtree(directory.shard(shard).path)
    with pytest.raises(Refused, match="holds no shard's file yet"):
        placement(directory, SHARDS)


@pytest.mark.usefixtures("holding", "at_once")
def test_what_a_shard_left_that_nobody_reads_here(directory: DataDirectory) -> None:
    assert placement(directory, SHARDS) == ([0, 1], [2, 3], "")
    shutil.rmtree(directory.shard(3).path)
    said = "left out: shard 3: has no file here: it is another node's"
    assert placement(directory, SHARDS) == ([0, 1], [2], said)


@pytest.mark.usefixtures("holding")
def test_a_shard_that_changes_hands_is_waited_for(
    directory: DataDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next holder comes while it is looked at; without a file there is nothing to wait for."""
    shutil.rmtree(directory.shard(3).path)
    taken: list[ShardLock] = []
    monkeypatch.setattr(placing, "sleep", lambda _: taken.append(_locked(directory, 2)))
    assert placement(directory, SHARDS)[:2] == ([0, 1, 2], [])
    for lock in taken:
        lock.release()


@pytest.mark.usefixtures("at_once")
def test_the_command(directory: DataDirectory, holding: list[ShardLock], kycache: RunCommand) -> None:
    """What nobody reads is not copied, and counted until it is mended; another node's is said, and no failure."""
    store = directory.root.parent / "store"
    config = directory.root.parent / "kycache.toml"
    config.write_text(f'[data]\ndir = "data"\nmap_size_gib = 1.0\n[snapshots]\nstore = "{store.as_uri()}"\n')

    def shards_of(*words: str) -> tuple[int, list[int], str]:
        ended = kycache("--config", config, "snapshot", "create", "--json", *words)
        return ended.code, [entry["shard"] for entry in json.loads(ended.out)["shards"]], ended.err

    shutil.rmtree(directory.shard(3).path)
    code, taken, said = shards_of()
    assert (code, taken) == (5, [0, 1])
    assert "the snapshot is without shard 2: shard 2: no ingest holds it" in said
    assert "remove its folder here" in said
    report = read_report(directory)
    assert (report.at, report.failures) == ("", 1)
    assert shards_of("--shard", "2") == (0, [2], "")
    shutil.rmtree(directory.shard(2).path)
    code, taken, said = shards_of()
    assert (code, taken) == (0, [0, 1])
    assert said.startswith("left out: shard 2, 3: ")
    assert read_report(directory).problem == ""
    holding.append(_locked(directory, 2))
    code, taken, said = shards_of()
    assert (code, taken) == (5, [0, 1])
    assert "the snapshot is without shard 2: shard 2 has no file here" in said


def test_many_that_are_lacking_are_told_in_a_line() -> None:
    lacking = _lacking({shard: Refused(f"shard {shard}: why", f"mend {shard}") for shard in range(1000)})
    assert lacking is not None
    assert lacking.problem.startswith("the snapshot is without 1000 shards: shard 0: why; ")
    assert lacking.problem.endswith("shard 4: why; and 995 more")
    assert lacking.remedy == "mend 0"
