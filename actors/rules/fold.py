"""What a shard decides for each item of its partition. Pure: no store, no clock, no Kafka.

`Fold` applies one decoded item to the shard's state and to the profiles it is handed: its place in history first
(`timeline.py`), then its row. The caller keeps both in one transaction, so what is decided here happens exactly
once in effect however often Kafka delivers.

The theory (DESIGN 1 and 6): a row takes a change iff the change's version is at least the stored one.
A version is (S, last commit, lsn): S counts whole snapshots, the pair orders transactions, and the lsn orders
changes of one transaction. Deletes leave a marker with their version, so that nothing late resurrects a row.
The greatest lsn of any streamed change is the watermark: transactions come in commit order, and a
change's lsn lies below its own commit, so everything committed at or below it came before.
"""

from enum import Enum
from typing import NamedTuple, cast

from kycache.model.change import Beat, Change, Item, Misrouted, Poison, Scope, Skip, Snapshot, Truncate
from kycache.model.errors import HaltShard
from kycache.model.lsn import Version
from kycache.model.partition import partition_of
from kycache.model.profile import ANY_ROW, MANY_ROWS, SUSPICIONS_MAX, UNKNOWN_VERSION, Profile, Row, Suspicion
from kycache.model.values import Absent, Value

from .alteration import TableNames, compare_fingerprint, look_for_columns
from .state import PendingTruncate, ShardState
from .timeline import Mark, Notice, Profiles, Timeline, precedes_snapshot, version_of


class Outcome(Enum):
    """What became of an item."""

    APPLIED = "applied"
    STALE = "stale"
    BEAT = "beat"
    SKIPPED = "skipped"
    QUARANTINED = "quarantined"


class Verdict(NamedTuple):
    """What became of an item, and what it means for the other shards."""

    outcome: Outcome
    notices: tuple[Notice, ...] = ()


_PLAIN = {outcome: Verdict(outcome) for outcome in Outcome}


def _verdict(outcome: Outcome, notices: tuple[Notice, ...]) -> Verdict:
    return Verdict(outcome, notices) if notices else _PLAIN[outcome]


class Fold:
    """Applies items of one shard. Holds no data of its own but what never changes."""

    def __init__(
        self, shard: int, shard_count: int, names: tuple[TableNames, ...], *, halt_on_poison: bool = False
    ) -> None:
        """Args:
        names: of the view's tables and columns, for messages.
        halt_on_poison: a record that cannot be decoded stops the shard instead of going to quarantine.
        """
        self.halt_on_poison = halt_on_poison
        self.shard = shard
        self.shard_count = shard_count
        self.names = names
        self.tables = tuple(each.table for each in names)
        self.timeline = Timeline(shard, self.tables)

    def apply(self, state: ShardState, item: Item, profiles: Profiles) -> Verdict:
        """Apply one item to `state` and `profiles`.

        Raises:
            HaltShard: the item proves that going on would corrupt the view. Nothing was changed.
        """
        match item:
            case Change():
                if not profiles.known(item.user):
                    self._check_partition(item.offset, self.tables[item.table], item.kafka_key)
                overdue = self.timeline.enter(state, item.offset, item.origin, profiles)
                return _verdict(self._change(state, item, profiles), overdue)
            case Beat():
                overdue = self.timeline.enter(state, item.offset, item.origin, profiles, item.truncated)
                return _verdict(self._beat(state, item, profiles), overdue)
            case Truncate():
                overdue = self.timeline.enter(state, item.offset, item.origin, profiles)
                origin = item.origin
                state.pending += (PendingTruncate(item.table, origin.tx, origin.commit, origin.lsn),)
                return _verdict(Outcome.SKIPPED, overdue)
            case Skip():
                state.counters.skipped += 1
                return _PLAIN[Outcome.SKIPPED]
            case Poison():
                return self._poison(state, item, profiles)
            case Misrouted():
                raise self._misrouted(item)

    def replay(self, state: ShardState, item: Item, profiles: Profiles) -> Outcome:
        """Apply a record out of quarantine: its row only. Its place in history was entered when it came.

        Raises:
            HaltShard: it proves a wrong connector.
        """
        match item:
            case Change():
                if not profiles.known(item.user):
                    self._check_partition(item.offset, self.tables[item.table], item.kafka_key)
                whole = item.origin.snapshot is Snapshot.WHOLE
                outdated = item.origin.lsn != state.generation if whole else item.offset < state.generation_offset
                # A whole snapshot that came since holds the outcome.
                return Outcome.STALE if outdated else self._change(state, item, profiles)
            case Misrouted():
                raise self._misrouted(item)
            case _:
                return Outcome.SKIPPED

    def _misrouted(self, item: Misrouted) -> HaltShard:
        return HaltShard(
            f"shard {self.shard}: offset {item.offset}: {item.problem}",
            f"{item.remedy}; then restart ingest where the setting was wrong, or run "
            f"`kycache rebuild --shard {self.shard} --epoch` where the connector was",
        )

    def _check_partition(self, offset: int, table: str, kafka_key: bytes) -> None:
        belongs = partition_of(kafka_key, self.shard_count)
        if belongs != self.shard:
            raise HaltShard(
                f"shard {self.shard}: offset {offset}: a change of table {table!r} "
                f"has a key of partition {belongs} of {self.shard_count}",
                "let the connector's producer use Kafka's default partitioner, as `kycache connector` prints it; "
                f"then run `kycache rebuild --shard {self.shard} --epoch`: the log keeps what was sent wrong",
            )

    def _change(self, state: ShardState, change: Change, profiles: Profiles) -> Outcome:
        if change.former is None:
            return self._row(state, change, profiles)
        # One record for two rows: to Debezium a key is the user id, and a child's own is a column like others.
        before = profiles.get(change.user).row(change.table, change.former)
        gone = Change(
            change.offset, change.origin, change.table, change.kafka_key, change.user, change.former, None
        )
        self._row(state, gone, profiles)
        return self._row(state, change, profiles, before)

    def _row(self, state: ShardState, change: Change, profiles: Profiles, before: Row | None = None) -> Outcome:
        """Apply a change to the row of its key. `before`: the same row, where it stood under another key."""
        version = version_of(state, change.origin)
        profile = profiles.get(change.user)
        stored = profile.version(change.table, change.key)
        floor = state.floors.get(change.table)
        state.counters.unknown_columns += change.extra
        if (
            (stored is not None and version < stored)
            or (floor is not None and version < floor)
            or precedes_snapshot(state, change.origin)
        ):
            state.counters.stale += 1
            return Outcome.STALE
        if change.values is None:
            profile.put(change.table, change.key, Row(version, None, change.origin.ts_ms))
            self._heal(profile, change.table, change.key, version)
        else:
            row, unknown = cast("tuple[Value, ...]", change.values), False
            # Until every column has come once, and of odd images: the usual one has them all.
            if change.partial or not state.unseen or state.unseen[change.table]:
                look_for_columns(state, change.offset, change.origin, change.table, change.values, self.names)
            if change.partial:
                known = before is not None and before.values is not None
                row, unknown = _merge(change, before if known else profile.row(change.table, change.key), profile)
            profile.put(change.table, change.key, Row(version, row))
            if unknown or change.doubtful:
                self._suspect(profile, Suspicion(change.table, change.key, change.offset, version))
            else:
                self._heal(profile, change.table, change.key, version)
        state.counters.applied += 1
        profiles.touch(change.user)
        return Outcome.APPLIED

    def _heal(self, profile: Profile, table: int, key: Value, version: Version) -> None:
        """A full row heals what is no newer than itself."""
        if profile.suspicions:
            profile.suspicions = tuple(
                s for s in profile.suspicions if (s.table, s.key) != (table, key) or s.version > version
            )

    def _suspect(self, profile: Profile, suspicion: Suspicion) -> None:
        if len(profile.suspicions) >= SUSPICIONS_MAX:
            suspicion = Suspicion(MANY_ROWS, None, suspicion.offset)
            profile.suspicions = (*profile.suspicions[: SUSPICIONS_MAX - 1], suspicion)
        elif suspicion not in profile.suspicions:
            profile.suspicions += (suspicion,)

    def _beat(self, state: ShardState, beat: Beat, profiles: Profiles) -> Outcome:
        state.heartbeat = True
        state.counters.beats += 1
        if beat.origin.snapshot is Snapshot.STREAMED and not precedes_snapshot(state, beat.origin):
            version = version_of(state, beat.origin)
            for table in beat.truncated:
                self._truncate(state, table, version, profiles)
        if beat.fingerprint:
            compare_fingerprint(state, beat.offset, beat.origin, beat.fingerprint)
        return Outcome.BEAT

    def _truncate(self, state: ShardState, table: int, version: Version, profiles: Profiles) -> None:
        if version <= state.floors.get(table, (-1, 0, 0)):
            return
        state.floors = {**state.floors, table: version}

        def drop(profile: Profile) -> int:
            old = [(t, k, r) for t, k, r in profile.rows() if t == table and r.version < version]
            for _, key, _ in old:
                profile.put(table, key, None)
            profile.suspicions = tuple(s for s in profile.suspicions if s.table != table)
            return sum(row.values is not None for _, _, row in old)

        state.counters.truncated += profiles.every(drop)

    def _poison(self, state: ShardState, poison: Poison, profiles: Profiles) -> Verdict:
        if self.halt_on_poison:
            raise HaltShard(
                f"shard {self.shard}: offset {poison.offset} cannot be applied: {poison.reason}",
                "mend the source or the connector, or set `[ingest] poison` to quarantine and start ingest again",
            )
        if poison.user is not None and poison.kafka_key is not None and not profiles.known(poison.user):
            table = "?" if poison.table is None else self.tables[poison.table]
            self._check_partition(poison.offset, table, poison.kafka_key)
        overdue: tuple[Notice, ...] = ()
        if poison.origin is not None:
            overdue = self.timeline.enter(state, poison.offset, poison.origin, profiles)
        state.counters.quarantined += 1
        state.quarantined += 1
        if poison.scope is Scope.PROFILE:
            assert poison.user is not None
            pinned = poison.table == 0 or poison.key is not None
            number = poison.table if pinned and poison.table is not None else ANY_ROW
            key = poison.key if pinned else None
            version = UNKNOWN_VERSION if poison.origin is None else version_of(state, poison.origin)
            self._suspect(profiles.get(poison.user), Suspicion(number, key, poison.offset, version))
            profiles.touch(poison.user)
            return Verdict(Outcome.QUARANTINED, overdue)
        if poison.scope is Scope.ROW:
            return Verdict(Outcome.QUARANTINED, overdue)
        state.doubts += 1
        if poison.scope is Scope.SHARD:
            return Verdict(Outcome.QUARANTINED, overdue)
        lsn = 0 if poison.origin is None else poison.origin.lsn
        return Verdict(Outcome.QUARANTINED, (*overdue, Notice(Mark.SUSPECT, poison.reason, lsn)))


def _merge(change: Change, stored: Row | None, profile: Profile) -> tuple[tuple[Value, ...], bool]:
    """The new row, and whether a value of it is not known.

    What an image lacks is kept from before. Of a value that did not change, that is what it is only where the row
    was known: not where something about it could not be understood, nor where it was in doubt already.
    """
    assert change.values is not None
    before = stored.values if stored is not None else None
    old = (None,) * len(change.values) if before is None else before
    row = tuple(was if isinstance(now, Absent) else now for now, was in zip(change.values, old, strict=True))
    about = change.table, change.key
    doubted = before is None or any(s.table < 0 or (s.table, s.key) == about for s in profile.suspicions)
    return row, doubted and Absent.UNAVAILABLE in change.values
