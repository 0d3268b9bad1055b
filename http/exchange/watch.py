"""Waiting for freshness: one look at the shards for all requests that wait.

A look compares transaction ids, a microsecond a shard; only a shard that committed is read, once, however many
wait for it, and only those who wait for such a shard are thought of: without a commit no demand is met that was
not met before. While nobody waits nothing is looked at.
"""

import time

import lmdb
import trio

from kycache.actors.reader import NoStore
from kycache.actors.router import LOOK_INTERVAL_S, Router
from kycache.actors.rules.freshness import staleness_s
from kycache.model.errors import Refused

from .counts import Counts
from .demands import Wait

WAITERS_MAX = 10_000
"""Requests that wait at once: as many as connections are planned for. One more is refused without a wait."""


class _Waiter:
    __slots__ = ("met", "wait")

    def __init__(self, wait: Wait) -> None:
        self.wait = wait
        self.met = trio.Event()


class _Shard:
    """What the last look saw. `unread`: the shard cannot be read, so who waits for it must ask again."""

    __slots__ = ("as_of_ms", "commit", "unread", "watermark")

    def __init__(self) -> None:
        self.commit: tuple[str, int] | None = None
        self.watermark = 0
        self.as_of_ms: int | None = None
        self.unread = False


class Watch:
    """Tells waiting requests when the view may be fresh enough. One per process; runs in the server's nursery."""

    def __init__(self, router: Router, counts: Counts) -> None:
        self.counts = counts
        self._router = router
        self._waiters: dict[tuple[int, ...], set[_Waiter]] = {}  # by the shards they wait for
        self._waiting = 0
        self._someone = trio.Event()
        self._shards: dict[int, _Shard] = {}

    async def run(self) -> None:
        """Look for commits while anybody waits; never returns."""
        while True:
            await self._someone.wait()
            self._look()
            await trio.sleep(LOOK_INTERVAL_S)
            if not self._waiting:
                self._someone = trio.Event()

    async def reached(self, wait: Wait, deadline: float) -> bool:
        """Wait until it is worth asking again; False if that is not before `deadline` (trio's clock)."""
        if self._waiting >= WAITERS_MAX:
            return False
        waiter = _Waiter(wait)
        self._waiters.setdefault(wait.shards, set()).add(waiter)
        self._waiting += 1
        self._someone.set()
        self.counts.gauge("freshness_waiting", +1)
        try:
            with trio.move_on_at(deadline):
                await waiter.met.wait()
        finally:
            self.counts.gauge("freshness_waiting", -1)
            self._leave(waiter)
        return waiter.met.is_set()

    def _leave(self, waiter: _Waiter) -> None:
        group = self._waiters[waiter.wait.shards]
        group.remove(waiter)
        self._waiting -= 1
        if not group:
            del self._waiters[waiter.wait.shards]

    def _look(self) -> None:
        now = time.time()
        changed = {shard for shard in set().union(*self._waiters) if self._read(shard)}
        for shards, group in self._waiters.items():
            if not changed.isdisjoint(shards):
                self._tell([self._shards[shard] for shard in shards], group, now)

    def _read(self, number: int) -> bool:
        """Whether the shard is not as it was at the last look, or cannot be read."""
        shard = self._shards.setdefault(number, _Shard())
        try:
            commit = self._router.commit_id(number)
            if commit == shard.commit and not shard.unread:
                return False
            state = self._router.state(number)
        except (NoStore, Refused, lmdb.Error):
            state = None
            commit = None
        shard.commit = commit
        shard.unread = state is None
        if state is not None:
            shard.watermark = state.watermark
            shard.as_of_ms = state.known_as_of_ms
        return True

    def _tell(self, seen: list[_Shard], group: set[_Waiter], now: float) -> None:
        """Wake those of a group for whom it is worth asking again."""
        unread = any(shard.unread for shard in seen)
        watermark = min(shard.watermark for shard in seen)
        ages = [staleness_s(shard.as_of_ms, now, self._router.limits) for shard in seen]
        stale = max((age for age in ages if age is not None), default=0.0)
        for waiter in group:
            bound = waiter.wait.max_staleness_s
            if unread or (watermark >= waiter.wait.min_lsn and (bound is None or stale <= bound)):
                waiter.met.set()
