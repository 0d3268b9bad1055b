"""`data/snapshots.json`: what became of the latest snapshots of this directory, for `/metrics` and `status`."""

from datetime import UTC, datetime

import msgspec

from kycache.model.errors import Refused

from .directory import DataDirectory
from .files import write_whole

FILE = "snapshots.json"


class SnapshotReport(msgspec.Struct, frozen=True):
    """Whichever process took them writes it, while it holds the directory's snapshot lock."""

    id: str = ""
    """The newest; empty before the first."""
    at: str = ""
    """When the newest was taken that lacks no shard."""
    duration_s: float = 0.0
    bytes: int = 0
    """In the store."""
    shards: int = 0
    failures: int = 0
    """Ever."""
    failed_in_a_row: int = 0
    failed_at: str = ""
    problem: str = ""
    """Why the latest one failed, or lacks shards; empty where all is well."""
    partly_at: str = ""
    """When one was taken that lacks shards, since the newest that lacks none."""

    def age_s(self, now: datetime) -> float | None:
        """How old the newest good one is, None where there is none."""
        return (now - datetime.fromisoformat(self.at)).total_seconds() if self.at else None


def read_report(directory: DataDirectory) -> SnapshotReport:
    """What is known; nothing where no snapshot was ever taken, or the file is damaged, or another user's (of a
    command that was run as root): the next one mends it."""
    try:
        return msgspec.json.decode((directory.root / FILE).read_bytes(), type=SnapshotReport)
    except (OSError, msgspec.MsgspecError):
        return SnapshotReport()


def succeeded(directory: DataDirectory, snapshot: str, duration_s: float, stored: int, shards: int) -> None:
    """A snapshot was taken."""
    known = read_report(directory)
    at = datetime.now(UTC).isoformat()
    write_report(directory, SnapshotReport(snapshot, at, duration_s, stored, shards, known.failures))


def partly(
    directory: DataDirectory, snapshot: str, duration_s: float, stored: int, shards: int, problem: str
) -> None:
    """A snapshot was taken that lacks shards: a failure, but none that trying again soon could mend."""
    known = read_report(directory)
    at = datetime.now(UTC).isoformat()
    changed = SnapshotReport(
        snapshot, known.at, duration_s, stored, shards, known.failures + 1, 0, at, problem, partly_at=at
    )
    write_report(directory, changed)


def failed(directory: DataDirectory, problem: str) -> SnapshotReport:
    """A snapshot was not; what is known now."""
    known = read_report(directory)
    changed = msgspec.structs.replace(
        known,
        failures=known.failures + 1,
        failed_in_a_row=known.failed_in_a_row + 1,
        failed_at=datetime.now(UTC).isoformat(),
        problem=problem,
    )
    write_report(directory, changed)
    return changed


def write_report(directory: DataDirectory, report: SnapshotReport) -> None:
    """Replace the file.

    Raises:
        Refused: it cannot be written.
    """
    path = directory.root / FILE
    try:
        write_whole(path, msgspec.json.encode(report))
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", "make room there") from None
