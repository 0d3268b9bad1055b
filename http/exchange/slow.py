"""Answers that take longer to make than others may wait for: made in a thread that gives way.

A thread alone does not help much. The interpreter lets one go on for 5 ms before it changes to another, and the
thread of all requests gives itself up at every system call: a read beside it waited 5 ms several times over.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

from .problems import Answer

GIVE_WAY_S = 0.0001
"""Between changes of threads while such an answer is made: a tenth of what an ordinary read takes. Only a thread
that waits makes the interpreter change, so it costs nothing when no request comes."""


class Slow(NamedTuple):
    """What such an answer is made from; `finish` makes it, reading nothing, in any thread."""

    finish: Callable[[], Answer]


def make_giving_way(slow: Slow) -> Answer:
    """Make the answer in this thread, letting others go first. One thread at a time may do so."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(GIVE_WAY_S)
    try:
        return slow.finish()
    finally:
        sys.setswitchinterval(before)
