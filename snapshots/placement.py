"""Which shards of a data directory are its own: those that a snapshot is taken of where none are named.

    ingest reads some of them here     those: another node has the others, and what they left here grows old
    it reads none, or does not run     all that have a file: a cold copy

A shard that changes hands, or whose process was killed, is nobody's for a moment: so what has a file is waited
for.
"""

from time import monotonic, sleep
from typing import NamedTuple

from kycache.actors.directory import DataDirectory
from kycache.model.errors import Refused

HELD_WAIT_S = 30.0
"""Three of the consumer group's sessions: a killed member is missed after one, and joining takes up to another."""

LOOK_S = 0.1


class Placement(NamedTuple):
    """The shards that are this directory's own, and a sentence for each reason why others are not."""

    own: list[int]
    left_out: list[str]


def placement(directory: DataDirectory, shards: int) -> Placement:
    """Look which shards are this directory's own. Blocking, seconds where one has a file and no holder.

    Raises:
        Refused: there is none.
    """
    deadline = monotonic() + HELD_WAIT_S
    while True:
        with_file = {n for n in range(shards) if directory.shard(n).current() is not None}
        held = {n for n in range(shards) if directory.shard(n).holder() is not None}
        own = held or with_file
        strays = with_file - own
        if not strays or monotonic() > deadline:
            break
        sleep(LOOK_S)
    if not own:
        raise Refused(f"{directory.root} holds no shard's file yet", "start `kycache ingest`")
    without = set(range(shards)) - own - strays
    left_out: list[str] = []
    if strays:
        left_out.append(
            f"{_named(strays)}: ingest runs here and does not hold it: it is another node's, and the file here "
            "grows old; remove the shard's folder, or name it with --shard"
        )
    if without and held:
        left_out.append(f"{_named(without)}: ingest runs here and does not hold it: it is another node's")
    elif without:
        left_out.append(
            f"{_named(without)}: has no file here: it is another node's, or lost; then `kycache ingest` brings "
            "it back"
        )
    return Placement(sorted(own), left_out)


def _named(shards: set[int]) -> str:
    return f"left out: shard {', '.join(map(str, sorted(shards)))}"
