"""Child processes with one owner: started, watched, started again, stopped, and nothing of them left.

Each child leads its own session and process group, so Ctrl-C at the terminal reaches the demo alone and the
demo decides the order; what a dead child leaves in its group is swept. If the demo itself is killed, the
kernel signals every child (see `leash`). All of this belongs to the main thread: the kernel ties a child's
death signal to the *thread* that forked it.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kycache.model.errors import KycacheError, Unreachable

from . import leash

STOP_TIMEOUT_S = 15.0
"""What a child may take to stop: a JVM needs a few seconds, a draining web server its 10 s of grace."""

RESTART_BACKOFF_MAX_S = 5.0
STEADY_AFTER_S = 3.0
"""A child that was well and ran this long since its last start: its next death starts the backoff anew."""

EARLY_DEATHS_MAX = 4
"""Deaths before the child was ever well that end the demo: by then it will not get better by itself."""

POLL_S = 0.05
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Account:
    """A system account to run a child under."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Program:
    """How to start one child."""

    name: str
    argv: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    restartable: bool = True


class Child:
    """One program and its current process, if any."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._deaths = 0
        self._due_at = 0.0
        self._was_well = False
        self._swept = True

    @property
    def pid(self) -> int:
        """The current process, or the last one; 0 before the first start."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Starts the process; returns at once."""
        program = self.program
        account = program.account or Account(-1, -1)
        words = (os.getpid(), program.stop_signal.value, account.uid, account.gid)
        leashed = [sys.executable, "-I", "-S", leash.__file__, *map(str, words), *program.argv]
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            self._process = subprocess.Popen(
                leashed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=program.directory,
                env=_environment(program),
                start_new_session=True,
            )
        self._started_at = time.monotonic()
        self._swept = False

    def is_running(self) -> bool:
        """Whether the process lives; a dead one is reaped, and what it left in its group killed."""
        if self._process is None:
            return False
        if self._process.poll() is None:
            return True
        self._sweep()
        return False

    def mark_well(self) -> None:
        """The child did its work: later deaths are accidents and not a wrong start."""
        self._was_well = True

    def revive(self) -> bool:
        """Starts a dead child again when its backoff is over; says whether a new process was started.

        Raises:
            Unreachable: it died before it was ever well, too often.
        """
        if self.is_running():
            return False
        now = time.monotonic()
        if self._due_at == 0.0:
            if self._was_well and now - self._started_at > STEADY_AFTER_S:
                self._deaths = 0
            self._deaths += 1
            if self._deaths >= EARLY_DEATHS_MAX and not self._was_well:
                raise self.failure(f"ended {self._deaths} times right after its start")
            self._due_at = now + min(RESTART_BACKOFF_MAX_S, 0.1 * 2 ** (self._deaths - 1))
        if now < self._due_at:
            return False
        self._due_at = 0.0
        self.start()
        return True

    def failure(self, what: str) -> KycacheError:
        """The error for a child that cannot be kept alive, with the end of its log."""
        code = self._process.returncode if self._process else None
        tail = "".join(f"\n    {line}" for line in log_tail(self.program.log))
        return Unreachable(
            f"the demo's {self.program.name} {what} (exit {code}); its log {self.program.log} ends:{tail}",
            "mend what the log says, then start the demo again",
        )

    def stop(self) -> None:
        """Asks the process to stop; returns at once. `wait_stopped` finishes it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.program.stop_signal)

    def wait_stopped(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Waits for a stopping process; kills it when it takes longer."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._sweep()

    def _sweep(self) -> None:
        """Kills what the dead process left in its group; once, for its number may come again."""
        if self._process is None or self._swept:
            return
        self._swept = True
        with suppress(ProcessLookupError, PermissionError):  # the group is empty, the usual case
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(program: Program) -> dict[str, str]:
    """Ours, without kycache's own variables: they would override the demo's configuration file."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith("KYCACHE_")}
    return {**kept, **program.environment}


def log_tail(path: Path, lines: int = LOG_TAIL_LINES) -> list[str]:
    """The last lines of a log; empty when there is none."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


@contextmanager
def stopping(*children: Child) -> Iterator[None]:
    """Stops `children` together when the block ends, however it ends."""
    try:
        yield
    finally:
        for child in children:
            child.stop()
        for child in children:
            child.wait_stopped()
