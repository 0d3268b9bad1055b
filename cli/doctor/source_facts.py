"""The source database as plain facts: what `kycache doctor` looks at there, and concludes from."""

from collections.abc import Mapping
from dataclasses import dataclass, field

HEARTBEAT_COLUMNS = frozenset({"user_id", "shard", "beat_at", "truncated"})
"""What the beat and the truncate trigger write; a table that was made otherwise may lack some."""


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """A column: its type's name and, for an enum, its labels. `generated` is `pg_attribute.attgenerated`."""

    type: str
    labels: tuple[str, ...] = ()
    generated: str = ""
    plain: bool = True
    """A base type or an enum, be it a domain's; of composites and ranges nothing is concluded."""
    precision: int | None = None
    """Of the seconds of a timestamp or a time of day, as declared; None: six digits."""
    scale: int | None = None
    """Of a numeric, as declared; None: any."""
    nullable: bool = False
    length: int | None = None
    """Of a char(n)."""
    deterministic: bool = True
    """Its collation takes texts for equal only where their bytes are."""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """A table at the source. `identity` is `pg_class.relreplident`: d, n, f or i."""

    identity: str
    columns: Mapping[str, ColumnFacts]
    identity_columns: frozenset[str] = frozenset()
    """Columns of the index that is the identity, where one is."""
    truncate_trigger: str | None = None
    """The body of the function that the enabled trigger calls; None where there is no such trigger."""
    partitioned: bool = False
    partitions_without: tuple[str, ...] = ()
    """Its partitions without REPLICA IDENTITY FULL: each has its own, and the parent's says nothing."""
    unique: tuple[frozenset[str], ...] = ()
    """The columns of each of its unique indexes that hold for all rows."""
    rights: frozenset[str] = frozenset({"SELECT", "UPDATE"})
    """Which of the two Debezium's role has."""
    heirs: tuple[str, ...] = ()
    """Tables that inherit from it, which partitions do not count as."""
    hides_rows: bool = False
    """Its row level security may hide rows from Debezium's role."""


@dataclass(frozen=True, slots=True)
class PublishedFacts:
    """A table of a publication."""

    columns: frozenset[str] | None
    """None: all of them, as ever before PostgreSQL 15."""
    row_filter: bool = False


@dataclass(frozen=True, slots=True)
class PublicationFacts:
    """A publication: the tables it covers in the schema, and what it publishes of them."""

    tables: Mapping[str, PublishedFacts]
    operations: frozenset[str]
    via_root: bool = True
    generated: bool = True
    """Stored generated columns are published (PostgreSQL 18)."""


@dataclass(frozen=True, slots=True)
class SlotFacts:
    """A replication slot, as `pg_replication_slots` shows it."""

    plugin: str
    database: str
    active: bool
    wal_status: str
    retained_bytes: int
    keep_bytes_max: int | None
    """`max_slot_wal_keep_size`: what it may retain before PostgreSQL gives it up; None: without end."""
    why_lost: str = ""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The source database: the view's tables and the heartbeats'. Those that do not exist are left out."""

    wal_level: str
    in_recovery: bool
    tables: Mapping[str, TableFacts]
    publication: PublicationFacts | None
    heartbeat_rows: Mapping[str, int] | None
    """Each heartbeat row's key and the shard it names; None where they cannot be told."""
    slot: SlotFacts | None
    beaten_s: float | None = None
    """How long ago the newest heartbeat row was written, by the source's own clock; None: no beat has come yet."""
    fingerprints: frozenset[str] = frozenset()
    """Those that stand in the heartbeat rows."""
    odd_dates: Mapping[tuple[str, str], bool | None] = field(default_factory=dict)
    """Per table and column, whether there are dates that a snapshot shifts; None: it could not be asked."""
    database: str = ""
    role: str = ""
    """Debezium's: who reads the slot, or else would by the settings."""
    version: int = 180_000
    clock_ahead_s: float = 0.0
    """Of this machine's clock."""
    lsn: int | None = None
    """Where its log ends; None for a standby."""
    empty_enums: tuple[str, ...] = ()
    """Enum types without a label, anywhere in the database."""
    clock_error_s: float = 0.0
    """By how much that may be wrong: half of what asking took."""
