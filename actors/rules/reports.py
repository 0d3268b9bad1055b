"""What processes say of shards in files: of one in `state.json`, of all in `suspect.json`."""

from enum import StrEnum

import msgspec

NO_SHARD = -1
"""In a doubt: the source itself said it."""

SUSPECT = "suspect"
"""The kind of doubt that a record leaves which may concern any profile; it is lifted where its record is."""

CUT_OFF = "stale"
"""The kind of doubt that a truncate leaves whose rows no shard was told of, and a source that moved back."""


class Doubt(msgspec.Struct, frozen=True):
    """An entry of `suspect.json`: `kind` is `SUSPECT` or `CUT_OFF`."""

    kind: str
    shard: int
    """Which shard's partition said so, and at which offset; `NO_SHARD` where none did."""
    offset: int
    reason: str
    lsn: int = 0
    """A later whole snapshot puts right what came before it."""
    epoch: int = 0
    """The one that it happened in: what starts over from a later one has read nothing of it."""


class WriterState(StrEnum):
    """What a shard's writer said of it last."""

    OPEN = "open"
    """It is written; there may be a reason why nothing is committed just now."""
    CLOSED = "closed"
    HALTED = "halted"
    RESTORING = "restoring"
    UNKNOWN = "unknown"
    """A word that another version of kycache knows. It is read so, and never written."""

    @classmethod
    def _missing_(cls, value: object) -> "WriterState":  # noqa: ARG003
        return cls.UNKNOWN


class Report(msgspec.Struct, frozen=True):
    """A shard's `state.json`: what its writer last said."""

    state: WriterState
    reason: str = ""
    remedy: str = ""
    holder: str = ""
