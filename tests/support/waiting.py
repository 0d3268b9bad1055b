"""Waiting for what others bring about (a thread, a process, a server), where nobody sets an event for it."""

import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

WAIT_S = 60.0
"""Many times what any of it takes, two busy cores included: what has not come by then never comes."""

LOOK_S = 0.05
LOOK_SOON_S = 0.005
"""Between two looks from a trio task, at what is near: a thread of this process, mostly."""

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], what: str, timeout_s: float = WAIT_S) -> Found:
    """Block until the condition holds, and return what it found; a failure says what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(LOOK_S)
    return found


async def until(condition: Callable[[], object | Awaitable[object]], timeout_s: float = WAIT_S) -> None:
    """The same for a trio task, whose condition may have to be awaited; a failure shows the line that waits."""
    with trio.fail_after(timeout_s):
        while True:
            found = condition()
            if await found if inspect.isawaitable(found) else found:
                return
            await trio.sleep(LOOK_SOON_S)
