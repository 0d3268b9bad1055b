"""For tests that cause faults at random: their seeds, and children that are killed for real."""

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

SEEDS = "KYCACHE_SEEDS"
"""How many seeds each such test takes; `make faults` sets it to hundreds."""


def seeds(usual: int, at_most: int = 1_000_000) -> range:
    """The seeds of a test: `usual` in `make test`, `at_most` in `make faults`, where each is slow."""
    return range(min(at_most, int(os.environ.get(SEEDS) or usual)))


def in_child(work: Callable[[], object]) -> bool:
    """Run in a forked process, its output thrown away; False where it was killed.

    A fork, not a new interpreter: a start costs milliseconds instead of most of a second. The caller has no
    LMDB environment open.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            work()
            code = 0
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        problem = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return False
    assert status == 0, f"a child ended with status {status}\n{problem}"
    return True


KILL_POINTS = ("fsync", "mkdir", "open", "replace", "rename", "symlink", "unlink", "ftruncate", "pwrite")
"""Calls by which files appear, change and go."""


def kill_at(step: int, work: Callable[[], object]) -> Callable[[], None]:
    """Before or behind the n-th step on the file system."""

    def run() -> None:
        steps = 0

        def around(function: Callable[..., Any]) -> Callable[..., Any]:
            def stepped(*args: Any, **kwargs: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args, **kwargs)
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return stepped

        for name in KILL_POINTS:
            setattr(os, name, around(getattr(os, name)))
        work()

    return run
