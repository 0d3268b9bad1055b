"""Answers that take longer to make than others may wait for: made in a thread that gives way, one at a time.

A thread alone does not help much. The interpreter lets one go on for 5 ms before it changes to another, and the
thread of all requests gives itself up at every system call: a read beside it waited 5 ms several times over.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import trio

from .problems import Answer

GIVE_WAY_S = 0.0001
"""Between changes of threads while such an answer is made: a tenth of what an ordinary read takes. Only who waits
makes the interpreter change, so it costs nothing when no request comes."""


class Slow(NamedTuple):
    """What such an answer is made from; `finish` makes it, reading nothing, in any thread."""

    finish: Callable[[], Answer]


class SlowLane:
    """One per process: two of them would take turns with each other, and both from the rest."""

    def __init__(self) -> None:
        self._turn = trio.Lock()

    async def finished(self, ask: Callable[[], Awaitable[Answer | Slow]]) -> Answer:
        """Ask for an answer, and have it made where it is slow."""
        found = await ask()
        if isinstance(found, Answer):
            return found
        del found  # megabytes, of each of those who wait
        async with self._turn:
            found = await ask()
            return found if isinstance(found, Answer) else await trio.to_thread.run_sync(_giving_way, found.finish)


def _giving_way(finish: Callable[[], Answer]) -> Answer:
    before = sys.getswitchinterval()
    sys.setswitchinterval(GIVE_WAY_S)
    try:
        return finish()
    finally:
        sys.setswitchinterval(before)
