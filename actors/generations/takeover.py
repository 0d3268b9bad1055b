"""A generation that is built beside the one that serves, and when it takes over.

`NEXT` names it (actors/files/shard_folder.py). The writer fills it from the log while readers go on with
`CURRENT`, which nobody writes meanwhile; a writer that is killed goes on with it. It takes over once it may serve,
never before.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lmdb
import structlog

from kycache.actors.files.environment import Environments
from kycache.actors.files.meta import read_state
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.integrity.vouching import vouched
from kycache.actors.rules.state import ShardState
from kycache.model.errors import Refused

log = structlog.get_logger()


def may_serve(built: ShardState, served: ShardState) -> bool:
    """Whether a generation under construction takes the place of the one that serves.

    It is whole, and no reader goes back in time: it is not older than what it replaces, or there is no more to
    read. Of another epoch only the clock compares: a source that moved back counts its LSNs from further down.
    """
    if not built.bootstrapped:
        return False
    as_new = built.as_of_ms >= served.as_of_ms and (
        built.epoch != served.epoch or built.watermark >= served.watermark
    )
    end = built.high_water
    if (built.epoch, built.position.topic_id) == (served.epoch, served.position.topic_id):
        # Of one transaction some changes may be read and others not, all with the same clock and watermark.
        as_new = as_new and built.position.offset >= served.position.offset
        # A copy that has read nothing yet knows the log's end as it was when the copy was made.
        end = max(end, served.high_water)
    return as_new or built.position.offset >= end


def served_state(environments: Environments, folder: ShardFolder) -> ShardState | None:
    """The state of the generation in use; None where there is none that can answer."""
    generation = folder.current()
    state = None if generation is None else state_of(environments, folder, generation)
    return state if state is not None and state.bootstrapped else None


def take_over_when_due(environments: Environments, folder: ShardFolder) -> Callable[[ShardState], bool] | None:
    """Bring the generation under construction into use where it may serve by now, or where nothing else does.

    Returns:
        For one that is still under construction: says of its state whether its time has come. None: there is none.
    """
    building = folder.building()
    if building is None:
        return None
    served = served_state(environments, folder)
    if served is not None:
        built = state_of(environments, folder, building)
        if built is None or not may_serve(built, served):
            return partial(may_serve, served=served)
    folder.flip(building)
    log.info("a shard was built anew and serves", shard=folder.number, generation=building.name)
    return None


def state_of(environments: Environments, folder: ShardFolder, generation: Path) -> ShardState | None:
    """The state in a generation's file, of whatever view; None where it cannot be read."""
    if not vouched(generation):
        return None
    try:
        environment, databases = environments.lease(generation, folder.number)
    except Refused:
        return None
    try:
        with environment.begin() as txn:
            return read_state(txn, databases)
    except (Refused, lmdb.Error):
        return None
    finally:
        environments.release(generation)
