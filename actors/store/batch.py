"""A batch's work on profiles: each is read once, written once, and indexed once, in one transaction."""

from collections.abc import Callable

import lmdb

from kycache.actors.files import quarantine
from kycache.actors.files.environment import Databases
from kycache.actors.files.quarantine import Quarantined
from kycache.actors.order.layout import Entry
from kycache.actors.order.list_key import list_key
from kycache.actors.order.writer import OrderWriter
from kycache.actors.rules.state import ShardState
from kycache.model.change import Change, Poison
from kycache.model.profile import MANY_ROWS, NO_ROW, Packed, Profile, Row, Suspicion, pack_profile, unpack_profile
from kycache.model.render import Listed, Listing, Renderer

MARKERS_PER_BATCH_MAX = 1_000
"""Markers dropped in one batch, so that a day's worth of deletes falling due stalls nothing."""

SWEEP_CHUNK = 2_000
"""Profiles edited between two writes of the order index in a sweep: bounds memory, not the transaction."""


class _Loaded:
    """A profile in work: as it was listed before, and as it is."""

    __slots__ = ("listed_by", "profile", "size", "suspect", "touched")

    def __init__(self, profile: Profile, listed_by: tuple[Packed, ...], size: int) -> None:
        self.profile = profile
        self.listed_by = listed_by
        self.suspect = bool(profile.suspicions)
        self.size = size
        self.touched = False


class Work:
    """The shard's profiles within one transaction: read once, written once, indexed once (`fold.Profiles`)."""

    def __init__(
        self,
        txn: "lmdb.Transaction[bytes]",
        databases: Databases,
        renderer: Renderer,
        children: int,
        order: OrderWriter,
    ) -> None:
        self._txn = txn
        self._databases = databases
        self._renderer = renderer
        self._children = children
        self._order = order
        self._loaded: dict[bytes, _Loaded] = {}
        self.users = 0
        self.suspects = 0

    def get(self, user: bytes) -> Profile:
        """The user's profile; an empty one where nothing is known."""
        return self._load(user).profile

    def known(self, user: bytes) -> bool:
        """Something is stored about the user, or was written in this batch."""
        loaded = self._load(user)
        return loaded.size > 0 or loaded.touched

    def touch(self, user: bytes) -> None:
        """The profile was changed and must be written."""
        self._loaded[user].touched = True

    def _load(self, user: bytes) -> _Loaded:
        loaded = self._loaded.get(user)
        if loaded is None:
            data = self._txn.get(user, db=self._databases.profiles)
            if data is None:
                loaded = _Loaded(Profile.empty(self._children), (NO_ROW,), 0)
            else:
                profile = unpack_profile(data)
                loaded = _Loaded(profile, self._renderer.listed_by(profile), len(data))
            self._loaded[user] = loaded
        return loaded

    def every(self, change: Callable[[Profile], int]) -> int:
        """Let `change` edit every profile of the shard, in chunks; returns the sum of what it returns."""
        self._flush()
        total = 0
        after = b""
        while users := self._users_behind(after):
            after = users[-1]
            for user in users:
                loaded = self._load(user)
                before = (loaded.profile.suspicions, len(loaded.profile.rows()))
                total += change(loaded.profile)
                loaded.touched = before != (loaded.profile.suspicions, len(loaded.profile.rows()))
            self._flush()
        return total

    def _users_behind(self, after: bytes) -> list[bytes]:
        users: list[bytes] = []
        with self._txn.cursor(db=self._databases.profiles) as cursor:
            found = cursor.set_range(after + b"\x00") if after else cursor.first()
            while found and len(users) < SWEEP_CHUNK:
                users.append(bytes(cursor.key()))
                found = cursor.next()
        return users

    def _flush(self) -> None:
        """Write what was touched, and forget what was read."""
        moves: list[tuple[Entry | None, Entry | None]] = []
        written: list[tuple[bytes, bytes]] = []
        for user in sorted(u for u, loaded in self._loaded.items() if loaded.touched):
            loaded = self._loaded[user]
            profile = loaded.profile
            if profile.blank:
                self._txn.delete(user, db=self._databases.profiles)
            else:
                written.append((user, pack_profile(profile)))
            self.suspects += bool(profile.suspicions) - loaded.suspect
            listed_by = self._renderer.listed_by(profile)
            if listed_by == loaded.listed_by:
                continue
            before, after = self._renderer.listing(loaded.listed_by), self._renderer.listing(listed_by)
            if before != after:
                self.users += (after is not None) - (before is not None)
                moves.append((self._entry(user, before), self._entry(user, after)))
        with self._txn.cursor(db=self._databases.profiles) as cursor:
            cursor.putmulti(written)
        if moves:
            self._order.apply(self._txn, moves)
        self._loaded.clear()

    def _entry(self, user: bytes, listing: Listing | None) -> Entry | None:
        if listing is None:
            return None
        listed: Listed = self._renderer.listed(listing)
        return Entry(list_key(listed.order, user), listed.filters, listed.row)

    def quarantine(self, poison: Poison) -> None:
        """Keep a record that could not be applied."""
        quarantine.keep(self._txn, self._databases, poison)

    def quarantined(self, offset: int) -> Quarantined | None:
        """The record in quarantine at an offset."""
        return quarantine.find(self._txn, self._databases, offset)

    def release(self, record: Quarantined) -> None:
        """Take a record out of quarantine, and with it the suspicion it raised."""
        quarantine.remove(self._txn, self._databases, record.offset)
        if record.user is not None:
            profile = self.get(record.user)
            lifted = [s for s in profile.suspicions if s.offset == record.offset]
            profile.suspicions = tuple(s for s in profile.suspicions if s.offset != record.offset)
            if any(s.table == MANY_ROWS for s in lifted):  # it stood for others: the next of them takes its place
                other = quarantine.latest_of(self._txn, self._databases, record.user)
                if other is not None:
                    profile.suspicions += (Suspicion(MANY_ROWS, None, other),)
            self.touch(record.user)

    def note_marker(self, change: Change) -> None:
        """Remember when the delete marker of `change` falls due."""
        due = max(change.origin.ts_ms, 0).to_bytes(8, "big")
        self._txn.put(due + change.user, b"", db=self._databases.markers)

    def drop_due_markers(self, before_ms: int) -> None:
        """Forget deletes older than `before_ms` by the source's clock."""
        if before_ms <= 0:
            return
        limit = before_ms.to_bytes(8, "big")
        due: list[bytes] = []
        with self._txn.cursor(db=self._databases.markers) as cursor:
            found = cursor.first()
            while found and cursor.key() < limit and len(due) < MARKERS_PER_BATCH_MAX:
                due.append(bytes(cursor.key()))
                found = cursor.next()
        for key in due:
            self._txn.delete(key, db=self._databases.markers)
            profile = self.get(key[8:])
            for table, row_key, row in profile.rows():
                if _due(row, before_ms):
                    profile.put(table, row_key, None)
                    self.touch(key[8:])

    def finish(self, state: ShardState) -> None:
        """Write everything, and the counts into `state`."""
        self._flush()
        state.users += self.users
        state.suspects += self.suspects


def _due(row: Row, before_ms: int) -> bool:
    return row.values is None and row.deleted_ms < before_ms
