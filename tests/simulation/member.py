"""One ingest process: the product's own holders and consumer thread, driven step by step instead of by Kafka."""

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import trio
from kafka import TopicPartition

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.environment import Environments, check_before_mapping
from kycache.actors.files.home import Home
from kycache.actors.integrity.vouching import Checker, mark_of, vouch, vouched
from kycache.actors.partition import Partition
from kycache.actors.shard import Opened
from kycache.actors.store.turn import Turn
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.consuming.holders import Holders
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.thread import ConsumerThread, _Listener, _Session
from kycache.ingest.opening import Opening
from kycache.ingest.watching import Watch
from kycache.model.view import View
from simulation.log import Log, LogConsumer
from simulation.seams import Died, Fate, WatchedFence
from support.shards import TOPIC

SETTINGS = KafkaSettings("nowhere:9092", topic=TOPIC)
_T = TypeVar("_T")
POLL_RECORDS = (1, 2, 3, 5, 20, 100)
LULL_S = 1.0
"""The most that passes between a poll and the delivery of what it brought: a shard may fail and open meanwhile."""


class Disk(Protocol):
    """The world, as a member's commits see it."""

    directory: DataDirectory
    node: Node
    view: View
    log: Log
    map_bytes: int

    def fate(self, shard: int) -> Fate | None: ...
    def about_to_commit(self, shard: int) -> None: ...
    def committed(self, member: "Member", shard: int) -> None: ...
    def opened(self, shard: int, offset: int) -> None: ...
    def freeze(self, shards: list[int]) -> None: ...
    def thaw(self, shard: int) -> None: ...
    def broken(self, what: str) -> None: ...


class _InPlace(Checker):
    """Vouches for a file without a child process that walks it: every history reads all of it in the end."""

    def ensure(self, generation: Path, shard: int, look: Callable[[], None] | None = None) -> bool:  # noqa: ARG002
        if vouched(generation):
            return False
        check_before_mapping(generation, shard)
        vouch(generation, mark_of(generation))
        return True


class SteppedThread(ConsumerThread):
    """A consumer thread whose loop somebody else runs, on the trio thread."""

    def _on_trio(self, run: Callable[..., _T], *args: object) -> _T:
        return run(*args)


class _Opening(Opening):
    """Opens shards for a member: it may be dead, and what it commits is watched."""

    def __init__(self, member: "Member", disk: Disk, home: Home) -> None:
        super().__init__(SETTINGS, home, disk.node, _InPlace(disk.view), Turn())
        self._member = member
        self._disk = disk

    def hold(self, partition: Partition) -> ShardHolder:
        holder = super().hold(partition)
        holder.fence = WatchedFence(self._member, partition.number)
        return holder

    def _open(self, shard: int) -> Opened:
        if self._member.dead:
            raise Died
        self._disk.thaw(shard)
        opened = super()._open(shard)
        self._disk.opened(shard, opened.offset)
        return opened


class Member:
    """An ingest process."""

    def __init__(self, disk: Disk, name: str, nursery: trio.Nursery) -> None:
        self.environments = Environments(readonly=False, map_size=disk.map_bytes)
        self.dead = False
        self.scope = nursery.cancel_scope
        opening = _Opening(self, disk, Home(disk.directory, self.environments, disk.view))
        self.holders = Holders(opening.hold, nursery, disk.node.shards)
        self.watch = Watch(SETTINGS, disk.directory, disk.node, opening, self.holders)
        self.thread = SteppedThread(SETTINGS, disk.view, name, "", self.holders, Turn())
        self._disk = disk
        self._consumer = LogConsumer(disk.log)
        self._session = _Session(self._consumer, {})
        self._listener = _Listener(self.thread, self._session)

    # In place of the consumer thread's loop.

    def assign(self, shard: int) -> None:
        """A rebalance brings the partition."""
        self._consumer.assign(shard)
        self._listener.on_partitions_assigned([TopicPartition(TOPIC, shard)])

    async def revoke(self, shard: int) -> None:
        """A rebalance takes the partition away, or the process learns that it did."""
        await self.holders.revoked([shard])
        self._consumer.unassign(shard)

    async def poll(self, rng: random.Random) -> None:
        """One round of the loop: orders, then whatever came of some of the partitions."""
        self.thread._obey(self._session)
        polled = [
            (tp.partition, self._consumer.poll_one(tp, rng.choice(POLL_RECORDS)))
            for tp in self._consumer.assignment()
            if rng.random() < 0.7
        ]
        for shard, records in polled:
            if rng.random() < 0.2:
                await trio.sleep(rng.random() * LULL_S)
            if not self.dead:
                self.thread._deliver(self._session, shard, records)

    @asynccontextmanager
    async def poll_across(self, shard: int, rng: random.Random) -> AsyncIterator[None]:
        """A poll of one partition; what is done inside happens between it and the delivery of what it brought."""
        self.thread._obey(self._session)
        records = self._consumer.poll_one(TopicPartition(TOPIC, shard), rng.choice(POLL_RECORDS[:3]))
        yield
        await trio.sleep(LULL_S)  # long enough that a shard which was stopped, or failed, is open again
        if not self.dead:
            self.thread._deliver(self._session, shard, records)

    async def poll_past(self, shard: int, rng: random.Random) -> None:
        """Two rounds for one partition; the second is polled before anyone knows what becomes of the first."""
        tp = TopicPartition(TOPIC, shard)
        self.thread._obey(self._session)
        self.thread._deliver(self._session, shard, self._consumer.poll_one(tp, rng.choice(POLL_RECORDS[:3])))
        async with self.poll_across(shard, rng):
            pass

    def describe(self) -> list[str]:
        """How each shard here is, for a message."""
        return [
            f"shard {shard}: halted: {holder.halted.problem}"
            if holder.halted
            else f"shard {shard}: {'not open' if holder.actor is None else holder.actor.blocked or 'open'}"
            for shard, holder in self.holders.by_shard.items()
        ]

    # What its commits ask (`seams.Commits`).

    def fate(self, shard: int) -> Fate | None:
        return self._disk.fate(shard)

    def about_to_commit(self, shard: int) -> None:
        self._disk.about_to_commit(shard)

    def committed(self, shard: int, *, behind_fence: bool) -> None:
        if behind_fence:
            self._disk.broken(f"shard {shard}: a batch was committed behind a closed fence")
        self._disk.committed(self, shard)

    def die(self) -> None:
        """Killed: nothing it still does reaches the disk."""
        if not self.dead:
            self.dead = True
            self._disk.freeze([shard for shard, _ in self.holders.actors()])
            self.scope.cancel()
