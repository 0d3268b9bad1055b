"""`data/snapshots.json`: what became of the latest snapshots of this directory, for `/metrics` and `status`."""

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from kycache.model.errors import Refused

from .directory import DataDirectory
from .shard_folder import write_whole

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
    store: str = ""
    """Where the newest went, as messages name it."""

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


class Taken(NamedTuple):
    """A snapshot that was taken: the report's facts about it."""

    id: str
    duration_s: float
    bytes: int
    shards: int
    store: str


def succeeded(directory: DataDirectory, taken: Taken) -> None:
    """A snapshot was taken."""
    failures = read_report(directory).failures
    write_report(directory, SnapshotReport(**taken._asdict(), at=datetime.now(UTC).isoformat(), failures=failures))


def partly(directory: DataDirectory, taken: Taken, problem: str) -> None:
    """A snapshot was taken that lacks shards: a failure, but none that trying again soon could mend."""
    known = read_report(directory)
    at = datetime.now(UTC).isoformat()
    report = SnapshotReport(**taken._asdict(), at=known.at, failures=known.failures + 1)
    write_report(directory, msgspec.structs.replace(report, failed_at=at, problem=problem, partly_at=at))


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
        raise Refused(f"{path} cannot be written: {error.strerror}", "make room, or grant access to it") from None
