"""What an ingest process does every few seconds for shards that it has open."""

import trio

from kycache.ingest.consuming.holders import Holders
from kycache.ingest.consuming.thread import HINT_INTERVAL_S, ConsumerThread

READERS_LOOK_S = 10.0
"""How often slots of killed readers are freed; a shard grows by what it changes meanwhile."""


async def hint_positions(holders: Holders, thread: ConsumerThread) -> None:
    """Tell the group how far the stores are, for lag tools."""
    while True:
        await trio.sleep(HINT_INTERVAL_S)
        thread.hint({shard: actor.state.position.offset for shard, actor in holders.actors()})


async def look_after_files(holders: Holders) -> None:
    """Begin a shard again whose lock was removed; free the slots of readers that were killed in mid-read.

    A killed reader's slot keeps LMDB from using pages again (FAULTS 2).
    """
    while True:
        await trio.sleep(READERS_LOOK_S)
        for holder in list(holders.by_shard.values()):
            holder.look_at_lock()
            if holder.actor is not None:
                holder.actor.store.free_readers()
