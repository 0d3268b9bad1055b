"""Holds one assigned shard: lock, open, run; again after a failure, within a budget; halted past it.

One task per assignment of a partition. A shard that halts keeps its lock and its place and says why, while
the others go on; it is tried again when the assignment changes, or when a remedy was carried out.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable

import structlog
import trio

from kycache.actors.files.shard_folder import ShardFolder, ShardLock, holder_name
from kycache.actors.rules.reports import Report, WriterState
from kycache.actors.store.fence import Fence
from kycache.model.errors import HaltShard, KycacheError, Refused, Unreachable, whereabouts

from .partition import Partition
from .shard import Opened, ShardActor

RESTARTS_MAX = 5
"""Unexpected failures within `RESTARTS_WINDOW_S` after which a shard is halted instead of tried again."""

RESTARTS_WINDOW_S = 60.0

BROKER_RETRY_S = 1.0
"""Between tries to open a shard while the broker is away: it comes back by itself, and is not a failure."""

RESTART_WAIT_S = 0.2
"""Before the first new try; each further failure adds as much."""

LOCK_RETRY_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Waits between tries for a lock that another process holds; the last one repeats."""

log = structlog.get_logger()


class _Remedy:
    """Something to do to the shard's files while its actor is stopped."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run
        self.done = trio.Event()
        self.failure: KycacheError | None = None

    def end(self, failure: KycacheError | None = None) -> None:
        self.failure = failure
        self.done.set()


class ShardHolder:
    """One assignment of one shard to this process."""

    def __init__(
        self,
        folder: ShardFolder,
        open_store: Callable[[], Awaitable[Opened]],
        partition: Partition,
    ) -> None:
        """Args:
        open_store: opens or creates the store, and takes as long as that takes; the files are its own meanwhile.
            Raises `KycacheError` or `HaltShard` where it must not. A store that it opened it returns, cancelled
            or not.
        partition: the shard's.
        """
        self.folder = folder
        self.fence = Fence()
        self.actor: ShardActor | None = None
        self.halted: HaltShard | None = None
        self._open_store = open_store
        self._partition = partition
        self._released = trio.Event()
        self._attempt = trio.CancelScope()
        self._remedies: deque[_Remedy] = deque()
        self._scope = trio.CancelScope()
        self._lock: ShardLock | None = None

    async def run(self) -> None:
        """Hold the shard until released. No failure of one shard leaves here: the others go on."""
        try:
            with self._scope:
                try:
                    await self._supervise()
                finally:
                    self._let_go()
                    if self.halted is None:
                        self._report(Report(WriterState.CLOSED))
        finally:
            gone = f"shard {self.folder.number} is not held by this process any more"
            while self._remedies:
                self._remedies.popleft().end(Refused(gone, "run the command again"))
            self._released.set()

    async def release(self) -> None:
        """Stop: what is not committed yet never will be; returns when the shard is closed and unlocked."""
        await trio.to_thread.run_sync(self.fence.close)
        self._scope.cancel()
        await self._released.wait()

    async def remedy(self, run: Callable[[], None], wait_s: float) -> None:
        """Carry something out on the shard's files with the actor stopped, then open it again.

        Raises:
            KycacheError: what `run` raised, or why it was not run; then nothing was changed.
        """
        remedy = _Remedy(run)
        self._remedies.append(remedy)
        self._attempt.cancel()
        with trio.move_on_after(wait_s):
            await remedy.done.wait()
        if remedy in self._remedies:
            self._remedies.remove(remedy)
            raise Refused(f"shard {self.folder.number} is busy", "run the command again")
        await remedy.done.wait()  # it has begun, and ends by itself
        if remedy.failure is not None:
            raise remedy.failure

    def halt(self, error: HaltShard) -> None:
        """Stop applying for a reason found outside the shard: its log is cut, its topic another."""
        self.halted = error
        self._attempt.cancel()

    async def _acquire(self) -> ShardLock:
        waits = deque(LOCK_RETRY_S)
        reported = False
        while True:
            try:
                lock = self.folder.lock()
            except OSError as error:
                log.error("a shard's lock cannot be opened", shard=self.folder.number, error=error.strerror)
                lock = None
            if lock is not None:
                return lock
            holder = self.folder.holder()
            if holder is not None and not reported:
                # Which of the two is right, nobody can tell from here; who waits does not write (FAULTS 20).
                log.warning("shard is held by another process", shard=self.folder.number, holder=holder)
                reason = f"shard {self.folder.number} is held by {holder}, and {holder_name()} waits for it"
                self._report(Report(WriterState.HALTED, reason, "end the one that should not be there", holder))
                reported = True
            await trio.sleep(waits[0])
            if len(waits) > 1:
                waits.popleft()

    def look_at_lock(self) -> None:
        """Begin anew where somebody removed the folder, or the lock: another process might write there too."""
        if self._lock is not None and not self._lock.stands():
            log.warning("a shard's folder, or its LOCK, was removed while it was open", shard=self.folder.number)
            self._attempt.cancel()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    async def _supervise(self) -> None:
        failures: deque[float] = deque(maxlen=RESTARTS_MAX)
        while not self.fence.closed:
            if self._lock is None or not self._lock.stands():
                self._let_go()
                self._lock = await self._acquire()
                self._report(Report(WriterState.CLOSED))  # what a former holder said is not known to hold
            with trio.CancelScope() as self._attempt:
                if not self._remedies:
                    await self._try(failures)
            while self._remedies:
                await self._carry_out(self._remedies.popleft())

    async def _try(self, failures: deque[float]) -> None:
        """One attempt at running the shard, and what follows from how it ended."""
        if self.halted is None:
            try:
                await self._attempt_once()
            except HaltShard as error:
                self.halted = error
            except Unreachable as error:
                log.warning("shard waits for the broker", shard=self.folder.number, problem=error.problem)
                await trio.sleep(BROKER_RETRY_S)
            except KycacheError as error:
                self.halted = HaltShard(error.problem, error.remedy)
            except Exception as error:
                self.look_at_lock()
                if self._attempt.cancel_called:
                    return  # its files were removed under it
                # Unexpected: our own bug or a broken machine. Counted, reported, and never swallowed for good.
                self._log_failure(error)
                failures.append(time.monotonic())
                if len(failures) < RESTARTS_MAX or failures[-1] - failures[0] > RESTARTS_WINDOW_S:
                    await trio.sleep(RESTART_WAIT_S * len(failures))
                    return
                failures.clear()
                number = self.folder.number
                self.halted = HaltShard(
                    f"shard {number} failed {RESTARTS_MAX} times within a minute: {type(error).__name__}",
                    f"see the log of ingest; then restart it, or run `kycache rebuild --shard {number}`",
                )
        if self.halted is not None:
            await self._stay_halted(self.halted)

    async def _attempt_once(self) -> None:
        opened = await self._open_store()
        run = self._partition.read_from(opened.offset, opened.store.opened_at.position.leader_epoch)
        try:
            # Nothing is awaited since the order: its first batch finds the actor.
            self.actor = ShardActor(opened, self.fence, self._partition, run, self._report_blocked)
            self._report(Report(WriterState.OPEN, holder=holder_name()))
            await self.actor.run()
        finally:
            self._partition.pause(run)
            self.actor = None
            opened.store.close()

    def _report_blocked(self, problem: str, remedy: str) -> None:
        """An open shard that cannot commit says why; with nothing to say it can again."""
        self._report(Report(WriterState.OPEN, problem, remedy, holder_name()))

    async def _stay_halted(self, error: HaltShard) -> None:
        """Report, and wait for a remedy or the end of the assignment."""
        log.error("shard halted", shard=self.folder.number, problem=error.problem, remedy=error.remedy)
        self._report(Report(WriterState.HALTED, error.problem, error.remedy, holder_name()))
        await trio.sleep_forever()

    async def _carry_out(self, remedy: _Remedy) -> None:
        try:
            await trio.to_thread.run_sync(remedy.run)
        except KycacheError as error:
            remedy.end(error)
        except OSError as error:
            problem = f"shard {self.folder.number}: its files cannot be changed: {error.strerror}"
            remedy.end(Refused(problem, "make room there, then run the command again"))
        except Exception as error:
            self._log_failure(error)
            remedy.end(Refused(f"shard {self.folder.number}: {type(error).__name__}", "see the log of ingest"))
        else:
            self.halted = None
            remedy.end()

    def _report(self, report: Report) -> None:
        """Say how the shard is. That it cannot be said, for want of room, stops nothing."""
        try:
            self.folder.write_report(report)
        except OSError as error:
            log.error("state.json cannot be written", shard=self.folder.number, error=error.strerror)

    def _log_failure(self, error: Exception) -> None:
        log.error("shard failed", shard=self.folder.number, error=whereabouts(error))
