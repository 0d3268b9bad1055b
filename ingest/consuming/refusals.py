"""Why a shard, or the process, reads no further: the log is cut, the topic another, its partitions changed."""

from kycache.actors.files.directory import Node
from kycache.model.errors import HaltShard, Refused
from kycache.model.scalars.times import TimePrecision

from .topic import Topic


def log_cut(shard: int, offset: int) -> HaltShard:
    """The log no longer holds what the shard must read next (FAULTS 16)."""
    return HaltShard(
        f"shard {shard}: the log of its partition no longer holds offset {offset}",
        f"bring it back with `kycache snapshot restore ID --shard {shard}` where one reads on behind the cut, "
        f"or run `kycache rebuild --shard {shard} --epoch`, which orders a whole snapshot and begins at it: "
        "skipping would resurrect what was deleted",
    )


def another_topic(topic: Topic, shard: int) -> HaltShard:
    """The topic was deleted and made anew under its name (FAULTS 17)."""
    return HaltShard(
        f"shard {shard}: topic {topic.name!r} is not the one that was read: it has id {topic.id} now",
        "run `kycache rebuild` once Debezium has sent a whole snapshot into it, "
        "or `kycache rebuild --epoch`, which orders one",
    )


def another_unit(shard: int, times: TimePrecision) -> HaltShard:
    """The shard was started over for a log with another unit of times while this process ran."""
    return HaltShard(
        f"shard {shard}: its log is in time.precision.mode={times}, and this process was started for another",
        "restart `kycache ingest`",
    )


def check_partitions(topic: Topic, node: Node) -> None:
    """Refuse a changed partition count: users are in other partitions now (FAULTS 17)."""
    if topic.partitions != node.shards:
        raise Refused(
            f"topic {topic.name!r} has {topic.partitions} partitions, the data directory is for {node.shards}",
            "start over with an empty data directory and a topic of its own",
        )
