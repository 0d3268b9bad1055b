"""Starting a shard over.

Skipping what the log no longer holds would skip deletes, and resurrect people who were erased; so a shard is
read from the store's own offset, or from one at which the partition is whole: 0, or where a whole snapshot
begins that kycache ordered itself (`begin_epoch`).

What serves goes on serving: the new generation is built beside it (actors/generations/takeover.py).
"""

import shutil
from collections.abc import Collection, Mapping
from contextlib import ExitStack, suppress

import msgspec

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.environment import DamagedFile, data_file
from kycache.actors.files.home import Home
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.generations.create import create_store
from kycache.actors.generations.takeover import served_state
from kycache.actors.integrity.vouching import Checker
from kycache.actors.rules.state import Identity, Position
from kycache.actors.store.store import FORMAT
from kycache.ingest.consuming.refusals import check_partitions, log_cut
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import Topic, describe_topic
from kycache.model.errors import HaltShard, Refused

STAT_BLOCK_BYTES = 512
"""The unit of `st_blocks` (stat(2)): a shard's file is sparse, so its length says nothing of the room it takes."""


def check_log(node: Node, topic: Topic, shard: int) -> int:
    """The offset from which a shard is whole.

    Raises:
        HaltShard: the log does not hold it any more.
    """
    offset = node.start(shard, topic.id)
    if topic.starts[shard] > offset:
        raise log_cut(shard, offset)
    return offset


def start_over(
    home: Home, node: Node, topic: Topic, shard: int, *, replace: bool = False, same_view: bool = True
) -> None:
    """Make an empty generation, to be filled from where the partition is whole. The caller holds the shard's lock.

    It is built beside what serves; where nothing serves, or `replace` says so, it is in use at once.

    Args:
        same_view: what serves is of the view that the new one is of.

    Raises:
        HaltShard: the log does not hold everything any more; nothing was changed.
        Refused: there is no room for two generations; nothing was changed.
    """
    offset = check_log(node, topic, shard)
    folder = home.directory.shard(shard)
    served = served_state(home.environments, folder)
    beside = not replace and served is not None
    if beside:
        check_room(folder)
    generation = folder.next_generation()
    identity = Identity(FORMAT, shard, node.shards, home.view.hash, node.epoch, node.times)
    position = Position(topic.name, topic.id, shard, offset)
    former = served if same_view else None
    create_store(home.environments, generation, identity, position, from_start=True, former=former)
    if beside:
        folder.build(generation)
    else:
        folder.flip(generation)


def check_room(folder: ShardFolder) -> None:
    """Refuse to build a generation beside one that is larger than what is free.

    Raises:
        Refused: with the figures.
    """
    current = folder.current()
    if current is None:
        return
    taken = data_file(current).stat().st_blocks * STAT_BLOCK_BYTES
    free = shutil.disk_usage(folder.path).free
    if free < taken:
        raise Refused(
            f"shard {folder.number} takes {taken >> 20} MiB, and {free >> 20} MiB are free for a second one "
            "beside it",
            "make room, or run it with `--replace`: the shard then answers 503 until it is read again",
        )


def rebuild_for(settings: KafkaSettings, home: Home, *, replace: bool = False) -> None:
    """Start every shard over for another view definition; the directory is its home from then on. Blocking.

    Everything that could refuse is looked at, and every lock held, before anything is changed. What serves the
    former view goes on until its shards are built.

    Raises:
        Unreachable: the broker does not answer, or has no such topic.
        Refused: a process holds a shard, the log is cut, the topic or its partition count is another.
    """
    directory, view = home.directory, home.view
    node = directory.node()
    assert node is not None
    topic = describe_topic(settings)
    check_partitions(topic, node)
    _check_times(node, topic, settings)
    try:
        for shard in range(node.shards):
            check_log(node, topic, shard)
            if not replace:
                check_room(directory.shard(shard))
    except HaltShard as halt:
        raise Refused(halt.problem, halt.remedy) from None
    with ExitStack() as locks:
        for shard in range(node.shards):
            lock = directory.shard(shard).lock()
            if lock is None:
                raise Refused(
                    f"shard {shard} is held by {directory.shard(shard).holder()}, with the former view",
                    "stop it, then run this again",
                )
            locks.callback(lock.release)
        node = directory.rehome(
            lambda node: msgspec.structs.replace(_for_topic(node, topic, settings), view=view.hash)
        )
        for shard in range(node.shards):
            start_over(home, node, topic, shard, replace=replace, same_view=False)


def rebuild(settings: KafkaSettings, home: Home, shard: int, *, replace: bool = False) -> None:
    """Start a shard over from where its partition is whole. The caller holds the shard's lock. Blocking.

    What it put in doubt stays in doubt until the new generation serves (opening.py clears it then).

    Raises:
        Unreachable: the broker does not answer, or has no such topic.
        Refused: the log no longer holds everything, or the partition count changed; nothing was changed.
    """
    directory, view = home.directory, home.view
    topic = describe_topic(settings)
    node = directory.found(view.hash, topic.name, topic.id, topic.partitions)
    _check_times(node, topic, settings)
    current = directory.shard(shard).current()
    if current is not None:
        with suppress(DamagedFile):  # after an unclean stop it serves, where it is whole
            Checker(view).ensure(current, shard)
    try:
        check_log(node, topic, shard)
        node = directory.rehome(lambda node: _for_topic(node, topic, settings))
        start_over(home, node, topic, shard, replace=replace)
    except HaltShard as halt:
        raise Refused(halt.problem, halt.remedy) from None


def begin_epoch(
    settings: KafkaSettings, directory: DataDirectory, ends: Mapping[int, int], shards: Collection[int]
) -> Node:
    """Write down that a whole snapshot begins at the present end of each partition. Blocking.

    The caller has stopped the connector and dropped its offsets, and starts it again afterwards: so whatever comes
    behind `ends` is a whole snapshot and what follows it, as in a new topic. A change of before that is still on
    its way does no harm: it is older than the snapshot, and swept after it.

    Args:
        shards: those that are to start over from it.

    Raises:
        Unreachable: the broker does not answer, or has no such topic.
        Refused: the partition count changed.
    """
    topic = describe_topic(settings)
    node = directory.node()
    assert node is not None
    check_partitions(topic, node)
    _check_times(node, topic, settings)
    starts = tuple(ends[n] for n in range(topic.partitions))

    def begun(node: Node) -> Node:
        epoch = node.epoch + 1
        oldest = tuple(epoch if n in shards else node.oldest_of(n) for n in range(node.shards))
        node = _for_topic(node, topic, settings)
        return msgspec.structs.replace(node, epoch=epoch, starts=starts, oldest=oldest)

    return directory.rehome(begun)


def _for_topic(node: Node, topic: Topic, settings: KafkaSettings) -> Node:
    """A topic that was made again is read from 0, and may have another unit of times than the former."""
    if node.topic_id == topic.id:
        return node
    return msgspec.structs.replace(node, topic_id=topic.id, starts=(), times=settings.times or node.times)


def _check_times(node: Node, topic: Topic, settings: KafkaSettings) -> None:
    """Refuse another unit of times for a log that was begun in one.

    Raises:
        Refused: with the way to change it.
    """
    if node.topic_id == topic.id and settings.times not in (None, node.times):
        raise Refused(
            f"topic {topic.name!r} was written in time.precision.mode={node.times}, the setting says "
            f"{settings.times}: no log is read in two units",
            "stop the connector, delete the topic and make it again, give the connector what "
            "`kycache connector --connector` prints now, then run `kycache rebuild --epoch`",
        )
