"""A paused partition is read on after it: kafka-python's own fetcher, which forgets it, without a broker."""

from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.record import MemoryRecords, MemoryRecordsBuilder

from kycache.ingest.consuming.client import go_on

OURS, OTHER = TopicPartition("t", 0), TopicPartition("t", 1)
RECORDS, TAKEN = 10, 4


def parsed(fetcher: Any, tp: TopicPartition) -> Any:
    """Records of one partition, as the fetcher holds them between polls."""
    builder = MemoryRecordsBuilder(magic=2, compression_type=0, batch_size=1 << 20)
    for _ in range(RECORDS):
        builder.append(timestamp=1, key=b"k", value=b"v")
    builder.close()
    records = MemoryRecords(builder.buffer())
    return fetcher.PartitionRecords(0, tp, records, on_drain=lambda _: None)


def test_what_was_set_aside_of_a_paused_partition_is_fetched_again() -> None:
    """Two readings of a poll take a part of a block; then the shard is opened anew, while others have changes."""
    subscriptions = SubscriptionState()
    subscriptions.assign_from_user([OURS, OTHER])
    for tp in (OURS, OTHER):
        subscriptions.seek(tp, 0)
    client = SimpleNamespace(_manager=SimpleNamespace(_net=None))
    fetcher = Fetcher(client, subscriptions)
    fetcher._next_partition_records = parsed(fetcher, OURS)
    assert len(fetcher.fetched_records(TAKEN)[0][OURS]) == TAKEN
    subscriptions.pause(OURS)
    assert fetcher.fetched_records(TAKEN)[0] == {}
    assert list(fetcher._paused_partition_records) == [OURS]
    fetcher._next_partition_records = parsed(fetcher, OTHER)
    while fetcher.fetched_records(TAKEN)[0]:
        pass
    subscriptions.resume(OURS)
    # What the library does alone; where it does no more, `go_on` is not needed any more either.
    assert fetcher.fetched_records(TAKEN)[0] == {}
    assert fetcher._fetchable_partitions() == [OTHER]
    subscriptions.pause(OURS)
    go_on(SimpleNamespace(_fetcher=fetcher, resume=subscriptions.resume), OURS)
    assert OURS in fetcher._fetchable_partitions()
    assert subscriptions.position(OURS).offset == TAKEN
