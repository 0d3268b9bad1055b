"""What a shard must hold at a position: the same rules as the product's fold, told otherwise.

The product orders images by (S, last commit, lsn), which is all it can see. The model is told by the source
which of two images is the later truth, and so needs no versions and no markers: whatever stands, by the source's
order, before the latest thing known of its row, its table or the whole shard has no effect.
"""

from copy import copy
from typing import NamedTuple

from kycache.model.change import SHARD_IN_DOUBT, Beat, Change, Item, Poison, Skip, Snapshot, Truncate
from kycache.model.values import Absent
from support.pipeline.fake_source import Sent

Identity = tuple[int, object]
"""Of a row within a user: its table's number and its primary key."""

ANY: Identity = (-1, None)
NEVER = 1 << 62
"""An order that nothing reaches: heals by no row."""


class Suspicion(NamedTuple):
    """A record that could not be understood, and what it may have been about."""

    row: Identity
    offset: int
    order: int


class Image(NamedTuple):
    """The latest word on a row; `values` is None where it was deleted."""

    order: int
    values: tuple[object, ...] | None


def placed(item: Item, sent: Sent) -> int:
    """Where an image stands, by the source's order.

    A partial snapshot's row stands behind what was streamed of the same moment. Both say the same, but who sees
    only versions has to take the streamed one for older, and so not for a cure of the other.
    """
    origin = item.origin if isinstance(item, Change | Poison) else None
    return 2 * sent.order + (origin is not None and origin.snapshot is Snapshot.PARTIAL)


class ShardModel:
    """One shard, at the position behind the last item it was told."""

    def __init__(self) -> None:
        self.position = 0
        self.rows: dict[bytes, dict[Identity, Image]] = {}
        self.suspicions: dict[bytes, list[Suspicion]] = {}
        self.quarantine: dict[int, Poison] = {}
        self.watermark = 0
        self.as_of_ms = 0
        self.snapshot: int | None = None
        """The order of the latest whole snapshot: nothing older has any effect from its first row on."""
        self.snapshot_offset = 0
        """Behind the last record before it of which that can be told."""
        self.placed_offset = 0
        self.swept = True
        self.bootstrapped = False
        self.truncated: dict[int, int] = {}
        self.fingerprint = ""
        self.fingerprint_order = 0
        self.altered: int | None = None
        """The order of the latest beat that told of another catalog."""
        self.touched: set[bytes] | None = set()
        """Users changed since this was last emptied; None: any."""

    def copy(self) -> "ShardModel":
        """As of now."""
        made = copy(self)
        made.rows = {user: dict(images) for user, images in self.rows.items()}
        made.suspicions = {user: list(found) for user, found in self.suspicions.items()}
        made.quarantine, made.truncated = dict(self.quarantine), dict(self.truncated)
        made.touched = set()
        return made

    @property
    def users(self) -> int:
        """Users that exist: those whose root row lives."""
        return sum(self.exists(user) for user in self.rows)

    @property
    def doubts(self) -> int:
        """Records in quarantine that name no user."""
        return sum(poison.scope in SHARD_IN_DOUBT for poison in self.quarantine.values())

    def exists(self, user: bytes) -> bool:
        """The user's root row lives."""
        root = self.rows.get(user, {}).get((0, None))
        return root is not None and root.values is not None

    def living(self, user: bytes) -> dict[Identity, tuple[object, ...]]:
        """The user's rows."""
        images = self.rows.get(user, {})
        return {row: image.values for row, image in images.items() if image.values is not None}

    def apply(self, item: Item, sent: Sent) -> None:
        """The next record of the partition: what it means, and what the source knows of it."""
        self.position = item.offset + 1
        if isinstance(item, Skip):
            return
        order = placed(item, sent)
        origin = item.origin if isinstance(item, Change | Beat | Truncate | Poison) else None
        if origin is not None and origin.snapshot is Snapshot.WHOLE and self.snapshot != order:
            self.snapshot, self.snapshot_offset, self.swept = order, self.placed_offset, False
            self.fingerprint = ""
        if origin is not None:
            self.placed_offset = item.offset + 1
        if origin is not None and origin.snapshot is Snapshot.STREAMED:
            self._streamed(order)
            self.watermark = max(self.watermark, origin.lsn)
            self.as_of_ms = max(self.as_of_ms, origin.ts_ms)
        if isinstance(item, Change):
            self.row(item, order)
        elif isinstance(item, Beat):
            self._truncate(item.truncated, order)
            if item.fingerprint and order >= self.fingerprint_order:
                if order != self.snapshot and self.fingerprint not in ("", item.fingerprint):
                    self.altered = order
                self.fingerprint, self.fingerprint_order = item.fingerprint, order
        elif isinstance(item, Poison):
            self._poison(item, order)

    def row(self, change: Change, order: int) -> None:
        """One image of a row, from the log or out of quarantine."""
        known = self.living(change.user)
        if change.former is not None:
            self._image(change, change.former, None, order)
        former = known.get((change.table, change.former)) if change.former is not None else None
        self._image(change, change.key, former or known.get((change.table, change.key)), order)

    def _image(self, change: Change, key: object, known: tuple[object, ...] | None, order: int) -> None:
        identity = (change.table, key)
        images = self.rows.setdefault(change.user, {})
        before = images.get(identity)
        if order < max(self.snapshot or 0, self.truncated.get(change.table, 0), before.order if before else 0):
            return
        self._touch(change.user)
        suspicions = self.suspicions.setdefault(change.user, [])
        values = change.values if key == change.key else None
        images[identity] = Image(order, None if values is None else _filled(values, known))
        kept = Absent.UNAVAILABLE in (values or ())
        unsure = kept and (known is None or any(s.row in (identity, ANY) for s in suspicions))
        if values is not None and (change.doubtful or unsure):
            suspicions.append(Suspicion(identity, change.offset, order))
        else:
            self.suspicions[change.user] = [s for s in suspicions if s.row != identity or s.order > order]

    def settle(self, offset: int) -> None:
        """A record leaves quarantine, understood."""
        poison = self.quarantine.pop(offset)
        if poison.user is not None:
            left = [s for s in self.suspicions.get(poison.user, ()) if s.offset != offset]
            self.suspicions[poison.user] = left
            self._touch(poison.user)
            if self.swept:
                self._sweep(poison.user)

    def _streamed(self, order: int) -> None:
        """The first thing streamed after a whole snapshot: what that did not send is gone."""
        if self.snapshot is None or order < self.snapshot:
            return
        self.bootstrapped = True
        if self.altered is not None and self.altered < self.snapshot:
            self.altered = None
        if not self.swept:
            self.swept, self.touched = True, None
            for user in self.suspicions.keys() | self.rows.keys():
                self._sweep(user)

    def _sweep(self, user: bytes) -> None:
        kept = [s for s in self.suspicions.get(user, ()) if s.offset >= self.snapshot_offset]
        self.suspicions[user] = kept
        spared = {s.row for s in kept}
        images = self.rows.get(user, {})
        for identity in [i for i, image in images.items() if image.order < (self.snapshot or 0)]:
            if identity not in spared and ANY not in spared:
                del images[identity]

    def _truncate(self, tables: tuple[int, ...], order: int) -> None:
        for table in tables:
            if order <= max(self.snapshot or 0, self.truncated.get(table, 0)):
                continue
            self.truncated[table], self.touched = order, None
            for images in self.rows.values():
                for identity in [i for i, image in images.items() if i[0] == table and image.order < order]:
                    del images[identity]
            for user, suspicions in self.suspicions.items():
                self.suspicions[user] = [s for s in suspicions if s.row[0] != table]

    def _poison(self, poison: Poison, order: int) -> None:
        self.quarantine[poison.offset] = copy(poison)
        if poison.user is None:
            return
        pinned = poison.table is not None and (poison.table == 0 or poison.key is not None)
        row = (poison.table, poison.key) if pinned and poison.table is not None else ANY
        suspicion = Suspicion(row, poison.offset, NEVER if poison.origin is None else order)
        self.suspicions.setdefault(poison.user, []).append(suspicion)
        self._touch(poison.user)

    def _touch(self, user: bytes) -> None:
        if self.touched is not None:
            self.touched.add(user)


def _filled(values: tuple[object, ...], known: tuple[object, ...] | None) -> tuple[object, ...]:
    """What the image lacks is what it was, or null."""
    before = known or (None,) * len(values)
    return tuple(old if isinstance(new, Absent) else new for new, old in zip(values, before, strict=True))
