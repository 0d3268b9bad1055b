"""What a Kafka record means, once decoded: one of five plain items, in the order of the partition."""

from enum import Enum

import msgspec

from .values import Absent, Value


class Snapshot(Enum):
    """Which kind of snapshot sent a row; STREAMED is none (DEBEZIUM 5, 6, 7)."""

    STREAMED = 0
    WHOLE = 1
    PARTIAL = 2  # incremental or blocking: `op:r` with a last commit in its sequence


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where in the source's history an event stands."""

    snapshot: Snapshot
    commit: int | None
    """End of the last commit before this transaction; None in a whole snapshot and in the first after it."""
    lsn: int
    ts_ms: int
    """The source's clock at the commit."""
    tx: int | None


class Change(msgspec.Struct, gc=False):
    """One row written (`values`) or deleted (`values` is None)."""

    offset: int
    origin: Origin
    table: int
    """0 is the view's root, 1… its children."""
    kafka_key: bytes
    user: bytes
    """The user id in its order-preserving form: the key of the profile."""
    key: Value
    """The row's primary key, stored form."""
    values: tuple[Value | Absent, ...] | None
    doubtful: bool = False
    """A value equals the TOAST placeholder where none can stand (DEBEZIUM 37)."""
    extra: int = 0
    """Columns of the image that the view does not declare."""
    partial: bool = False
    """Some of `values` are `Absent`."""
    former: Value = None
    """The row's primary key before, where this update changed it: no row has that one any more."""

    @property
    def deletes(self) -> bool:
        """A delete marker comes of it."""
        return self.values is None or self.former is not None


class Beat(msgspec.Struct, gc=False):
    """The shard's heartbeat row: carries freshness, and the tables truncated in its transaction."""

    offset: int
    origin: Origin
    truncated: tuple[int, ...]
    """Tables of the view, as in `Change.table`."""
    fingerprint: str = ""
    """Of the source's catalog; empty where the row has none, or one of another definition."""


class Truncate(msgspec.Struct):
    """The keyless `t` event: only a check that the trigger's heartbeat rows come (DESIGN 6.6)."""

    offset: int
    origin: Origin
    table: int


class Skip(msgspec.Struct):
    """Nothing to apply: a tombstone, a row of a table outside the view."""

    offset: int
    reason: str


class Scope(Enum):
    """Whose answers are in doubt while a poison record is unresolved (DESIGN 6.8)."""

    ROW = "row"  # nobody's: the row names no user that there can be, and no answer would hold it
    PROFILE = "profile"
    SHARD = "shard"
    DIRECTORY = "directory"  # every shard of the data directory


SHARD_IN_DOUBT = frozenset({Scope.SHARD, Scope.DIRECTORY})
"""A record of these scopes may be about any user of its shard."""


class Poison(msgspec.Struct):
    """A record that could not be decoded: kept whole in quarantine."""

    offset: int
    timestamp_ms: int
    kafka_key: bytes | None
    kafka_value: bytes | None
    reason: str
    """Says what and where; holds no value of the record."""
    scope: Scope
    user: bytes | None = None
    table: int | None = None
    key: Value = None
    origin: Origin | None = None


class Misrouted(msgspec.Struct):
    """A record whose key proves a wrong connector: the shard halts before it (DESIGN 6.8)."""

    offset: int
    problem: str
    remedy: str


Item = Change | Beat | Truncate | Skip | Poison | Misrouted
