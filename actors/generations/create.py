"""An empty store in a new generation."""

from pathlib import Path

from kycache.actors.files.environment import Environments
from kycache.actors.files.meta import write_identity, write_state
from kycache.actors.integrity.vouching import mark_of, vouch
from kycache.actors.rules.state import Identity, Position, ShardState


def create_store(
    environments: Environments,
    generation: Path,
    identity: Identity,
    position: Position,
    *,
    from_start: bool,
    former: ShardState | None = None,
) -> None:
    """Make an empty store in a new generation.

    Args:
        former: of the same view. The columns that its rows had are expected of the new rows: it is not forgotten
            that one is gone.
    """
    state = ShardState(position, from_start=from_start, epoch=identity.epoch)
    if former is not None:
        state.unseen, state.seen_lsn = former.unseen, former.seen_lsn
    environment, databases = environments.lease(generation, identity.shard, create=True)
    try:
        with environment.begin(write=True) as txn:
            write_identity(txn, databases, identity)
            write_state(txn, databases, state)
        environment.sync(True)
    finally:
        environments.release(generation)
    vouch(generation, mark_of(generation))
