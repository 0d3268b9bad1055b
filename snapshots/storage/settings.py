"""What snapshots are told: where they are kept, who may read them, and what taking one may cost."""

from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from kycache.actors.generations.hot_copy import CopyLimits

MIB = 1 << 20

NICENESS = 10
"""Of processes that ingest starts for snapshots: reads and changes go first."""


@dataclass(frozen=True, slots=True)
class SnapshotSettings:
    """The store and its keys, and the limits."""

    store: str
    """The store's URL."""
    key: str | None = None
    """What manifests are authenticated with; None: a key in the store itself, where it is a folder."""
    recipients: tuple[str, ...] = ()
    """age recipients whose identities can read the files; none: the files are not encrypted."""
    identity: Path | None = None
    """The file with the age identities that read them."""
    allow_unencrypted: bool = False
    """Write to a remote store although nobody encrypts."""

    level: int = 1
    """zstd's. The copy must keep up with the disk: 1 costs a third of 3, for a tenth more bytes."""
    copying: CopyLimits = field(default_factory=CopyLimits)
    part_bytes: int = 16 * MIB
    """Of a multipart upload; 10,000 of them are the most that S3 takes: 160 GB a shard."""

    @property
    def shown(self) -> str:
        """The store's URL as messages name it."""
        return shown(self.store)


def shown(url: str) -> str:
    """A store's URL without what may be a password."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
