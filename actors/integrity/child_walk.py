"""Having a shard's file walked by another process, which may die of it.

LMDB's pages have no checksums, and a garbled one can abort the process that reads it (4 of 60 did, measured).
So a file nobody vouches for is read by a child first (`walk_program.py`), and whatever becomes of that turned into
an answer.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from kycache.actors.files.environment import DamagedFile, check_before_mapping, damage_remedy, data_file
from kycache.actors.files.pid_claim import PID_TAKEN_EXIT, PIDS_TRIED_MAX
from kycache.actors.rules.state import Identity, ShardState
from kycache.model.errors import Refused
from kycache.model.view import View

WALK_START_S = 60.0
"""What a walk may take whatever the file's size: an interpreter's start on a machine that is busy with others."""

WALK_BYTES_PER_S_MIN = 1 << 19
"""The slowest that a walk may be before it is given up as hung: a twentieth of what the full one does here."""

LOOK_S = 0.05
"""How often the parent looks after its child."""


class Facts(msgspec.Struct, frozen=True):
    """What a whole file holds."""

    identity: Identity
    state: ShardState
    full: bool
    """Every record was looked at, not only every page."""


class Job(msgspec.Struct, frozen=True):
    generation: str
    shard: int
    view: View | None


class Outcome(msgspec.Struct, frozen=True):
    facts: Facts | None
    problem: str = ""


def walk_in_child(
    generation: Path,
    shard: int,
    view: View | None,
    *,
    look: Callable[[], None] | None = None,
    timeout_s: float | None = None,
) -> Facts:
    """Walk a generation that nobody writes in a child process. Blocking.

    Args:
        view: with it the walk is full.
        look: called now and then; what it raises ends the child and leaves here.
        timeout_s: by default what the slowest disk would need.

    Raises:
        DamagedFile: what is wrong with which file, or what it did to the process that read it.
        Refused: it is on a read-only mount, or no pid is free.
    """
    path = data_file(generation)
    check_before_mapping(generation, shard)
    if timeout_s is None:
        timeout_s = WALK_START_S + path.stat().st_size / WALK_BYTES_PER_S_MIN
    job = msgspec.json.encode(Job(os.fspath(generation), shard, view))
    for _ in range(PIDS_TRIED_MAX):
        code, answer = _ended(path, shard, job, timeout_s, look or _nothing)
        if code != PID_TAKEN_EXIT:
            return _facts(path, shard, code, answer)
    raise Refused(
        f"shard {shard}: {path} cannot be walked: processes of other containers have every pid that was tried",
        "let the containers share one pid namespace",
    )


def _facts(path: Path, shard: int, code: int, answer: bytes) -> Facts:
    """What a child came to."""
    if code:
        raise DamagedFile(
            f"shard {shard}: {path} is damaged: it ended the process that read it ({_ending(code)})",
            damage_remedy(shard),
        )
    outcome = msgspec.json.decode(answer, type=Outcome)
    if outcome.facts is None:
        raise DamagedFile(outcome.problem, damage_remedy(shard))
    return outcome.facts


def _ended(path: Path, shard: int, job: bytes, timeout_s: float, look: Callable[[], None]) -> tuple[int, bytes]:
    """One child's exit code and its answer."""
    with subprocess.Popen(
        [sys.executable, "-m", "kycache.actors.integrity.walk_program"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as child:
        try:
            answer = _converse(child, job, time.monotonic() + timeout_s, look)
        except subprocess.TimeoutExpired:
            problem = f"shard {shard}: {path} could not be walked within {timeout_s:.0f} s"
            raise DamagedFile(
                problem, f"try again when its disk is less busy, or {damage_remedy(shard)}"
            ) from None
        finally:
            child.kill()
    return child.returncode, answer


def _converse(child: subprocess.Popen[bytes], job: bytes, deadline: float, look: Callable[[], None]) -> bytes:
    job_left: bytes | None = job
    while True:
        try:
            return child.communicate(job_left, timeout=LOOK_S)[0]
        except subprocess.TimeoutExpired:
            job_left = None
            look()
            if time.monotonic() > deadline:
                raise


def _nothing() -> None:
    pass


def _ending(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit {code}"
