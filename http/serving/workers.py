"""Several processes that share one port: bound once, forked, started again when they die, stopped together.

The parent serves nothing and runs no event loop; it must not have opened a shard or started a thread, because the
workers are forked from it. A worker whose parent is gone ends too: it would keep the port.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from kycache.actors.files.pid_claim import PID_TAKEN_EXIT, PidTaken
from kycache.http.exchange.counts import Counts, Tally
from kycache.model.errors import ConfigurationError, KycacheError, Refused, whereabouts

from .listen import bind
from .settings import HttpSettings

RESTART_S_MIN = 0.1
RESTART_S_MAX = 5.0
"""Pauses before a worker that died is started again double from the one to the other."""

STEADY_S = 10.0
"""A worker that lived so long begins with the short pause again."""

MARGIN_S = 2.0
"""What a worker gets beyond draining and grace to close its shards; then it is killed. It only reads."""

_HOPELESS = {ConfigurationError.exit_code, Refused.exit_code}
"""Exit codes that starting again cannot help."""

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}

log = logging.getLogger("kycache.http")


class Worker(NamedTuple):
    """What one worker is given."""

    number: int
    listener: socket.socket
    counts: Counts


class _Slot:
    """One worker's place: its process, and when it may be started again."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.pid = 0
        self.started = 0.0
        self.pause = RESTART_S_MIN
        self.due = 0.0


def run_workers(settings: HttpSettings, start_one: Callable[[Worker], None]) -> int:
    """Run `settings.workers` processes until SIGTERM or SIGINT; returns the exit code.

    Args:
        start_one: serves in a forked process until SIGTERM, then returns. A `KycacheError` that starting again
            cannot help ends all workers with its code.

    Raises:
        ConfigurationError: the address cannot be bound.
    """
    with bind(settings) as listener:
        return _Parent(settings, listener, start_one).run()


class _Parent:
    def __init__(
        self, settings: HttpSettings, listener: socket.socket, start_one: Callable[[Worker], None]
    ) -> None:
        self._stop_s = settings.drain_s + settings.grace_s + MARGIN_S
        self._listener = listener
        self._start_one = start_one
        self._tally = Tally(settings.workers)
        self._slots = [_Slot(number) for number in range(settings.workers)]
        self._alive_read, self._alive_write = os.pipe()  # the workers see its end when the parent dies

    def run(self) -> int:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            return self._stop(self._watch())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.close(self._alive_read)
            os.close(self._alive_write)

    def _watch(self) -> int:
        """Keep the workers running; returns the exit code once they must stop."""
        while True:
            now = time.monotonic()
            for slot in self._slots:
                if not slot.pid and slot.due <= now:
                    self._fork(slot)
            due = [slot.due for slot in self._slots if not slot.pid]
            if due:
                signalled = signal.sigtimedwait(_SIGNALS, max(0.0, min(due) - now))
            else:
                signalled = signal.sigwaitinfo(_SIGNALS)
            if signalled is not None and signalled.si_signo != signal.SIGCHLD:
                return 0
            for slot, code in self._dead():
                if code in _HOPELESS:
                    return code
                self._plan(slot, code)

    def _plan(self, slot: _Slot, code: int) -> None:
        now = time.monotonic()
        if code == PID_TAKEN_EXIT:
            slot.due = now
            return
        if now - slot.started >= STEADY_S:
            slot.pause = RESTART_S_MIN
        slot.due = now + slot.pause
        log.warning("web worker %d ended with %d, starts again in %.1f s", slot.number, code, slot.pause)
        slot.pause = min(2 * slot.pause, RESTART_S_MAX)

    def _dead(self) -> list[tuple[_Slot, int]]:
        dead = []
        for slot in self._slots:
            if slot.pid:
                pid, status = os.waitpid(slot.pid, os.WNOHANG)
                if pid:
                    slot.pid = 0
                    dead.append((slot, os.waitstatus_to_exitcode(status)))
        return dead

    def _stop(self, code: int) -> int:
        self._listener.close()  # the workers have theirs, and end taking connections when they close them
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_s
        while any(slot.pid for slot in self._slots):
            left = deadline - time.monotonic()
            if left <= 0:
                log.warning("web workers did not end within %.1f s and are killed", self._stop_s)
                self._signal_all(signal.SIGKILL)
                left = self._stop_s
                deadline = time.monotonic() + left
            signal.sigtimedwait({signal.SIGCHLD}, left)
            self._dead()
        return code

    def _signal_all(self, signal_number: int) -> None:
        for slot in self._slots:
            if slot.pid:
                os.kill(slot.pid, signal_number)

    def _fork(self, slot: _Slot) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            slot.pid = pid
            slot.started = time.monotonic()
            return
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(self._alive_write)
            threading.Thread(target=self._end_with_parent, daemon=True).start()
            self._start_one(Worker(slot.number, self._listener, self._tally.row(slot.number)))
            code = 0
        except PidTaken:
            code = PID_TAKEN_EXIT
        except KycacheError as error:
            print(f"kycache: {error}", file=sys.stderr)
            code = error.exit_code
        except BaseException as error:
            print(f"kycache: failed unexpectedly: {whereabouts(error)}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # the parent's exit handlers are not this process's to run

    def _end_with_parent(self) -> None:
        os.read(self._alive_read, 1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(self._stop_s)
        os._exit(1)
