"""Bringing a restored or compacted generation into use: beside what serves until it has caught up, or at once."""

import re
from pathlib import Path

from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.files.meta import read_state
from kycache.actors.files.quarantine import kept_offsets
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.generations.takeover import served_state
from kycache.actors.integrity.vouching import vouched
from kycache.actors.rules.reports import SUSPECT, Doubt
from kycache.actors.rules.state import ShardState
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import describe_topic
from kycache.model.errors import Refused

_NAME = re.compile(r"gen-[0-9]{6,}")


def bring(home: Home, shard: int, name: str, *, replace: bool) -> None:
    """Bring a generation into use. The caller holds the shard's lock, and its actor is stopped. Blocking.

    Where a generation serves, the new one first reads on from its own position to where that one is, and then
    takes its place: no reader goes back in time. Where none does, or `replace` says so, it serves at once.

    Raises:
        Refused: it is not there, or nobody vouches for it; nothing was changed.
    """
    folder = home.directory.shard(shard)
    generation = folder.path / name
    state, _ = _look(home.environments, folder, generation)
    if state.doubts:
        reason = "it was restored with records in quarantine that name no user"
        home.directory.add_doubts((Doubt(SUSPECT, shard, state.position.offset, reason),))
    if not replace and served_state(home.environments, folder) is not None:
        folder.build(generation)
    else:
        folder.flip(generation)


def bring_compacted(settings: KafkaSettings, home: Home, shard: int, name: str, of: str) -> None:
    """Bring a compacted copy of the generation `of` into use. The caller holds the shard's lock. Blocking.

    At once where nothing was committed since it was copied; else it first reads on beside what serves, to where
    that one is.

    Raises:
        Refused: something else than the log changed the shard meanwhile, or the log holds no more what was
            committed; nothing was changed.
        Unreachable: the broker does not answer, and something is to be read from it.
    """
    folder = home.directory.shard(shard)
    generation = folder.path / name
    copied, kept = _look(home.environments, folder, generation)
    served = folder.current()
    if served is None or served.name != of or folder.building() is not None:
        raise Refused(
            f"shard {shard}: it was rebuilt or restored while it was copied", "run the command again if need be"
        )
    state, still_kept = _look(home.environments, folder, served)
    if not kept <= still_kept:
        # The log does not say so: the copy would bring back what an operator has settled.
        raise Refused(f"shard {shard}: records left its quarantine while it was copied", "run the command again")
    if copied == state:
        folder.flip(generation)
        folder.clean()
        return
    topic = describe_topic(settings)
    if copied.position.topic_id != topic.id or copied.position.offset < topic.starts[shard]:
        raise Refused(
            f"shard {shard}: the log holds no more what was committed while it was copied",
            "run the command again, and keep the topic longer",
        )
    folder.build(generation)


def _look(environments: Environments, folder: ShardFolder, generation: Path) -> tuple[ShardState, set[int]]:
    """A whole generation's state, and the offsets of its records in quarantine.

    Raises:
        Refused: it is not there, or nobody vouches for it.
    """
    if _NAME.fullmatch(generation.name) is None or not vouched(generation):
        raise Refused(f"shard {folder.number}: {generation} is no whole generation", "run the command again")
    environment, databases = environments.lease(generation, folder.number)
    try:
        with environment.begin() as txn:
            return read_state(txn, databases), kept_offsets(txn, databases)
    finally:
        environments.release(generation)
