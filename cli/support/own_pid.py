"""A pid that no process of another container has, for a command that opens shard files (pid_claim.py says why).

Where the pid is taken, the process forks until a child has a free one. The child goes on with the command.
The parent hands signals on to it, reaps orphans, as a container's first process must, and ends as the child ended.
"""

import ctypes
import os
import signal
import sys

import typer

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.pid_claim import PID_TAKEN_EXIT, PIDS_TRIED_MAX, PidClaim, PidTaken

_HANDED_ON = {
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
}
_HEARD = {*_HANDED_ON, signal.SIGCHLD}

_SI_KERNEL = 0x80
"""A signal's origin: the terminal, which sends it to the child too."""

_PR_SET_PDEATHSIG = 1


def own_pid(context: typer.Context, directory: DataDirectory) -> PidClaim:
    """The claim to a pid of this process's own, which may be another process than before. No thread may run yet.

    Where nothing was ever ingested, no file can be opened, and nothing is claimed or made before one is.

    Raises:
        Refused: the data directory is on a read-only mount, or too many pids are taken.
    """
    claim = PidClaim(directory.run)
    if directory.run.is_dir():
        try:
            claim.hold()
        except PidTaken as taken:
            _go_on_in_child(claim, taken)
        context.call_on_close(claim.release)  # a file that is still open keeps its own hold
    return claim


def _go_on_in_child(claim: PidClaim, taken: PidTaken) -> None:
    """Returns in a child that holds the claim; the parent ends in here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    sys.stdout.flush()
    sys.stderr.flush()
    parent, handed = os.getpid(), set[int]()
    for _ in range(PIDS_TRIED_MAX):
        child = os.fork()
        if not child:
            _end_with(parent)
            try:
                claim.hold()
            except PidTaken:
                os._exit(PID_TAKEN_EXIT)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            return
        code = _wait(child, handed)
        if code != PID_TAKEN_EXIT:
            os._exit(code)  # what is to be cleared away at exit is the child's
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    raise taken


def _wait(child: int, handed: set[int]) -> int:
    """Hand signals on until the child ends; its exit code, or what shells make of its signal.

    Args:
        handed: signals that a child before this one got and took with it; this one gets them too.
    """
    for number in handed:
        os.kill(child, number)
    while (code := _reaped(child)) is None:
        heard = signal.sigwaitinfo(_HEARD)
        if heard.si_signo != signal.SIGCHLD and heard.si_code != _SI_KERNEL:
            handed.add(heard.si_signo)
            os.kill(child, heard.si_signo)
    return code


def _reaped(child: int) -> int | None:
    """Reap every process that has ended; the child's exit code, None while it runs."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if not pid:
            return None


def _end_with(parent: int) -> None:
    """Have the kernel end this process in its orderly way when the parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(0)
