"""Compacting in place: smaller, equal, and nothing that happened meanwhile is lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from kycache.actors.files.home import Home
from kycache.actors.generations.compaction import Sizes, compact, sizes
from kycache.actors.generations.hot_copy import CopyLimits
from kycache.actors.generations.takeover import take_over_when_due
from kycache.actors.integrity.vouching import mark_of, vouch
from kycache.cli.main import main
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import Topic
from kycache.ingest.remedies import bring
from kycache.model.errors import Refused
from support.snapshot_stand import VIEW, Stand

KAFKA = KafkaSettings("nowhere:1")


def generation_of(stand: Stand) -> Path:
    generation = stand.shards[0].folder.current()
    assert generation is not None
    return generation


def compacted(stand: Stand, meanwhile: Callable[[], None] = lambda: None) -> Sizes:
    """As the command does beside the holder: copied from outside, brought into use with the actor stopped."""
    shard = stand.shards[0]
    generation = generation_of(stand)

    def use(made: Path) -> None:
        meanwhile()
        shard.store.close()
        try:
            home = Home(shard.directory, shard.environments, VIEW)
            bring.bring_compacted(KAFKA, home, 0, made.name, generation.name)
        finally:
            reopen(stand)

    opened = shard.environments
    return compact(opened, shard.folder, generation, VIEW, CopyLimits(), shard.directory.run, use)


def reopen(stand: Stand) -> None:
    """As ingest opens the shard."""
    shard = stand.shards[0]
    until = take_over_when_due(shard.environments, shard.folder)
    shard.folder.clean()
    if until is None:
        shard.store = shard._open()
    else:
        building = shard.folder.building()
        assert building is not None
        with patch.object(shard.folder, "current", lambda: building):
            shard.store = shard._open()
    shard._offset = shard.store.opened_at.position.offset


def assert_equals_source(stand: Stand) -> None:
    shard = stand.shards[0]
    for user in stand.source.users:
        assert shard.detail(bytes.fromhex(user.replace("-", ""))) == stand.source.profile(user)
    assert shard.state.users == len(stand.source.users)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand.make(tmp_path, rounds=60)


def test_a_compacted_shard_is_smaller_and_equal(stand: Stand) -> None:
    """What it says beforehand is what comes of it; where nothing was committed meanwhile it serves at once."""
    shard = stand.shards[0]
    old = generation_of(stand)
    before = shard.state
    expected = sizes(shard.environments, shard.folder, old)
    found = compacted(stand)
    assert found == expected
    assert found.after < found.before
    assert generation_of(stand) != old
    assert [path.name for path in shard.folder.path.glob("gen-*")] == [generation_of(stand).name]
    assert (generation_of(stand) / "data.mdb").stat().st_size == found.after
    assert shard.state == before
    assert_equals_source(stand)
    stand.go_on(5)
    assert_equals_source(stand)
    stand.close()


def test_what_was_committed_meanwhile_is_read_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers keep the former file until the copy is as new."""
    shard = stand.shards[0]
    monkeypatch.setattr(bring, "describe_topic", lambda _: topic_of(stand))
    old, position = generation_of(stand), shard.state.position.offset
    compacted(stand, lambda: stand.go_on(3))
    assert generation_of(stand) == old
    assert shard.folder.building() is not None
    assert shard.store.opened_at.position.offset == position
    stand.follow(shard)
    shard.store.close()
    reopen(stand)
    assert generation_of(stand) != old
    assert shard.folder.building() is None
    assert_equals_source(stand)
    stand.close()


def topic_of(stand: Stand, start: int = 0) -> Topic:
    position = stand.shards[0].state.position
    return Topic(position.topic, position.topic_id, 1, (start,))


def test_refused_where_it_would_lose_something(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = stand.shards[0]
    old = generation_of(stand)
    # The log no longer holds what was committed meanwhile.
    monkeypatch.setattr(bring, "describe_topic", lambda _: topic_of(stand, 1 << 40))
    with pytest.raises(Refused, match="the log holds no more what was committed"):
        compacted(stand, lambda: stand.go_on(1))
    # A record left quarantine: the copy would bring it back.
    kept = [{2}, {1, 2}]
    monkeypatch.setattr(bring, "kept_offsets", lambda _txn, _databases: set(kept.pop()))
    with pytest.raises(Refused, match="left its quarantine"):
        compacted(stand)
    monkeypatch.undo()
    # It was rebuilt, or another generation came into use.
    other = shard.folder.path / f"gen-{1 << 60}"

    def rebuilt() -> None:
        shutil.copytree(old, other)
        vouch(other, mark_of(other))
        shard.folder.build(other)

    with pytest.raises(Refused, match="rebuilt or restored"):
        compacted(stand, rebuilt)
    assert generation_of(stand).name == f"gen-{1 << 60}"  # it was as new, and took over
    old = generation_of(stand)
    shard.folder.clean()  # the refused copy, as the next start of the shard does
    assert [path.name for path in shard.folder.path.glob("gen-*")] == [old.name]
    assert_equals_source(stand)
    stand.close()


def test_the_command_where_no_ingest_runs(stand: Stand, capfd: pytest.CaptureFixture[str]) -> None:
    stand.close()
    old = generation_of(stand)
    file = stand.root / "kycache.toml"
    file.write_text('[data]\ndir = "data"\nmap_size_gib = 1.0\n')

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(["--config", str(file), "compact", "--json", *arguments])
        code = ended.value.code
        return (code if isinstance(code, int) else int(code is not None)), capfd.readouterr().out

    code, said = run("--dry-run")
    assert code == 0
    assert generation_of(stand) == old
    (shard,) = json.loads(said)["shards"]
    code, said = run()
    assert code == 0
    assert json.loads(said) == {"dryRun": False, "shards": [shard]}
    assert generation_of(stand) != old
    assert len(list(stand.shards[0].folder.path.glob("gen-*"))) == 1
    reopen(stand)
    assert_equals_source(stand)
    code, _ = run("--shard", "1")
    assert code == 5
    stand.shards[0].folder.build(stand.shards[0].folder.next_generation())
    assert run()[0] == 5
    stand.shards[0].folder.flip(generation_of(stand))
    stand.close()
