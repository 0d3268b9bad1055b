"""Where the simulation takes hold of the product: threads, and the commit of a batch."""

import errno
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any, Protocol
from unittest.mock import patch

import lmdb
import trio
import trio.testing
from trio._core import _run as trio_run

from kycache.actors.store.fence import Fence

THREAD_S = 0.05
"""The most that work in a thread takes, on the mock clock."""


class Violation(BaseException):
    """The product broke a promise. Like `Died` past what the product catches."""


class Died(BaseException):
    """The process ends here, whatever it was doing. Nothing of the product may catch it."""


class Fate(Enum):
    """What becomes of a commit."""

    NO_ROOM = "no room"  # the disk is full: nothing is committed
    FAILS = "fails"  # for a reason nobody foresaw: nothing is committed
    DIES_BEFORE = "dies before"
    DIES_AFTER = "dies after"


class Commits(Protocol):
    """The process, as its commits see it."""

    dead: bool

    def fate(self, shard: int) -> Fate | None:
        """What becomes of the next commit of a shard; None: nothing special."""
        ...

    def about_to_commit(self, shard: int) -> None:
        """The last moment before it."""
        ...

    def committed(self, shard: int, *, behind_fence: bool) -> None:
        """It is done; `behind_fence`: although the fence was closed."""
        ...

    def die(self) -> None:
        """What is on the disk now is what stays."""
        ...


class WatchedFence(Fence):
    """The commit seam."""

    def __init__(self, commits: Commits, shard: int) -> None:
        super().__init__()
        self._commits = commits
        self._shard = shard

    def commit(self, txn: "lmdb.Transaction[bytes]") -> bool:
        """Commit as the product does, unless fate has it otherwise."""
        if self._commits.dead:
            raise Died
        fate = self._commits.fate(self._shard)
        if fate is Fate.NO_ROOM:
            txn.abort()
            raise OSError(errno.ENOSPC, "no space left on device")
        if fate is Fate.FAILS:
            txn.abort()
            raise lmdb.Error("simulated: the commit failed")
        if fate is Fate.DIES_BEFORE:
            self._commits.die()
            raise Died
        closed = self.closed
        self._commits.about_to_commit(self._shard)
        committed = super().commit(txn)
        if committed:
            self._commits.committed(self._shard, behind_fence=closed)
        if fate is Fate.DIES_AFTER:
            self._commits.die()
            raise Died
        return committed


@contextmanager
def in_place_of_threads(rng: random.Random) -> Iterator[None]:
    """Work for threads runs on the event loop, late, and is noticed later still."""

    async def run_sync(work: Callable[..., Any], *args: Any, **_options: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):  # a thread cannot be cancelled
            if rng.random() < 0.3:
                await trio.sleep(rng.random() * THREAD_S)
            try:
                return work(*args)
            finally:
                if rng.random() < 0.2:
                    await trio.sleep(rng.random() * THREAD_S)

    with patch.object(trio.to_thread, "run_sync", run_sync):
        yield


def run_seeded(seed: int, main: Callable[[], Awaitable[None]]) -> None:
    """Run on a mock clock that jumps to the next thing due, with tasks scheduled by the seed."""
    state = trio_run._r.getstate()
    trio_run._r.seed(seed)
    try:
        with patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True):
            trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio_run._r.setstate(state)
