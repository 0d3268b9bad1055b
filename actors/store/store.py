"""A shard's store: one LMDB environment, one transaction per batch for all that the batch did.

    meta        identity | state
    profiles    user key -> profile (model/profile.py)
    rows, order the order index (actors/order/layout.py)
    quarantine  offset -> the record whole, and why
    markers     ts_ms | user key -> nothing: when delete markers of a profile fall due

The position in `state` is the truth about what was read; what Kafka's group knows is a hint for lag tools.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import lmdb
import msgspec

from kycache.actors.files.environment import Environments, check_before_mapping, grow_ahead, no_address_space
from kycache.actors.files.meta import check_identity, read_state, write_state
from kycache.actors.files.open_reads import OpenRead, OpenReads, ReadHeldOpen
from kycache.actors.files.quarantine import Quarantined
from kycache.actors.integrity.vouching import Held
from kycache.actors.order.writer import OrderWriter
from kycache.actors.rules.alteration import TableNames, acknowledge_alteration
from kycache.actors.rules.fold import Fold
from kycache.actors.rules.freshness import CLOCK_SKEW_S
from kycache.actors.rules.reports import Doubt
from kycache.actors.rules.state import Identity, Position, ShardState
from kycache.actors.rules.timeline import sweep_spared
from kycache.model.change import SHARD_IN_DOUBT, Change, Item, Poison, Scope
from kycache.model.errors import HaltShard
from kycache.model.render import Renderer
from kycache.model.view import View

from .batch import Work
from .fence import Fence
from .turn import Turn

FORMAT = 2
"""Of a shard's file; another is refused."""

MARKERS_KEPT_MS = 7 * 24 * 3600 * 1000
"""How long a delete is remembered, by the source's clock: longer than any redelivery may lag (DESIGN 6.2)."""


class Settled(NamedTuple):
    """What became of a record in quarantine; `gone`: it is there no more."""

    offset: int
    gone: bool
    outcome: str


class Applied(NamedTuple):
    """What a batch did: the state committed; why the shard must halt before the rest, if it must; and what went
    into quarantine."""

    state: ShardState
    halt: HaltShard | None
    quarantined: tuple[Poison, ...] = ()


class Store:
    """The writer's side of one shard. Only the process that holds the shard's lock may have one."""

    def __init__(
        self,
        environments: Environments,
        generation: Path,
        view: View,
        identity: Identity,
        mark: Callable[[tuple[Doubt, ...]], None],
        *,
        halt_on_poison: bool = False,
        turn: Turn | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Args:
        mark: writes what puts the whole data directory in doubt, durably.
        halt_on_poison: a record that cannot be decoded stops the shard.
        turn: shared by the threads of this process that compute.
        clock: this machine's, seconds since 1970.

        Raises:
            Refused: the file is damaged, or another shard's.
            Unchecked: nobody vouches for it: `Checker.ensure` comes first.
        """
        self.shard = identity.shard
        self.generation = generation
        self.renderer = Renderer(view)
        self._environments = environments
        self._mark = mark
        self._turn = turn or Turn()
        self._clock = clock
        self._children = len(view.children)
        names = tuple(TableNames(t.name, tuple(c.name for c in t.columns)) for t in view.tables)
        self._fold = Fold(identity.shard, identity.shards, names, halt_on_poison=halt_on_poison)
        check_before_mapping(generation, identity.shard)
        self._held = Held(generation, identity.shard)
        try:
            self._environment, self._databases = environments.lease(generation, identity.shard)
        except BaseException:
            self._held.release(whole=False)
            raise
        try:
            with self._environment.begin() as txn:
                self.times = check_identity(txn, self._databases, identity).times
                self.opened_at = read_state(txn, self._databases)
        except BaseException:
            self.close()
            raise
        self._reads = OpenReads(self._environment)
        self.oldest_read: OpenRead | None = None
        """The read that commits have left furthest behind, as of the last batch."""
        self._order = OrderWriter(len(view.filters), self._databases.rows, self._databases.order)

    def state(self) -> ShardState:
        """The state as last committed."""
        with self._environment.begin() as txn:
            return read_state(txn, self._databases)

    def close(self) -> None:
        """Give the environment back, whole: it need not be walked before it is opened again."""
        try:
            self._environment.sync(True)
        except lmdb.Error:
            whole = False
        else:
            whole = True
        self._environments.release(self.generation)
        self._held.release(whole=whole)

    def apply(self, items: Sequence[Item], position: Position, high_water: int, fence: "Fence") -> Applied | None:
        """Apply a batch in one transaction. Blocking; runs in a worker thread.

        In this order:

        1. Refuse where a read holds too many old pages; lengthen the file ahead of what the batch may need.
        2. Begin the transaction, and in turn with what else of this process computes:
           a. read the state as last committed;
           b. fold each item into its profile; an item that halts the shard ends the batch before itself;
           c. drop delete markers that fell due, unless the quarantine may still need them;
           d. write the profiles, the order index, the counts, the position and the state.
        3. Mark what puts the whole data directory in doubt, durably: a kill after this marks too much, never too
           little.
        4. Commit, unless the fence was closed. What is not committed, the order index forgets.

        Args:
            items: in partition order.
            position: of the change behind the last item.
            high_water: the partition's end as the last fetch saw it.
            fence: closed when the assignment of the partition was taken away.

        Returns:
            What was committed; None where the fence was closed and nothing was.

        Raises:
            lmdb.Error: nothing was committed (disk or map full, I/O); the batch can be tried again.
            ReadHeldOpen: nothing was committed, or the file would grow without end; the batch can be tried again.
        """
        self.oldest_read = self._reads.look()
        if self.oldest_read is not None and self.oldest_read.excessive:
            raise ReadHeldOpen(self.oldest_read)
        grow_ahead(self._environment)
        self._fold.timeline.clock_ms = int((self._clock() + CLOCK_SKEW_S) * 1000)
        txn: lmdb.Transaction[bytes] = self._environment.begin(write=True)
        try:
            with self._turn.taken():
                work = Work(txn, self._databases, self.renderer, self._children, self._order)
                state = read_state(txn, self._databases)
                halt, doubts, poisons = self._fold_items(work, state, items)
                if halt is not None:
                    position = msgspec.structs.replace(position, offset=halt.offset)
                if not state.quarantined:  # a replay may be of anything deleted since the record came
                    work.drop_due_markers(state.as_of_ms - MARKERS_KEPT_MS)
                work.finish(state)
                state.position = position
                state.high_water = max(high_water, position.offset)
                write_state(txn, self._databases, state)
            if doubts:
                self._mark(tuple(doubts))
            committed = fence.commit(txn)
        except BaseException:
            txn.abort()
            self._order.forget()
            raise
        if not committed:
            self._order.forget()
            return None
        return Applied(state, None if halt is None else halt.error, tuple(poisons))

    def _fold_items(
        self, work: Work, state: ShardState, items: Sequence[Item]
    ) -> tuple["_Halt | None", list[Doubt], list[Poison]]:
        doubts: list[Doubt] = []
        poisons: list[Poison] = []
        for item in items:
            try:
                verdict = self._fold.apply(state, item, work)
            except HaltShard as error:
                return _Halt(item.offset, error), doubts, poisons
            if isinstance(item, Poison):
                work.quarantine(item)
                poisons.append(item)
            elif isinstance(item, Change) and item.deletes:
                work.note_marker(item)
            for notice in verdict.notices:
                kind, reason, lsn = notice.mark.value, notice.reason, notice.lsn
                doubts.append(Doubt(kind, self.shard, item.offset, reason, lsn, state.epoch))
        return None, doubts, poisons

    def settle(self, offsets: Sequence[int], redecode: Callable[[Quarantined], Item] | None) -> list[Settled]:
        """Take records out of quarantine: applied as they are now understood, or dropped. Blocking.

        Args:
            redecode: what a record means now; None drops the records unread.

        Returns:
            For each offset, what became of it. What cannot be applied yet stays.
        """
        grow_ahead(self._environment)
        try:
            with self._environment.begin(write=True) as txn:
                work = Work(txn, self._databases, self.renderer, self._children, self._order)
                state = read_state(txn, self._databases)
                settled = [self._settle_one(work, state, offset, redecode) for offset in offsets]
                work.finish(state)
                write_state(txn, self._databases, state)
        except BaseException:
            self._order.forget()
            raise
        return settled

    def acknowledge(self) -> str:
        """Trust the shard again though its tables were altered at the source. Blocking.

        Returns:
            What was in doubt; empty where nothing was.
        """
        grow_ahead(self._environment)
        with self._environment.begin(write=True) as txn:
            state = read_state(txn, self._databases)
            was = acknowledge_alteration(state)
            if was:
                write_state(txn, self._databases, state)
        return was

    def _settle_one(
        self,
        work: Work,
        state: ShardState,
        offset: int,
        redecode: Callable[[Quarantined], Item] | None,
    ) -> Settled:
        record = work.quarantined(offset)
        if record is None:
            return Settled(offset, gone=True, outcome="not in quarantine")
        outcome = "dropped"
        if redecode is not None:
            item = redecode(record)
            if isinstance(item, Poison):
                return Settled(offset, gone=False, outcome=f"kept: {item.reason}")
            try:
                outcome = self._fold.replay(state, item, work).value
            except HaltShard as error:
                return Settled(offset, gone=False, outcome=f"kept: {error.problem}")
            if isinstance(item, Change) and item.deletes:
                work.note_marker(item)
        work.release(record)
        if redecode is not None and record.user is not None:
            sweep_spared(state, work.get(record.user))
        state.quarantined -= 1
        state.doubts -= Scope(record.scope) in SHARD_IN_DOUBT
        return Settled(offset, gone=True, outcome=outcome)

    def free_readers(self) -> int:
        """Free the reader slots of processes that are gone; how many there were. Costs microseconds."""
        return self._environment.reader_check()

    def grow_map(self) -> None:
        """Double the reserved address space, with no transaction open (FAULTS 10).

        Raises:
            Refused: there is none left. The store is of no use then, and must be closed.
        """
        wanted = self._environment.info()["map_size"] * 2
        try:
            self._environment.set_mapsize(wanted)
        except lmdb.MemoryError:
            raise no_address_space(self.shard, wanted) from None


class _Halt(NamedTuple):
    offset: int
    error: HaltShard
