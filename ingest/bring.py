"""Bringing a restored generation into use: beside what serves until it has caught up, or at once."""

import re

from kycache.actors.building import served_state
from kycache.actors.checked import vouched
from kycache.actors.environment import Environments
from kycache.actors.files import DataDirectory, Doubt
from kycache.actors.meta import read_state
from kycache.model.errors import Refused

_NAME = re.compile(r"gen-[0-9]{6,}")


def bring(directory: DataDirectory, environments: Environments, shard: int, name: str, replace: bool) -> None:
    """Bring a generation into use. The caller holds the shard's lock, and its actor is stopped. Blocking.

    Where a generation serves, the new one first reads on from its own position to where that one is, and then
    takes its place: no reader goes back in time. Where none does, or `replace` says so, it serves at once.

    Raises:
        Refused: it is not there, or nobody vouches for it; nothing was changed.
    """
    folder = directory.shard(shard)
    generation = folder.path / name
    if _NAME.fullmatch(name) is None or not vouched(generation):
        raise Refused(f"shard {shard}: {generation} is no whole generation", "restore it again")
    environment, databases = environments.lease(generation, shard)
    try:
        with environment.begin() as txn:
            state = read_state(txn, databases)
    finally:
        environments.release(generation)
    if state.doubts:
        reason = "it was restored with records in quarantine that name no user"
        directory.add_doubts((Doubt("suspect", shard, state.position.offset, reason),))
    if not replace and served_state(environments, folder) is not None:
        folder.build(generation)
    else:
        folder.flip(generation)
