"""What a restore would do, decided before anything is touched. Pure.

Every reason to refuse is found here, from the manifest, what the broker says of the topic, and the data directory;
`restore.py` carries a plan out.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kycache.model.errors import Refused
from kycache.model.scalars.times import TimePrecision
from kycache.snapshots.storage.manifest import Manifest, ShardEntry


class AnotherUnit(Refused):
    """A snapshot shows that the log has another unit of times than it would be read in: no other one will do."""


class TopicFacts(NamedTuple):
    """The topic as its broker describes it; per partition, what its log holds: `starts` to `ends`."""

    name: str
    id: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]


class HomeFacts(NamedTuple):
    """The data directory. `shards` is None where nothing was ever ingested into it."""

    root: str
    view: str
    """Of the configuration."""
    shards: int | None
    epoch: int
    oldest: tuple[int, ...]
    """Per shard, the epoch that it was ordered to start over from; empty: nothing was ordered here."""
    keeps: tuple[int, ...]
    """Shards that take no later epoch from a snapshot."""
    free_bytes: int
    times: TimePrecision | None = None
    """The unit of times in the log that it reads, or is to read; None: nothing says it yet."""


class Step(NamedTuple):
    """One shard to bring back."""

    entry: ShardEntry
    behind: int
    """Records to read from the log afterwards."""


class Plan(NamedTuple):
    """What a restore will do, in this order."""

    snapshot: str
    steps: tuple[Step, ...]

    @property
    def bytes(self) -> int:
        """What the shards' files take on disk."""
        return sum(step.entry.raw_bytes for step in self.steps)


def plan(manifest: Manifest, topic: TopicFacts, home: HomeFacts, wanted: Sequence[int] | None) -> Plan:
    """Plan a restore of these shards, or of all that the snapshot holds.

    Raises:
        Refused: with the first reason why not, and what to do instead.
    """
    what = f"snapshot {manifest.id}"
    if manifest.view != home.view:
        raise Refused(
            f"{what} was made with view definition {manifest.view}, not {home.view}",
            "set `[view] file` to the definition it was made with, or take a snapshot made with this one",
        )
    for shards, whose in ((len(topic.starts), f"topic {topic.name!r}"), (home.shards, home.root)):
        if shards is not None and shards != manifest.shard_count:
            raise Refused(
                f"{what} is of a view with {manifest.shard_count} shards, {whose} has {shards}",
                "users would be looked for in the wrong shard: restore it where the topic has as many partitions",
            )
    entries = manifest.shards if wanted is None else [manifest.entry(shard) for shard in sorted(set(wanted))]
    newest = newest_epoch(manifest)
    steps = tuple(Step(entry, _behind(what, entry, newest, topic, home)) for entry in entries)
    made = Plan(manifest.id, steps)
    if made.bytes > home.free_bytes:
        raise Refused(
            f"{what} takes {made.bytes >> 20} MiB, and {home.free_bytes >> 20} MiB are free in {home.root}",
            "make room, or restore some shards at a time with --shard",
        )
    return made


def step_of(manifest: Manifest, topic: TopicFacts, home: HomeFacts, shard: int) -> Step | None:
    """The same for one shard; None where the snapshot does not hold it."""
    if all(entry.shard != shard for entry in manifest.shards):
        return None
    return plan(manifest, topic, home, [shard]).steps[0]


def newest_epoch(manifest: Manifest) -> int:
    """The latest epoch of a snapshot's shards. Those of an earlier one were not ordered to start over from it, and
    read on as before: of others no copy is made (`take.py`)."""
    return max(entry.epoch for entry in manifest.shards)


def passed_over(home: HomeFacts, manifest: Manifest, topic: TopicFacts) -> HomeFacts:
    """What a newer snapshot that lacks a shard says about older ones: one of an earlier epoch will not do."""
    if home.oldest or manifest.view != home.view or manifest.shards[0].position.topic_id != topic.id:
        return home
    return home._replace(epoch=max(home.epoch, newest_epoch(manifest)))


def _fits(entry: ShardEntry, newest: int, home: HomeFacts) -> bool:
    """No order to start over was given since the file was copied, as far as this directory can know."""
    if home.oldest and entry.epoch <= home.epoch:
        return entry.epoch >= home.oldest[entry.shard]
    return home.epoch in (entry.epoch, newest) or (newest > home.epoch and entry.shard not in home.keeps)


def _behind(what: str, entry: ShardEntry, newest: int, topic: TopicFacts, home: HomeFacts) -> int:
    """How far a shard's file is behind the log, once nothing speaks against it."""
    shard, position = entry.shard, entry.position
    if position.partition != shard:
        raise Refused(f"{what}: shard {shard} was read from partition {position.partition}", "take another one")
    if not entry.bootstrapped:
        raise Refused(
            f"{what}: shard {shard} was still bootstrapping when it was copied",
            f"take another one, or run `kycache rebuild --shard {shard}`",
        )
    if (position.topic, position.topic_id) != (topic.name, topic.id):
        raise Refused(
            f"{what}: shard {shard} was read from topic {position.topic!r} with id {position.topic_id}, "
            f"the broker has {topic.name!r} with id {topic.id}",
            f"run `kycache rebuild --shard {shard}`, with `--epoch` where Debezium has sent no whole snapshot "
            "into this topic: offsets of another one mean nothing here",
        )
    if home.times not in (None, entry.times):
        raise AnotherUnit(
            f"{what}: shard {shard} was read from a log in time.precision.mode={entry.times}, {home.root} reads "
            f"it in {home.times}",
            f"set `[kafka] time_precision_mode` to {entry.times}, and start with an empty data directory",
        )
    if not _fits(entry, newest, home):
        raise Refused(
            f"{what}: shard {shard} is of epoch {entry.epoch}, {home.root} of {home.epoch}",
            f"take a snapshot made since, or run `kycache rebuild --shard {shard}`",
        )
    if position.offset < topic.starts[shard]:
        raise Refused(
            f"{what}: shard {shard} must read on from offset {position.offset}, "
            f"and the log begins at {topic.starts[shard]}",
            f"take a newer one, or run `kycache rebuild --shard {shard} --epoch`, which orders a whole snapshot "
            "and begins at it: skipping would resurrect what was deleted",
        )
    if position.offset > topic.ends[shard]:
        raise Refused(
            f"{what}: shard {shard} must read on from offset {position.offset}, and the log ends at "
            f"{topic.ends[shard]}: the broker lost records that were read",
            # An older snapshot would read on in a log that lacks them too: Debezium sends them no second time.
            "run `kycache rebuild --epoch`",
        )
    return topic.ends[shard] - position.offset
