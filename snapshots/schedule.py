"""Snapshots that ingest takes by itself: when the next is due, and a child process that takes it.

A process of its own, as an operator's would be: it takes neither ingest's interpreter nor its memory, goes on to
its end where ingest is killed, and can be ended where ingest stops; what it finished is gone on with next time.
Of several ingest processes on one data directory each keeps the time; the lock lets one of them work, and the
report of the data directory tells the others that it was done.
"""

import os
import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.snapshot_report import SnapshotReport, failed, read_report
from kycache.model.errors import Refused
from kycache.snapshots.storage.settings import NICENESS

from .lock import Busy, one_at_a_time

JITTER = 0.1
"""Part of the interval by which each is moved at random: nodes that started together must not copy together."""

FIRST_WAIT_S = 60.0
"""The first one of a data directory is taken within so long after ingest started."""

RETRY_S = (60.0, 300.0, 900.0, 3600.0)
"""After failures in a row; never later than the next one would have been due."""

LOOK_S_MAX = 60.0
"""Another process may have taken one meanwhile, or failed to."""

OUTPUT_BYTES_MAX = 4096
"""Of what a command that failed says: two lines."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Schedule:
    """How often, and how many are kept; `command` is how kycache is called, up to `snapshot`."""

    every_s: float
    keep: int | None
    command: Sequence[str]


def due_at(report: SnapshotReport, every_s: float, started: datetime, draw: float) -> datetime:
    """When the next snapshot is to be taken. Pure.

    Args:
        started: when this process began to keep the time.
        draw: from 0 to 1, at random, drawn anew after each snapshot.
    """
    moved = timedelta(seconds=every_s * (1 + JITTER * (2 * draw - 1)))
    if taken := report.partly_at or report.at:
        due = datetime.fromisoformat(taken) + moved
    else:
        due = started + timedelta(seconds=min(FIRST_WAIT_S, every_s) * draw)
    if report.failed_in_a_row:
        wait = min(RETRY_S[min(report.failed_in_a_row, len(RETRY_S)) - 1], every_s)
        return max(due, datetime.fromisoformat(report.failed_at) + timedelta(seconds=wait * (0.9 + 0.2 * draw)))
    return due


def wait_s(due: datetime, every_s: float, now: datetime) -> float:
    """How long until then. What is due later than anything can be was reckoned by a clock that ran ahead and has
    been set right since: it is due now, and not when the clock has come there again. Pure."""
    wait = (due - now).total_seconds()
    return wait if wait <= every_s * (1 + JITTER) else 0.0


async def take_snapshots(
    schedule: Schedule,
    directory: DataDirectory,
    ready: Callable[[], bool],
    *,
    task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Take snapshots until cancelled. A failed one is reported, and tried again.

    Args:
        ready: whether the shards hold enough to be worth it.
    """
    started, draw = datetime.now(UTC), random.random()
    task_status.started()
    while True:
        report = read_report(directory)
        wait = wait_s(due_at(report, schedule.every_s, started, draw), schedule.every_s, datetime.now(UTC))
        if wait > 0 or not ready():
            await trio.sleep(max(0.05, min(wait if wait > 0 else RETRY_S[0], LOOK_S_MAX)))
            continue
        if await _taken(schedule, directory, report):
            draw = random.random()
        else:
            await trio.sleep(1)  # the lock is another's: it is due for both, and one is enough


async def _taken(schedule: Schedule, directory: DataDirectory, before: SnapshotReport) -> bool:
    """Take one, and remove what is beyond `keep`; whether anything came of it, good or bad."""
    code, said = await _run([*schedule.command, "create", "--json"])
    after = read_report(directory)
    if after == before:
        if _is_taken_elsewhere(directory):
            return False
        # It could not even say so: it was killed, or never began.
        said = said or f"`kycache snapshot create` ended with exit code {code}"
        try:
            after = failed(directory, said)
        except Refused as error:
            log.error("a snapshot could not be taken", problem=said, uncounted=error.problem)
            await trio.sleep(min(schedule.every_s, RETRY_S[-1]))
            return True
    if after.failed_in_a_row:
        log.error("a snapshot could not be taken", problem=said, failed_in_a_row=after.failed_in_a_row)
        return True
    about = {"id": after.id, "seconds": round(after.duration_s, 1), "bytes": after.bytes}
    if after.problem:
        log.error("snapshot taken", **about, problem=after.problem)
    else:
        log.info("snapshot taken", **about, said=said)
    if schedule.keep is not None:
        code, said = await _run([*schedule.command, "prune", "--keep", str(schedule.keep), "--json"])
        if code:
            log.error("old snapshots could not be removed", exit_code=code, problem=said)
    return True


def _is_taken_elsewhere(directory: DataDirectory) -> bool:
    try:
        with one_at_a_time(directory):
            return False
    except Busy:
        return True
    except OSError:  # nobody can: the command has said so
        return False


async def _run(command: Sequence[str]) -> tuple[int, str]:
    """Run a command at low priority; its exit code, and what it said on stderr. Cancelled, it is ended first."""
    try:
        ended = await trio.run_process(
            ["nice", "-n", str(NICENESS), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            capture_stderr=True,
            check=False,
        )
    except OSError as error:  # no process, no memory, no descriptor is left: it must not end ingest
        return os.EX_OSERR, f"no process could be started: {error}"
    return ended.returncode, " ".join(ended.stderr[-OUTPUT_BYTES_MAX:].decode(errors="replace").split())
