"""An epoch that was ordered for one shard, and the unit of times that an epoch's log has."""

import json
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.rules.state import Identity
from kycache.actors.store.store import FORMAT, Store
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import Topic
from kycache.ingest.remedies import rebuild
from kycache.model.definition import parse_view
from kycache.model.errors import Refused
from kycache.model.scalars.times import TimePrecision
from kycache.snapshots.home import home_facts
from kycache.snapshots.plan import AnotherUnit, plan
from support.shards import TOPIC, TOPIC_ID
from support.snapshot_stand import VIEW, Stand, facts_of


def test_an_epoch_of_one_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand.make(tmp_path, 2)
    before = stand.take()
    ends = {shard: before.entry(shard).position.offset for shard in (0, 1)}
    monkeypatch.setattr(rebuild, "describe_topic", lambda _: Topic(TOPIC, TOPIC_ID, 2, (0, 0)))
    directory = stand.shards[0].directory
    node = rebuild.begin_epoch(KafkaSettings("nowhere:1"), directory, ends, [0])
    assert (node.epoch, node.oldest) == (1, (1, 0))
    since = stand.take()
    assert [entry.shard for entry in since.shards] == [1]
    for manifest in (before, since):
        (step,) = plan(manifest, facts_of(before), home_facts(directory, VIEW.hash), [1]).steps
        assert step.entry.epoch == 0
    with pytest.raises(Refused, match="shard 0 is of epoch 0"):
        plan(before, facts_of(before), home_facts(directory, VIEW.hash), [0])
    assert rebuild.begin_epoch(KafkaSettings("nowhere:1"), directory, ends, [0, 1]).oldest == (2, 2)
    with pytest.raises(Refused, match="shard 1 is of epoch 0"):
        plan(since, facts_of(before), home_facts(directory, VIEW.hash), [1])
    stand.close()


def test_a_directory_of_before_is_adaptive(tmp_path: Path) -> None:
    """Neither it nor its files and snapshots say a unit; new ones do."""
    directory = DataDirectory(tmp_path)
    made = directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2)
    assert made.times is TimePrecision.MICROSECONDS
    said = json.loads((tmp_path / "node.json").read_text(encoding="utf-8"))
    assert said.pop("times") == "microseconds"
    (tmp_path / "node.json").write_text(json.dumps(said), encoding="utf-8")
    assert directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2).times is TimePrecision.ADAPTIVE
    assert directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2, TimePrecision.ADAPTIVE).times is TimePrecision.ADAPTIVE
    with pytest.raises(Refused, match=r"reads a log in time\.precision\.mode=adaptive, .* says micro"):
        directory.found(VIEW.hash, TOPIC, TOPIC_ID, 2, TimePrecision.MICROSECONDS)
    before = msgspec.to_builtins(Identity(FORMAT, 0, 1, VIEW.hash))
    assert before.pop("times") == "adaptive"
    assert msgspec.convert(before, Identity).times is TimePrecision.ADAPTIVE


def test_another_unit_needs_another_topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No log is read in two units, whichever way a shard is started over."""
    directory = DataDirectory(tmp_path)
    directory.found(VIEW.hash, TOPIC, TOPIC_ID, 1, TimePrecision.ADAPTIVE)
    environments = Environments(readonly=False, map_size=1 << 22)
    asked = KafkaSettings("nowhere:1", topic=TOPIC, times=TimePrecision.MICROSECONDS)
    plain = KafkaSettings("nowhere:1", topic=TOPIC)
    text = (files("kycache.model") / "kyc.toml").read_text(encoding="utf-8")
    other = parse_view(text.replace('name = "phone", type = "text"', 'name = "phone", type = "int"'), "x")
    monkeypatch.setattr(rebuild, "describe_topic", lambda _: Topic(TOPIC, TOPIC_ID, 1, (0,)))
    for start_over in (
        lambda: rebuild.begin_epoch(asked, directory, {0: 5}, [0]),
        lambda: rebuild.rebuild(asked, Home(directory, environments, VIEW), 0),
        lambda: rebuild.rebuild_for(asked, Home(directory, environments, other)),
    ):
        before = directory.node()
        with pytest.raises(Refused, match="no log is read in two units"):
            start_over()
        assert directory.node() == before
    assert rebuild.begin_epoch(plain, directory, {0: 5}, [0]).times is TimePrecision.ADAPTIVE
    monkeypatch.setattr(rebuild, "describe_topic", lambda _: Topic(TOPIC, "made anew", 1, (0,)))
    assert rebuild.begin_epoch(plain, directory, {0: 0}, [0]).times is TimePrecision.ADAPTIVE
    monkeypatch.setattr(rebuild, "describe_topic", lambda _: Topic(TOPIC, "and again", 1, (0,)))
    assert rebuild.begin_epoch(asked, directory, {0: 0}, [0]).times is TimePrecision.MICROSECONDS
    directory.shard(0).prepare()
    rebuild.rebuild(asked, Home(directory, environments, VIEW), 0)
    generation = directory.shard(0).current()
    assert generation is not None
    store = Store(environments, generation, VIEW, Identity(FORMAT, 0, 1, VIEW.hash), directory.add_doubts)
    assert store.times is TimePrecision.MICROSECONDS
    store.close()


def test_a_snapshot_comes_back_into_its_unit_or_not_at_all(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, 1)
    manifest = stand.take()
    assert manifest.entry(0).times is TimePrecision.MICROSECONDS
    directory, facts = stand.shards[0].directory, facts_of(manifest)
    assert plan(manifest, facts, home_facts(directory, VIEW.hash), None).steps
    directory.rehome(lambda node: msgspec.structs.replace(node, times=TimePrecision.ADAPTIVE))
    with pytest.raises(AnotherUnit, match=r"a log in time\.precision\.mode=microseconds, .* in adaptive"):
        plan(manifest, facts, home_facts(directory, VIEW.hash), None)
    empty = DataDirectory(tmp_path / "new")
    assert plan(manifest, facts, home_facts(empty, VIEW.hash), None).steps
    with pytest.raises(AnotherUnit):
        plan(manifest, facts, home_facts(empty, VIEW.hash, TimePrecision.ADAPTIVE), None)
    entry = msgspec.to_builtins(manifest.entry(0))
    assert entry.pop("times") == "microseconds"
    assert msgspec.convert(entry, type(manifest.entry(0))).times is TimePrecision.ADAPTIVE  # of before
    stand.close()
