"""The topic, and as much of a kafka-python consumer as the consumer thread asks of it once it is connected."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

from kafka import TopicPartition

from support.pipeline.fake_source import FakeSource, Sent
from support.shards import TOPIC

TIMESTAMP_MS = 1_795_000_000_000


class Fetched(NamedTuple):
    """A record as a poll returns it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    leader_epoch: int = -1


class Log:
    """The records of every partition, in the order in which the source sent them."""

    def __init__(self, source: FakeSource) -> None:
        self.source = source
        self.partitions: list[list[Sent]] = [[] for _ in range(source.partitions)]
        self.meant: list[dict[int, Sent]] = [{} for _ in range(source.partitions)]
        """Per partition, by offset: what a poisoned record would have been."""
        self._taken = 0

    def take(self, poisoned: dict[int, Sent]) -> None:
        """Append what the source has sent since, some of it (by its place in the source's log) poisoned."""
        for at in range(self._taken, len(self.source.log)):
            sent = self.source.log[at]
            partition = self.partitions[sent.partition]
            if at in poisoned:
                self.meant[sent.partition][len(partition)] = sent
                sent = poisoned[at]
            partition.append(sent)
        self._taken = len(self.source.log)

    def ends(self) -> list[int]:
        """Per partition, the offset behind its last record."""
        return [len(partition) for partition in self.partitions]


class LogConsumer:
    """One member's client: assignment, positions, pauses."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._fetcher = SimpleNamespace(_paused_partition_records={})  # it sets nothing aside

    def assign(self, partition: int) -> None:
        """As a rebalance does."""
        self._positions[TopicPartition(TOPIC, partition)] = 0

    def unassign(self, partition: int) -> None:
        """As a rebalance does."""
        self._positions.pop(TopicPartition(TOPIC, partition), None)
        self._paused.discard(TopicPartition(TOPIC, partition))

    def assignment(self) -> Sequence[TopicPartition]:
        """In a fixed order: a set of names would differ from run to run."""
        return list(self._positions)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self._positions[tp] = offset

    def pause(self, tp: TopicPartition) -> None:
        self._paused.add(tp)

    def resume(self, tp: TopicPartition) -> None:
        self._paused.discard(tp)

    def highwater(self, tp: TopicPartition) -> int:
        return len(self._log.partitions[tp.partition])

    def poll_one(self, tp: TopicPartition, records_max: int) -> list[Fetched]:
        """The next records of one partition; none while it is paused."""
        if tp in self._paused:
            return []
        begin = self._positions[tp]
        records = self._log.partitions[tp.partition][begin : begin + records_max]
        self._positions[tp] = begin + len(records)
        return [Fetched(n, TIMESTAMP_MS, sent.key, sent.value) for n, sent in enumerate(records, begin)]
