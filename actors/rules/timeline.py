"""Where an event stands in the source's history, and what that means for the shard before its row is looked at.

Pure. Whole snapshots begin generations of rows, and the first change streamed behind one ends it: rows that it did
not send are swept. A truncate waits for the trigger's rows; a source that moved back halts the shard.
"""

from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import NamedTuple, Protocol

from kycache.model.change import Origin, Snapshot
from kycache.model.errors import HaltShard
from kycache.model.lsn import Version, format_lsn
from kycache.model.profile import Profile

from . import reports
from .alteration import settle_alteration
from .standing import SOURCE_REMEDY
from .state import ShardState

NO_CLOCK = 1 << 63
"""Later than any time: whatever the source's clock shows is believed."""


class Profiles(Protocol):
    """The shard's profiles, inside the batch's transaction."""

    def get(self, user: bytes) -> Profile:
        """The user's profile, an empty one where nothing is known. The fold may change it in place."""
        ...

    def touch(self, user: bytes) -> None:
        """The profile of `user` was changed."""
        ...

    def known(self, user: bytes) -> bool:
        """Something is stored about the user."""
        ...

    def every(self, change: Callable[[Profile], int]) -> int:
        """Let `change` edit every profile; it returns how many rows it took out. The sum is returned."""
        ...


class Mark(Enum):
    """What an item says about the whole data directory, written down before the batch commits."""

    SUSPECT = reports.SUSPECT  # a delete that names no user: any profile may be concerned
    STALE = reports.CUT_OFF  # a truncate without the trigger's rows: no shard can know


class Notice(NamedTuple):
    """A mark, why, and the LSN it stands at."""

    mark: Mark
    reason: str
    lsn: int


class Timeline:
    """The history of one shard's source, event by event."""

    def __init__(self, shard: int, tables: tuple[str, ...]) -> None:
        """Args:
        tables: names of the view's tables, for messages.
        """
        self.clock_ms = NO_CLOCK
        """The latest time that the source's clock can show now, as far as ours tells. Set before each batch."""
        self._shard = shard
        self._tables = tables

    def enter(
        self,
        state: ShardState,
        offset: int,
        origin: Origin,
        profiles: Profiles,
        truncated: tuple[int, ...] = (),
    ) -> tuple[Notice, ...]:
        """What an event's place in history means for the shard, before its row is looked at.

        Raises:
            HaltShard: the source moved back. Nothing was changed.
        """
        if origin.snapshot is not Snapshot.STREAMED:
            if origin.snapshot is Snapshot.WHOLE:
                self._enter_whole_snapshot(state, offset, origin.lsn)
            state.placed_offset = offset + 1
            return ()
        if origin.commit is not None and origin.commit < state.commit_seen and origin.ts_ms > state.seen_ms:
            # Redelivery keeps its old time, interleaving keeps the last commit monotone: only a source
            # that moved back has a lower last commit at a later time (DESIGN 6.9).
            raise self._moved_back(f"a change behind {format_lsn(origin.commit)} is younger", state.commit_seen)
        state.placed_offset = offset + 1
        if state.generation is not None and not state.streamed and not precedes_snapshot(state, origin):
            _sweep(state, profiles)
            settle_alteration(state)
            state.streamed = True
            state.bootstrapped = state.bootstrapped or state.from_start
        if origin.commit is not None and origin.commit > state.commit_seen:
            state.commit_seen = origin.commit
        if origin.lsn > state.watermark:
            state.watermark = origin.lsn
        if origin.ts_ms > state.as_of_ms:
            self._advance_clock(state, origin.ts_ms)
        return self._settle_truncates(state, origin, truncated) if state.pending else ()

    def _advance_clock(self, state: ShardState, ts_ms: int) -> None:
        seen_ms = max(state.seen_ms, ts_ms)
        state.disbelieved = ts_ms > self.clock_ms
        if not state.disbelieved:
            state.as_of_ms = ts_ms
        state.ahead_ms = seen_ms - state.as_of_ms

    def _enter_whole_snapshot(self, state: ShardState, offset: int, lsn: int) -> None:
        if lsn == state.generation:
            return
        highest = max(state.watermark, state.commit_seen, state.generation or 0)
        if lsn < highest:
            raise self._moved_back(f"a whole snapshot at {format_lsn(lsn)} came", highest)
        state.generation = lsn
        state.generation_offset = offset
        state.unplaced_offset = state.placed_offset
        state.before_commit = state.commit_seen if state.seen_ms else -1
        state.before_ms = state.seen_ms
        state.streamed = False
        state.fingerprint = ""
        state.unswept = state.unswept or state.counters.applied + state.counters.quarantined > 0

    def _moved_back(self, what: str, highest: int) -> HaltShard:
        return HaltShard(
            f"shard {self._shard}: the source moved back: {what} after {format_lsn(highest)}",
            SOURCE_REMEDY,
        )

    def _settle_truncates(
        self, state: ShardState, origin: Origin, truncated: tuple[int, ...]
    ) -> tuple[Notice, ...]:
        """Match the keyless `t` events with the trigger's rows of the same transaction."""
        at = (origin.commit or 0, origin.lsn)
        # Only what stands behind the truncate proves that its rows will not come: redelivery brings older ones.
        older = precedes_snapshot(state, origin)  # without a commit, what follows it would seem the oldest
        late = [p for p in state.pending if not older and p.tx != origin.tx and at > (p.commit or 0, p.lsn)]
        state.pending = tuple(
            p for p in state.pending if p not in late and not (p.tx == origin.tx and p.table in truncated)
        )
        if not late:
            return ()
        names = ", ".join(sorted({self._tables[p.table] for p in late}))
        reason = f"table {names} was truncated at {format_lsn(late[0].lsn)} without the trigger's rows"
        return (Notice(Mark.STALE, reason, max(p.lsn for p in late)),)


def _sweep(state: ShardState, profiles: Profiles) -> None:
    """Drop rows of an older generation: the whole snapshot did not send them, so they are gone."""
    if not state.unswept:
        return
    state.counters.swept += profiles.every(partial(_sweep_profile, state))
    state.unswept = False


def sweep_spared(state: ShardState, profile: Profile) -> None:
    """Sweep a profile again: rows that a record in quarantine spared go when it has been understood."""
    if state.streamed:
        state.counters.swept += _sweep_profile(state, profile)


def _sweep_profile(state: ShardState, profile: Profile) -> int:
    """Take out of a profile what the latest whole snapshot did not send; returns how many rows."""
    generation = state.generation or 0
    # One whose place is unknown, just before the first row that was understood, may have been of the snapshot.
    suspicions = tuple(s for s in profile.suspicions if s.offset >= state.unplaced_offset)
    # A row that the snapshot did send, but that could not be applied, is not gone.
    spared = {(s.table, s.key) for s in suspicions}
    if any(s.table < 0 for s in suspicions):
        old = []
    else:
        old = [(t, k, r) for t, k, r in profile.rows() if r.version[0] < generation and (t, k) not in spared]
    for table, key, _ in old:
        profile.put(table, key, None)
    profile.suspicions = suspicions
    return sum(row.values is not None for _, _, row in old)


def version_of(state: ShardState, origin: Origin) -> Version:
    """The version of a change that stands at `origin`, met in the shard's present generation."""
    generation = state.generation or 0
    if origin.snapshot is Snapshot.WHOLE:
        return (generation, 0, 0)
    return (generation, origin.commit or 0, origin.lsn)


def precedes_snapshot(state: ShardState, origin: Origin) -> bool:
    """A streamed change that was delivered before the latest whole snapshot began, and comes again.

    Its transaction was committed before Debezium took that snapshot, so the snapshot holds its outcome or a
    later one. Commits come in order, so `sequence[0]` tells; where it is null (the first transaction after an
    earlier snapshot), the time of the commit does, which a redelivery keeps. But a later one may have an earlier
    time, where the source's clock was set back: what was written behind the snapshot's LSN is not in it.
    """
    if origin.snapshot is not Snapshot.STREAMED:
        return False
    if origin.commit is None:
        return origin.ts_ms <= state.before_ms and origin.lsn < (state.generation or 0)
    return origin.commit <= state.before_commit
