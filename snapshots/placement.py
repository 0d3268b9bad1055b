"""Which shards of a data directory are its own: those that a snapshot is taken of where none are named.

    ingest reads some of them here     those: another node has the others, and what they left here grows old
    it reads none, or does not run     all that have a file: a cold copy

A shard that changes hands, or whose process was killed, is nobody's for a moment: so what has a file is waited
for.
"""

from time import monotonic, sleep
from typing import NamedTuple

from kycache.actors.files.directory import DataDirectory
from kycache.model.errors import Refused

HELD_WAIT_S = 30.0
"""Three of the consumer group's sessions: a killed member is missed after one, and joining takes up to another."""

LOOK_S = 0.1


class Placement(NamedTuple):
    """Shards that are this directory's own; those that have a file and no reader; what to say of the rest."""

    own: list[int]
    strays: list[int]
    elsewhere: str


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
    rest = ", ".join(map(str, sorted(set(range(shards)) - own - strays)))
    said = "" if held else ", or lost: then `kycache ingest` brings it back"
    elsewhere = f"left out: shard {rest}: has no file here: it is another node's{said}" if rest else ""
    return Placement(sorted(own), sorted(strays), elsewhere)


def stray(shard: int) -> Refused:
    """Why a shard that has a file and no reader, beside those that ingest reads, is not copied."""
    return Refused(
        f"shard {shard}: no ingest holds it, while others here are read: its file grows old",
        "where another node has it, remove its folder here; else see `kycache status`; "
        f"`--shard {shard}` takes it as it is",
    )
