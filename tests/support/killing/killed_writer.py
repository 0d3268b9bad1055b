"""A shard's writer in a process of its own: `python -m support.killing.killed_writer FOLDER SEED`."""

import random
import sys
from pathlib import Path

from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from support.pipeline.fake_source import FakeSource
from support.shards import ShardUnderTest

BATCH = 6


def items_of(seed: int) -> list[Item]:
    """A snapshot and some hundred changes behind it."""
    source = FakeSource(random.Random(seed), 1)
    source.snapshot()
    for _ in range(40):
        source.transactions(4)
        source.beat()
    decoder = RecordDecoder(default_view())
    return [decoder.decode(record) for record in source.records()[0]]


def main() -> None:
    """Go on from where the shard stands, and say so after each batch."""
    shard = ShardUnderTest(Path(sys.argv[1]), default_view())
    items = items_of(int(sys.argv[2]))
    for first in range(shard.state.position.offset, len(items), BATCH):
        shard.apply(items[first : first + BATCH])
        print(first, flush=True)


if __name__ == "__main__":
    main()
