"""Limits so small that a history meets them, and what must hold where it does."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from kycache.actors import shard
from kycache.actors.shard import Batch, ShardActor
from kycache.model.change import Beat, Change, Item
from simulation.seams import Violation

SMALL = {
    "MAILBOX_ITEMS_MAX": 12,
    "MAILBOX_ITEMS_RESUME": 6,
    "MAILBOX_BYTES_MAX": 16 << 10,
    "BATCH_ITEMS": 4,
    "BATCH_ITEMS_MAX": 30,
}
"""In place of the product's: a few polls fill the mailbox, and a batch ends long before a backlog does."""


@contextmanager
def small_limits(rng: random.Random) -> Iterator[None]:
    """Half of the histories meet the limits of mailbox and batch; all of them are watched."""
    with (
        patch.dict(vars(shard), SMALL if rng.random() < 0.5 else {}),
        patch.object(ShardActor, "offer", _watched_offer),
        patch.object(ShardActor, "_take", _watched_take),
    ):
        yield


_offer, _take = ShardActor.offer, ShardActor._take


def _watched_offer(actor: ShardActor, batch: Batch) -> bool:
    """Nothing comes into a full mailbox: its partition is paused until there is room."""
    full = actor._waiting >= shard.MAILBOX_ITEMS_MAX or actor._waiting_bytes >= shard.MAILBOX_BYTES_MAX
    if full and batch.run == actor._run:
        raise Violation(f"shard {actor.store.shard}: more came into a full mailbox, at {batch.next_offset}")
    return _offer(actor, batch)


def _watched_take(actor: ShardActor) -> Batch:
    """A batch does not end inside a source transaction whose next records wait and fit."""
    batch = _take(actor)
    if actor._mailbox and batch.items and actor._mailbox[0].items:
        rest = actor._mailbox[0].items
        cut = _transaction(batch.items[-1]) is not None and _transaction(batch.items[-1]) == _transaction(rest[0])
        if cut and len(batch.items) + len(rest) <= shard.BATCH_ITEMS_MAX:
            raise Violation(f"shard {actor.store.shard}: a batch ends at {batch.next_offset} inside a transaction")
    return batch


def _transaction(item: Item) -> int | None:
    return item.origin.tx if isinstance(item, (Change, Beat)) else None
