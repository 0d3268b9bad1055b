"""What a shard knows about itself beside its rows, kept in the batch's transaction."""

import msgspec

from kycache.model.lsn import Version
from kycache.model.scalars.times import TimePrecision


class Identity(msgspec.Struct, frozen=True):
    """Which shard of which view a file holds. Any mismatch is refused."""

    format: int
    shard: int
    shards: int
    view: str
    epoch: int = 0
    """Counts the source's histories: `kycache rebuild --epoch` starts a new one."""
    times: TimePrecision = TimePrecision.ADAPTIVE
    """The unit of times in the log that the file is filled from; files of before the choice do not say it."""


class Position(msgspec.Struct, frozen=True):
    """The Kafka coordinates of the next change to read."""

    topic: str
    topic_id: str
    partition: int
    offset: int
    leader_epoch: int = -1


class PendingTruncate(msgspec.Struct, frozen=True):
    """A keyless `t` whose heartbeat row has not come yet (DESIGN 6.6)."""

    table: int
    tx: int | None
    commit: int | None
    lsn: int


class Alteration(msgspec.Struct, frozen=True, array_like=True):
    """The source's catalog changed, in what the view reads: rows may have changed without an event."""

    offset: int
    """Of the record that showed it last."""
    lsn: int
    lacking: str = ""
    """The table, and the declared columns that its rows came without; empty where a beat told."""


class Counters(msgspec.Struct):
    """How often what happened, since the generation of the store began. Exact: kept with the rows."""

    applied: int = 0
    stale: int = 0
    """Changes older than the row they met: redelivery and late arrivals."""
    beats: int = 0
    skipped: int = 0
    quarantined: int = 0
    swept: int = 0
    truncated: int = 0
    unknown_columns: int = 0


class ShardState(msgspec.Struct, array_like=True):
    """One shard's state. All LSNs are the source's; times are its clock in milliseconds since 1970."""

    position: Position
    from_start: bool = False
    """The partition was read from offset 0, or restored from a file that was."""
    generation: int | None = None
    """S: the LSN of the latest whole snapshot met."""
    generation_offset: int = 0
    """Where the first row of that snapshot stood in the partition."""
    before_commit: int = -1
    """`commit_seen` when that snapshot began: streamed changes up to it came before, and are in the snapshot."""
    before_ms: int = 0
    """`seen_ms` at that moment: the same for changes whose `sequence[0]` is null."""
    unswept: bool = False
    """Rows of an older generation may still be there."""
    streamed: bool = False
    """A streamed change came after that snapshot: rows of older generations are swept."""
    bootstrapped: bool = False
    watermark: int = 0
    as_of_ms: int = 0
    """The source's clock at the latest streamed change that was not ahead of ours when it was applied: of one that
    was, nobody can tell how old it is."""
    commit_seen: int = 0
    """The greatest `sequence[0]` seen."""
    heartbeat: bool = False
    """Heartbeat rows arrive: freshness is known in the source's time, not only up to Kafka."""
    floors: dict[int, Version] = {}
    """Per table, the version of its latest truncate: older rows of it are gone for good."""
    pending: tuple[PendingTruncate, ...] = ()
    high_water: int = 0
    """The end of the partition as the last fetch saw it: what the lag is measured against."""
    users: int = 0
    suspects: int = 0
    """Profiles under suspicion."""
    quarantined: int = 0
    """Records in quarantine now."""
    doubts: int = 0
    """Records in quarantine that name no user, and so put the whole shard in doubt."""
    counters: Counters = msgspec.field(default_factory=Counters)
    placed_offset: int = 0
    """Behind the last record whose place in the source's history could be told."""
    unplaced_offset: int = 0
    """The same when the latest whole snapshot began: what lies between may have been of it, or before it."""
    epoch: int = 0
    """As in the store's identity."""
    ahead_ms: int = 0
    """By how much the latest time of the source's clock that was seen is later than `as_of_ms`."""
    disbelieved: bool = False
    """The latest change was dated ahead of our clock: as-of waits for one that is not."""
    fingerprint: str = ""
    """Of the source's catalog, as the latest beat or the latest whole snapshot brought it; empty: none yet."""
    fingerprint_lsn: int = 0
    altered: Alteration | None = None
    """Puts every answer in doubt."""
    unseen: tuple[bytes, ...] = ()
    """Per table, the declared columns that no row has come with yet, as a set of bits; empty: of no table any."""
    seen_lsn: tuple[int, ...] = ()
    """Per table, where the last of the others came first."""

    @property
    def known_as_of_ms(self) -> int | None:
        """`as_of_ms`, where it tells how fresh the shard is: heartbeats come, and not all that came was ahead."""
        return self.as_of_ms or None if self.heartbeat else None

    @property
    def seen_ms(self) -> int:
        """The latest time of the source's clock that was seen, right or wrong: what redelivery is told by."""
        return self.as_of_ms + self.ahead_ms
