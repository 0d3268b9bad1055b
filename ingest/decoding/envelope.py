"""Debezium's envelope: what of it is read, and where in the source's history an event stands. Pure."""

import msgspec

from kycache.model.change import Origin, Scope, Snapshot
from kycache.model.lsn import parse_sequence
from kycache.model.scalars.numbers import INT_MAX
from kycache.model.values import Value

TS_MS_END = 253_402_300_800_000
"""The year 10000, in milliseconds: a source's clock shows less, and a greater one would look fresh for ever."""

NULL = msgspec.Raw(b"null")


class Source(msgspec.Struct, gc=False):
    """Where an event comes from."""

    table: str
    ts_ms: int
    lsn: int | None = None
    sequence: str | None = None
    snapshot: str | bool | None = None
    tx: int | None = msgspec.field(default=None, name="txId")


class Envelope(msgspec.Struct):
    """An event, its row images still as they came."""

    op: str | None = None
    source: Source | None = None
    before: msgspec.Raw = NULL  # of an update its keys alone are read: it is half of the event
    after: msgspec.Raw = NULL
    payload: "Envelope | msgspec.UnsetType | None" = msgspec.UNSET


class Poisoned(Exception):
    """A record cannot be understood; what of it could be goes into `Poison`."""

    def __init__(
        self,
        reason: str,
        *,
        scope: Scope | None = None,
        user: bytes | None = None,
        table: int | None = None,
        key: Value = None,
        origin: Origin | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.scope = scope
        self.user = user
        self.table = table
        self.key = key
        self.origin = origin


def origin_of(op: str, source: Source) -> Origin:
    """Where the event stands in the source's history.

    Whole snapshot rows have a null last commit; rows of incremental and blocking ones have not (lines 5, 6).
    """
    try:
        commit, lsn = parse_sequence(source.sequence) if source.sequence is not None else (None, None)
    except ValueError:
        raise Poisoned(f"table {source.table!r}: source.sequence is not a pair of numbers") from None
    lsn = source.lsn if lsn is None else lsn
    if lsn is None:
        raise Poisoned(f"table {source.table!r}: neither source.sequence nor source.lsn gives a position")
    if not (0 < lsn <= INT_MAX and 0 <= (commit or 0) <= INT_MAX and abs(source.tx or 0) <= INT_MAX):
        raise Poisoned(f"table {source.table!r}: source.sequence, lsn or txId is no number of Postgres")
    if not 0 <= source.ts_ms < TS_MS_END:
        raise Poisoned(f"table {source.table!r}: source.ts_ms is no time of a clock")
    if op != "r":
        kind = Snapshot.STREAMED
    else:
        kind = Snapshot.WHOLE if commit is None and source.snapshot != "incremental" else Snapshot.PARTIAL
    return Origin(kind, commit, lsn, source.ts_ms, source.tx)
