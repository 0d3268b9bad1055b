"""The shard actor: takes batches from a bounded mailbox and applies each in one transaction.

Backpressure is the mailbox: `offer` never waits, it says whether another batch is welcome. Each transaction
runs in a worker thread, so the event loop goes on reading; one actor has one transaction at a time.
"""

import errno
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import lmdb
import structlog
import trio

from kycache.actors.files.open_reads import LONG_READ_S, Reader, ReadHeldOpen
from kycache.actors.rules.state import Position, ShardState
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import Applied, Store
from kycache.model.change import Beat, Change, Item

from .partition import Partition

MAILBOX_ITEMS_MAX = 20_000
"""Items waiting for one shard: half a second of work, some 20 MB; past it the partition is paused."""

MAILBOX_ITEMS_RESUME = MAILBOX_ITEMS_MAX // 2
"""The partition is read again from here: there is still work while the first new records travel."""

MAILBOX_BYTES_MAX = 64 << 20
"""The same in bytes of Kafka: thousands of large values must not fill the memory."""

BATCH_ITEMS = 10_000
"""Items of one transaction, where the log holds so many: users who change often are then read and written once for
several changes, and pages for several users (at 1,000 it takes nearly twice the work)."""

BATCH_BYTES = 16 << 20
"""Of Kafka: with so much in hand nothing more is waited for; large values must not gather."""

FILL_ITEMS_MIN = 1_000
"""Known to be in the log behind what waits, they are waited for. A shard that keeps up is less far behind, and
waits for nothing; one that does not catches up the sooner."""

FILL_WAIT_S = 2.0
"""How long at the most, of a batch: many shards, or a slow broker, fill theirs slowly."""

BATCH_ITEMS_MAX = 10 * BATCH_ITEMS
"""A batch does not end inside a source transaction whose rest is in hand, up to this many items."""

POISONS_LOGGED_MAX = 20
"""Lines for the records of one batch that could not be applied: a broken connector may send nothing else."""

NO_ROOM_RETRY_S = 1.0
"""How often a full disk is tried again, or a file that must not grow further."""

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})

log = structlog.get_logger()


class Batch(NamedTuple):
    """Records of one poll, decoded."""

    run: int
    """The number of the run that it was polled for (`Partition.read_from`)."""
    items: list[Item]
    size_bytes: int
    next_offset: int
    leader_epoch: int
    high_water: int


class Opened(NamedTuple):
    """A store opened for an assignment, and where to read on."""

    store: Store
    topic_id: str
    offset: int
    until: Callable[[ShardState], bool] | None = None
    """For a generation under construction: whether it may serve by now, and so must be opened anew."""


class ShardActor:
    """Applies batches to one open store."""

    def __init__(
        self,
        opened: Opened,
        fence: Fence,
        partition: Partition,
        run: int,
        on_blocked: Callable[[str, str], None] = lambda _problem, _remedy: None,
    ) -> None:
        """Args:
        partition: is resumed when the mailbox has room again after `offer` said it had not.
        run: the number of the run that was ordered for this actor; it takes batches of no other.
        on_blocked: called with the reason and the remedy when nothing can be committed, and empty when it can.
        """
        self.store = opened.store
        self.state: ShardState = opened.store.opened_at
        self.blocked = ""
        """Why nothing can be committed at present; empty while all is well."""
        self._fence = fence
        self._topic_id = opened.topic_id
        self._until = opened.until
        self._partition = partition
        self._run = run
        self._on_blocked = on_blocked
        self._long_read: Reader | None = None
        self._mailbox: deque[Batch] = deque()
        self._waiting = 0
        self._waiting_bytes = 0
        self._full = False
        self._arrival = trio.Event()

    def offer(self, batch: Batch) -> bool:
        """Take a batch. Returns whether another is welcome; where the mailbox is full, `Resume` is ordered later.

        A batch of another run is dropped, and needs no `Resume`. It was polled before the order to read on was
        obeyed: its records come again in this actor's run, and what lies between would be a gap.
        """
        if batch.run != self._run:
            return False
        self._mailbox.append(batch)
        self._waiting += len(batch.items)
        self._waiting_bytes += batch.size_bytes
        self._arrival.set()
        self._full = self._waiting >= MAILBOX_ITEMS_MAX or self._waiting_bytes >= MAILBOX_BYTES_MAX
        return not self._full

    async def run(self) -> None:
        """Apply what arrives until cancelled, the fence closes, or a generation under construction may serve.

        Raises:
            HaltShard: a change must not be applied; everything before it is committed.
        """
        while not self._fence.closed:
            await self._wait_for_batch()
            batch = self._take()
            applied = await self._apply(batch)
            if applied is None:
                return
            self.state = applied.state
            self._tell(applied)
            if applied.halt is not None:
                raise applied.halt
            if self._until is not None and self._until(applied.state):
                return

    async def _wait_for_batch(self) -> None:
        """Wait for something to apply; where the log holds much more, in bounded time for a full batch of it."""
        while not self._mailbox:
            await self._wait_for_arrival()
        with trio.move_on_after(FILL_WAIT_S):
            while self._fillable():
                await self._wait_for_arrival()

    async def _wait_for_arrival(self) -> None:
        self._arrival = trio.Event()
        await self._arrival.wait()

    def _fillable(self) -> bool:
        """What waits is no full batch, and the log is known to hold enough behind it to wait for."""
        last = self._mailbox[-1]
        behind = last.high_water - last.next_offset
        return self._waiting < BATCH_ITEMS and self._waiting_bytes < BATCH_BYTES and behind >= FILL_ITEMS_MIN

    def _take(self) -> Batch:
        """Join waiting batches into one: up to `BATCH_ITEMS`, then only to end a source transaction."""
        first = self._mailbox.popleft()
        items, last, size_bytes = list(first.items), first, first.size_bytes
        while self._mailbox:
            following = self._mailbox[0]
            size = len(items) + len(following.items)
            if size > (BATCH_ITEMS_MAX if _continues(items, following.items) else BATCH_ITEMS):
                break
            items += following.items
            size_bytes += following.size_bytes
            last = self._mailbox.popleft()
        self._waiting -= len(items)
        self._waiting_bytes -= size_bytes
        if self._full and self._waiting <= MAILBOX_ITEMS_RESUME and self._waiting_bytes < MAILBOX_BYTES_MAX:
            self._full = False
            self._partition.resume(self._run)
        return Batch(first.run, items, size_bytes, last.next_offset, last.leader_epoch, last.high_water)

    async def _apply(self, batch: Batch) -> Applied | None:
        """Apply a batch, and the same again while there is no room for it."""
        old = self.state.position
        position = Position(old.topic, self._topic_id, old.partition, batch.next_offset, batch.leader_epoch)
        while True:
            try:
                applied = await trio.to_thread.run_sync(
                    self.store.apply, batch.items, position, batch.high_water, self._fence
                )
            except lmdb.MapFullError:
                # On this thread, so that no read of this process has a transaction open meanwhile.
                self.store.grow_map()
            except (lmdb.Error, OSError) as error:
                if _errno(error) not in _NO_ROOM:
                    raise
                self._blocked_by(error, "free some space; the shard goes on by itself")
                await trio.sleep(NO_ROOM_RETRY_S)
            except ReadHeldOpen as error:
                self._blocked_by(error, "end that process, or wait for its read; the shard goes on by itself")
                await trio.sleep(NO_ROOM_RETRY_S)
            else:
                self._unblocked()
                return applied

    def _tell(self, applied: Applied) -> None:
        """Log what went into quarantine: where it stands, and why; never a value of it."""
        topic, partition = applied.state.position.topic, applied.state.position.partition
        where = {"shard": self.store.shard, "topic": topic, "partition": partition}
        for poison in applied.quarantined[:POISONS_LOGGED_MAX]:
            log.warning("a record was quarantined", **where, offset=poison.offset, reason=poison.reason)
        more = len(applied.quarantined) - POISONS_LOGGED_MAX
        if more > 0:
            log.warning("more records were quarantined", **where, count=more, remedy="`kycache quarantine list`")

    def _blocked_by(self, error: Exception, remedy: str) -> None:
        if not self.blocked:
            log.error("nothing can be committed", shard=self.store.shard, problem=str(error), remedy=remedy)
            self._on_blocked(str(error), remedy)
        self.blocked = str(error)

    def _unblocked(self) -> None:
        if self.blocked:
            log.info("commits go on", shard=self.store.shard)
            self._on_blocked("", "")
        self.blocked = ""
        read = self.store.oldest_read
        if read is not None and read.age_s > LONG_READ_S and read.reader != self._long_read:
            self._long_read = read.reader
            log.warning(
                "a read has been open for long; the file grows under it",
                shard=self.store.shard,
                pid=read.reader.pid,
                age_s=round(read.age_s),
                commits_behind=read.behind,
                grown_mib=read.grown_bytes >> 20,
            )


def _errno(error: Exception) -> int | None:
    return error.errno if isinstance(error, OSError) else getattr(error, "code", None)


def _continues(items: list[Item], following: list[Item]) -> bool:
    """The next batch begins inside the source transaction in which this one ends."""
    if not items or not following:
        return False
    last, first = items[-1], following[0]
    if isinstance(last, (Change, Beat)) and isinstance(first, (Change, Beat)):
        return last.origin.tx is not None and last.origin.tx == first.origin.tx
    return False
