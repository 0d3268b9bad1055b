"""Holds one assigned shard: lock, open, run; again after a failure, within a budget; halted past it.

One task per assignment of a partition. A shard that halts keeps its lock and its place and says why, while
the others go on; it is tried again when the assignment changes, or when a remedy was carried out.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import structlog
import trio

from kycache.model.errors import KycacheError

from .files import Report, ShardFolder, ShardLock, holder_name
from .fold import HaltShard
from .shard import Batch, ShardActor
from .store import Fence, Store

RESTARTS_MAX = 5
"""Unexpected failures within `RESTARTS_WINDOW_S` after which a shard is halted instead of tried again."""

RESTARTS_WINDOW_S = 60.0

RESTART_WAIT_S = 0.2
"""Before the first new try; each further failure adds as much."""

LOCK_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between tries for a lock that another process holds; the last one repeats."""

log = structlog.get_logger()


class Opened(NamedTuple):
    """A store opened for an assignment, and where to read on."""

    store: Store
    topic_id: str
    offset: int


class Remedy(NamedTuple):
    """Something to do to the shard's files while its actor is stopped."""

    run: Callable[[], None]
    done: trio.Event
    failures: list[KycacheError]


class ShardHolder:
    """One assignment of one shard to this process."""

    def __init__(
        self,
        folder: ShardFolder,
        open_store: Callable[[], Opened],
        read_from: Callable[[int], None],
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        """Args:
        open_store: opens or creates the store; raises `KycacheError` or `HaltShard` where it must not.
            Blocking; called in a worker thread.
        read_from: asks for the partition's records from an offset on.
        pause: asks for none until `resume` or `read_from`.
        """
        self.folder = folder
        self.fence = Fence()
        self.actor: ShardActor | None = None
        self.halted: HaltShard | None = None
        self._open_store = open_store
        self._read_from = read_from
        self._pause = pause
        self._resume = resume
        self._released = trio.Event()
        self._attempt: trio.CancelScope | None = None
        self._remedy: Remedy | None = None
        self._scope = trio.CancelScope()

    def offer(self, batch: Batch) -> bool:
        """Hand a batch to the actor; False: send no more until asked."""
        if self.actor is None:
            return False
        return self.actor.offer(batch)

    async def run(self) -> None:
        """Hold the shard until released."""
        try:
            with self._scope:
                lock = await self._acquire()
                try:
                    await self._supervise()
                finally:
                    if self.halted is None:
                        self.folder.write_report(Report("closed"))
                    lock.release()
        finally:
            self._released.set()

    async def release(self) -> None:
        """Stop: what is not committed yet never will be; returns when the shard is closed and unlocked."""
        await trio.to_thread.run_sync(self.fence.close)
        self._scope.cancel()
        await self._released.wait()

    async def remedy(self, run: Callable[[], None]) -> None:
        """Carry something out on the shard's files with the actor stopped, then open it again.

        Raises:
            KycacheError: what `run` raised.
        """
        order = Remedy(run, trio.Event(), [])
        self._remedy = order
        if self._attempt is not None:
            self._attempt.cancel()
        await order.done.wait()
        if order.failures:
            raise order.failures[0]

    def halt(self, error: HaltShard) -> None:
        """Stop applying for a reason found outside the shard: its log is cut, its topic another."""
        self.halted = error
        if self._attempt is not None:
            self._attempt.cancel()

    async def _acquire(self) -> ShardLock:
        waits = deque(LOCK_RETRY_S)
        while True:
            lock = self.folder.lock()
            if lock is not None:
                return lock
            holder = self.folder.holder() or "another process"
            log.warning("shard is held by another process", shard=self.folder.number, holder=holder)
            await trio.sleep(waits[0])
            if len(waits) > 1:
                waits.popleft()

    async def _supervise(self) -> None:
        failures: deque[float] = deque(maxlen=RESTARTS_MAX)
        while True:
            try:
                with trio.CancelScope() as self._attempt:
                    await self._attempt_once()
            except HaltShard as error:
                self.halted = error
            except KycacheError as error:
                self.halted = HaltShard(error.problem, error.remedy)
            except Exception as error:
                # Unexpected: our own bug or a broken machine. Counted, reported, and never swallowed for good.
                log.exception("shard failed", shard=self.folder.number)
                failures.append(time.monotonic())
                if len(failures) == RESTARTS_MAX and failures[-1] - failures[0] < RESTARTS_WINDOW_S:
                    self.halted = HaltShard(
                        f"shard {self.folder.number} failed {RESTARTS_MAX} times in a row: {type(error).__name__}",
                        "see the log of ingest; then restart it, or run "
                        f"`kycache rebuild --shard {self.folder.number}`",
                    )
                else:
                    await trio.sleep(RESTART_WAIT_S * len(failures))
            if self.halted is not None:
                await self._stay_halted(self.halted)
            await self._carry_out_remedy()

    async def _attempt_once(self) -> None:
        opened = await trio.to_thread.run_sync(self._open_store)
        try:
            self.actor = ShardActor(opened.store, self.fence, opened.topic_id, self._resume)
            self.folder.write_report(Report("open", holder=holder_name()))
            self._read_from(opened.offset)
            await self.actor.run()
        finally:
            self._pause()
            self.actor = None
            opened.store.close()

    async def _stay_halted(self, error: HaltShard) -> None:
        """Report, and wait for a remedy or the end of the assignment."""
        log.error("shard halted", shard=self.folder.number, problem=error.problem, remedy=error.remedy)
        self.folder.write_report(Report("halted", error.problem, error.remedy, holder_name()))
        with trio.CancelScope() as self._attempt:
            if self._remedy is None:
                await trio.sleep_forever()

    async def _carry_out_remedy(self) -> None:
        order = self._remedy
        if order is None:
            return
        self._remedy = None
        try:
            await trio.to_thread.run_sync(order.run)
            self.halted = None
        except KycacheError as error:
            order.failures.append(error)
        finally:
            order.done.set()
