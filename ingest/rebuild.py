"""Starting a shard over, and the refusals that end in it: the log is cut, the topic another, P changed.

Skipping what the log no longer holds would skip deletes, and resurrect people who were erased; so nothing
here goes on from another offset than 0 or the store's own.
"""

from contextlib import ExitStack

from kycache.actors.environment import Environments
from kycache.actors.files import DataDirectory, Node
from kycache.actors.fold import HaltShard
from kycache.actors.state import Position
from kycache.actors.store import FORMAT, Identity, create_store
from kycache.model.errors import Refused
from kycache.model.view import View

from .settings import KafkaSettings
from .topic import Topic, describe_topic


def log_cut(shard: int, offset: int) -> HaltShard:
    """The log no longer holds what the shard must read next (FAULTS 16)."""
    return HaltShard(
        f"shard {shard}: the log of its partition no longer holds offset {offset}",
        'let Debezium take a whole snapshot into an empty topic (docs/operations.md, "the log is cut"), '
        f"then run `kycache rebuild --shard {shard}`: skipping would resurrect what was deleted",
    )


def another_topic(topic: Topic, shard: int) -> HaltShard:
    """The topic was deleted and made anew under its name (FAULTS 17)."""
    return HaltShard(
        f"shard {shard}: topic {topic.name!r} is not the one that was read: it has id {topic.id} now",
        f"run `kycache rebuild --shard {shard}` once Debezium has sent a whole snapshot into it",
    )


def check_partitions(topic: Topic, node: Node) -> None:
    """Refuse a changed partition count: users are in other partitions now (FAULTS 17)."""
    if topic.partitions != node.shards:
        raise Refused(
            f"topic {topic.name!r} has {topic.partitions} partitions, the data directory is for {node.shards}",
            "start over with an empty data directory and a topic of its own",
        )


def start_over(
    directory: DataDirectory, environments: Environments, view: View, node: Node, topic: Topic, shard: int
) -> None:
    """Bring an empty generation into use, to be filled from offset 0. The caller holds the shard's lock.

    Raises:
        HaltShard: the log does not start there any more; nothing was changed.
    """
    if topic.starts[shard] > 0:
        raise log_cut(shard, 0)
    folder = directory.shard(shard)
    generation = folder.next_generation()
    identity = Identity(FORMAT, shard, node.shards, view.hash)
    position = Position(topic.name, topic.id, shard, 0)
    create_store(environments, generation, identity, position, from_start=True)
    folder.flip(generation)


def rebuild_for(settings: KafkaSettings, directory: DataDirectory, environments: Environments, view: View) -> None:
    """Start every shard over for another view definition; the directory is its home from then on. Blocking.

    Everything that could refuse is looked at, and every lock held, before anything is changed.

    Raises:
        Unreachable: the broker does not answer, or has no such topic.
        Refused: a process holds a shard, the log is cut, the topic or its partition count is another.
    """
    node = directory.node()
    assert node is not None
    topic = describe_topic(settings)
    check_partitions(topic, node)
    cut = next((shard for shard in range(node.shards) if topic.starts[shard] > 0), None)
    if cut is not None:
        halt = log_cut(cut, 0)
        raise Refused(halt.problem, halt.remedy)
    with ExitStack() as locks:
        for shard in range(node.shards):
            lock = directory.shard(shard).lock()
            if lock is None:
                raise Refused(
                    f"shard {shard} is held by {directory.shard(shard).holder()}, with the former view",
                    "stop it, then run this again",
                )
            locks.callback(lock.release)
        node = directory.rehome(view.hash)
        for shard in range(node.shards):
            start_over(directory, environments, view, node, topic, shard)
            directory.clear_doubt("suspect", shard)


def rebuild(
    settings: KafkaSettings, directory: DataDirectory, environments: Environments, view: View, shard: int
) -> None:
    """Start a shard over from its partition's first offset. The caller holds the shard's lock. Blocking.

    Raises:
        Unreachable: the broker does not answer, or has no such topic.
        Refused: the log no longer starts at 0, or the partition count changed; nothing was changed.
    """
    topic = describe_topic(settings)
    node = directory.found(view.hash, topic.name, topic.id, topic.partitions)
    try:
        start_over(directory, environments, view, node, topic, shard)
    except HaltShard as halt:
        raise Refused(halt.problem, halt.remedy) from None
    # What is still in doubt says so again as the log is read; a truncate's mark waits for a whole snapshot.
    directory.clear_doubt("suspect", shard)
