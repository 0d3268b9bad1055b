"""Compaction in place under faults: whoever is killed, and on a full disk, it is the old file or the new one."""

from pathlib import Path
from random import Random

import pytest

from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.files.meta import read_state
from kycache.actors.generations import compaction
from kycache.actors.generations.compaction import Sizes, check_room, compact
from kycache.actors.generations.hot_copy import CopyLimits
from kycache.actors.generations.takeover import state_of
from kycache.actors.integrity.child_walk import Facts
from kycache.actors.rules.state import ShardState
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.remedies.bring import bring_compacted
from kycache.model.errors import Refused
from support.faults import in_child, kill_at, seeds
from support.snapshot_stand import VIEW, Stand, content_position

KILLS = len(seeds(8))
SEED = 7

NOWHERE = KafkaSettings("127.0.0.1:1")
"""Nothing is to be read on where nothing was committed since."""


def opened() -> Environments:
    return Environments(readonly=False, map_size=1 << 30)


def compacted(stand: Stand) -> Sizes:
    """As `kycache compact` does where nobody holds the shard."""
    shard = stand.shards[0]
    generation = shard.folder.current()
    assert generation is not None
    environments = opened()

    def use(made: Path) -> None:
        bring_compacted(NOWHERE, Home(shard.directory, environments, VIEW), 0, made.name, generation.name)

    run = shard.directory.run
    return compact(environments, shard.folder, generation, VIEW, CopyLimits(), run, use)


def grown(root: Path) -> Stand:
    """A shard with a history, so with free pages."""
    return Stand.make(root, rounds=40)


def test_a_disk_without_room_is_seen_before(tmp_path: Path) -> None:
    stand = grown(tmp_path)
    with pytest.raises(Refused, match="are free"):
        check_room(stand.shards[0].folder, Sizes(1 << 62, 1 << 61))
    stand.close()


def test_a_disk_that_fills_up_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = grown(tmp_path)
    stand.close()
    old = content_position(stand)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compaction, "_write", full)
    with pytest.raises(OSError, match="No space"):
        compacted(stand)
    assert content_position(stand) == old
    assert len(list(stand.shards[0].folder.path.glob("gen-*"))) == 1


def test_killed_anywhere_it_is_the_old_one_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 14: and the next start removes what is left over."""
    stand = grown(tmp_path)
    stand.close()
    shard = stand.shards[0]
    position = content_position(stand)

    def looked(made: Path, *_: object) -> Facts:
        """In place of the walk's child, which a fork of many threads does not start: what it would say."""
        return Facts(shard.identity, _state(made), full=True)

    def _state(made: Path) -> ShardState:
        environments = opened()
        environment, databases = environments.lease(made, 0)
        try:
            with environment.begin() as txn:
                return read_state(txn, databases)
        finally:
            environments.release(made)

    monkeypatch.setattr(compaction, "walk_in_child", looked)
    seen, kills = set(), 0
    rng = Random(SEED)
    for _ in range(KILLS):
        step = rng.randrange(1, 60)
        before = shard.folder.current()
        lived = in_child(kill_at(step, lambda: compacted(stand)))
        kills += not lived
        seen.add((lived, shard.folder.current() == before))
        shard.folder.clean()
        assert content_position(stand) == position, f"step {step} of seed {SEED}"
        current = shard.folder.current()
        assert current is not None
        assert state_of(opened(), shard.folder, current) is not None
        assert list(shard.folder.path.glob("gen-*")) == [current]
        assert not list(shard.folder.path.glob(".CURRENT*"))
    assert len(seen) > 1, seen
    assert kills >= KILLS // 3, f"only {kills} of {KILLS} steps were met"
