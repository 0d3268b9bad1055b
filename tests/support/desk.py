"""A shard's rules without a store: its state and profiles in memory, and short ways to say events."""

from collections.abc import Callable

from kycache.actors.rules.alteration import TableNames
from kycache.actors.rules.fold import Fold, Outcome, Verdict
from kycache.actors.rules.state import Position, ShardState
from kycache.model.change import Beat, Change, Item, Origin, Snapshot
from kycache.model.profile import Profile
from kycache.model.values import Absent, Value

S = 1_000
USER = b"u" * 16
NAMES = tuple(TableNames(table, ("first", "second")) for table in ("users", "kyc_records", "accounts"))


class MemoryProfiles:
    """Profiles in a dictionary."""

    def __init__(self) -> None:
        self.profiles: dict[bytes, Profile] = {}

    def get(self, user: bytes) -> Profile:
        return self.profiles.setdefault(user, Profile.empty(2))

    def touch(self, user: bytes) -> None:
        assert user in self.profiles

    def known(self, user: bytes) -> bool:
        return user in self.profiles

    def every(self, change: Callable[[Profile], int]) -> int:
        return sum(change(p) for p in self.profiles.values())


class Desk:
    """A shard under test: its state, its profiles, and short ways to say events."""

    def __init__(self, shards: int = 1) -> None:
        self.state = ShardState(Position("t", "i", 0, 0), from_start=True)
        self.profiles = MemoryProfiles()
        self.fold = Fold(0, shards, NAMES)
        self.offset = 0

    def apply(self, item: Item) -> Verdict:
        item.offset = self.offset
        self.offset += 1
        return self.fold.apply(self.state, item, self.profiles)

    def streamed(self, commit: int | None, lsn: int, ts: int = 0, tx: int = 1) -> Origin:
        return Origin(Snapshot.STREAMED, commit, lsn, ts or lsn, tx)

    def put(self, origin: Origin, *values: Value | Absent, table: int = 0, key: Value = None) -> Outcome:
        partial = any(isinstance(v, Absent) for v in values)
        return self.apply(Change(0, origin, table, b"k", USER, key, values, partial=partial)).outcome

    def delete(self, origin: Origin, table: int = 0, key: Value = None) -> Outcome:
        return self.apply(Change(0, origin, table, b"k", USER, key, None)).outcome

    def snapshot_row(self, lsn: int, *values: Value, table: int = 0, key: Value = None) -> Outcome:
        return self.put(Origin(Snapshot.WHOLE, None, lsn, 1, None), *values, table=table, key=key)

    def root(self) -> tuple[Value, ...] | None:
        row = self.profiles.get(USER).root
        return None if row is None else row.values

    def beat(self, origin: Origin, fingerprint: str = "", truncated: tuple[int, ...] = ()) -> Verdict:
        return self.apply(Beat(0, origin, truncated, fingerprint))

    def whole(self, lsn: int) -> Origin:
        return Origin(Snapshot.WHOLE, None, lsn, 1, None)
