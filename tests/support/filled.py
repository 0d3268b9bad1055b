"""A shard with some history, for tests that spoil files."""

from pathlib import Path
from random import Random

from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from support.pipeline.fake_source import FakeSource
from support.shards import ShardUnderTest

VIEW = default_view()


def items_of(source: FakeSource) -> list[Item]:
    decoder = RecordDecoder(VIEW)
    return [decoder.decode(record) for record in source.records()[0]]


def filled(folder: Path, rounds: int = 30) -> tuple[ShardUnderTest, FakeSource]:
    source = FakeSource(Random(5), 1)
    source.snapshot()
    for _ in range(rounds):
        source.transactions(3)
    source.beat()
    shard = ShardUnderTest(folder, VIEW)
    shard.apply(items_of(source))
    return shard, source
