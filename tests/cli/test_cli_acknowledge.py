"""`kycache rebuild --acknowledge` on shards that nobody holds, and what it refuses."""

from pathlib import Path

import pytest

from kycache.model.change import Beat, Origin, Snapshot
from kycache.model.definition import default_view
from support.command_line import RunCommand
from support.shards import ShardUnderTest

SHARDS = 2


def streamed(lsn: int) -> Origin:
    return Origin(Snapshot.STREAMED, lsn - 10, lsn, 1_700_000_000_000 + lsn, 7)


def is_altered(shard: ShardUnderTest) -> bool:
    return shard.state.altered is not None


@pytest.fixture
def altered(tmp_path: Path, no_settings: Path) -> list[ShardUnderTest]:  # noqa: ARG001 (its effect)
    """Two shards, of which the second has seen another catalog; closed, as no ingest runs."""
    (tmp_path / "kycache.toml").write_text("[kafka]\nbootstrap = '127.0.0.1:1'\n", encoding="utf-8")
    made = [ShardUnderTest(tmp_path / "data", default_view(), shard=n, shards=SHARDS) for n in range(SHARDS)]
    for shard, later in zip(made, ("a", "b"), strict=True):
        whole = Origin(Snapshot.WHOLE, None, 1000, 1, None)
        shard.apply(
            [Beat(0, whole, (), "a"), Beat(1, streamed(1100), (), "a"), Beat(2, streamed(1200), (), later)]
        )
        shard.close()
    return made


def test_it_is_said_first_and_done_once(kycache_process: RunCommand, altered: list[ShardUnderTest]) -> None:
    expected = "shard 0: not altered\nshard 1: what the view reads was altered at the source, "
    dry = kycache_process("rebuild", "--acknowledge", "--dry-run")
    assert (dry.code, dry.out.startswith(expected), "acknowledged" in dry.out) == (0, True, False)
    assert "altered at the source" in kycache_process("status", "--json").out
    done = kycache_process("rebuild", "--acknowledge", "--yes")
    assert done.out.startswith(expected)
    assert done.out.endswith("shard 1: acknowledged\n")
    assert "altered at the source" not in kycache_process("status", "--json").out
    again = kycache_process("rebuild", "--acknowledge")
    assert (again.code, again.out) == (0, "shard 0: not altered\nshard 1: not altered\n")
    opened = ShardUnderTest(altered[1].directory.root, default_view(), shard=1, shards=SHARDS)
    opened.apply([Beat(3, streamed(1300), (), "b")])
    assert not is_altered(opened)
    opened.apply([Beat(4, streamed(1400), (), "c")])
    assert is_altered(opened)
    opened.close()


def test_one_shard_only(kycache_process: RunCommand, altered: list[ShardUnderTest]) -> None:  # noqa: ARG001 (its effect)
    assert kycache_process("rebuild", "--acknowledge", "--shard", "0").out == "shard 0: not altered\n"
    assert "altered at the source" in kycache_process("status", "--json").out
    assert kycache_process("rebuild", "--acknowledge", "--shard", "7").code == 5


@pytest.mark.parametrize("option", ["--epoch", "--replace"])
def test_it_rebuilds_nothing(kycache_process: RunCommand, altered: list[ShardUnderTest], option: str) -> None:  # noqa: ARG001
    ended = kycache_process("rebuild", "--acknowledge", option)
    assert ended.code == 2
    assert "rebuilds nothing" in ended.err


def test_while_it_is_rebuilt_it_is_refused(kycache_process: RunCommand, altered: list[ShardUnderTest]) -> None:
    folder = altered[1].folder
    folder.build(folder.next_generation())
    ended = kycache_process("rebuild", "--acknowledge")
    assert ended.code == 5
    assert "shard 1 is being rebuilt" in ended.err
