"""An epoch that was ordered for one shard: the snapshots of the others come back as before, its own do not."""

from pathlib import Path

import pytest

from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import Topic
from kycache.ingest.remedies import rebuild
from kycache.model.errors import Refused
from kycache.snapshots.home import home_facts
from kycache.snapshots.plan import plan
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
