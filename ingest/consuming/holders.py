"""The shards that this process holds, one holder per assigned partition: what the consumer thread speaks to.

All of it runs on the trio thread.
"""

from collections.abc import Callable, Iterator

import structlog
import trio

from kycache.actors.partition import Partition
from kycache.actors.shard import Batch, ShardActor
from kycache.actors.supervisor import ShardHolder
from kycache.model.errors import HaltShard, Refused

REVOKE_WAIT_S = 5.0
"""How long a rebalance waits for a shard's batch in hand: half the session, so the member is not thrown out."""

REMEDY_WAIT_S = 60.0
"""How long a command waits for its turn at a shard; it is then withdrawn, so that it never comes as a surprise."""

log = structlog.get_logger()


class Holders:
    """One holder per partition that the group gave to this member."""

    def __init__(self, hold: Callable[[Partition], ShardHolder], nursery: trio.Nursery, shards: int) -> None:
        """Args:
        hold: makes the holder of a shard, for one assignment of its partition.
        nursery: runs the holders.
        shards: of the data directory; a partition beyond them is not held.
        """
        self.by_shard: dict[int, ShardHolder] = {}
        self.token = trio.lowlevel.current_trio_token()
        self._hold = hold
        self._nursery = nursery
        self._shards = shards
        self._topic_doubted = trio.Event()

    # What the consumer thread says.

    def assigned(self, partition: Partition) -> None:
        """The partition is this member's: hold its shard."""
        if partition.number >= self._shards:
            self._topic_doubted.set()  # partitions were added, which ends the process
            return
        holder = self.by_shard[partition.number] = self._hold(partition)
        self._nursery.start_soon(holder.run)
        log.info("shard assigned", shard=partition.number)

    async def revoked(self, partitions: list[int]) -> None:
        """They go to another member: return when their shards are closed, or in bounded time."""
        with trio.move_on_after(REVOKE_WAIT_S):
            async with trio.open_nursery() as nursery:
                for partition in partitions:
                    holder = self.by_shard.pop(partition, None)
                    if holder is not None:
                        nursery.start_soon(holder.release)
                        log.info("shard revoked", shard=partition)

    def offer(self, partition: int, batch: Batch) -> bool:
        """Hand a batch to its shard, in partition order. False: no more until the shard orders it."""
        holder = self.by_shard.get(partition)
        return holder is not None and holder.actor is not None and holder.actor.offer(batch)

    def halt(self, partition: int, error: HaltShard) -> None:
        """The partition cannot be read on."""
        holder = self.by_shard.get(partition)
        if holder is not None:
            holder.halt(error)
            self._topic_doubted.set()  # one that was made again under its name looks like a log that was cut

    async def wait_topic_doubted(self) -> None:
        """Return when there was a reason to look at the topic since the last call."""
        await self._topic_doubted.wait()
        self._topic_doubted = trio.Event()

    # What others ask.

    def actors(self) -> Iterator[tuple[int, ShardActor]]:
        """The shards that are open now, and their actors."""
        return ((shard, holder.actor) for shard, holder in self.by_shard.items() if holder.actor is not None)

    def holds(self, shard: int) -> bool:
        """The shard is held by this process."""
        return shard in self.by_shard

    def holds_what_is_worth_keeping(self) -> bool:
        """A shard is held that is bootstrapped: a snapshot of this directory is worth being taken."""
        return any(actor.state.bootstrapped for _, actor in self.actors())

    async def carry_out(self, shard: int, work: Callable[[], None]) -> None:
        """Run `work` on a shard's files in a worker thread, with its actor stopped meanwhile.

        Raises:
            KycacheError: the shard is not held here, or what `work` raised.
        """
        holder = self.by_shard.get(shard)
        if holder is None:
            raise Refused(f"shard {shard} is not held by this process", "ask the process that holds it")
        await holder.remedy(work, REMEDY_WAIT_S)
