"""Removes old snapshots, never the last good one of a shard. What is removed is decided first, purely.

A snapshot goes manifest first: killed in between, what is left is no snapshot, and goes with the next prune.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from kycache.model.errors import Refused
from kycache.snapshots.storage import manifest as manifests
from kycache.snapshots.storage.fetch import check_stored
from kycache.snapshots.storage.listing import Condition, Found
from kycache.snapshots.storage.manifest import Manifest, ShardEntry
from kycache.snapshots.storage.stores import Store

UNFINISHED_KEPT = timedelta(days=1)
"""An unfinished snapshot may be a run under way on another machine: no shard is copied for longer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one snapshot, and why."""

    id: str
    removed: bool
    reason: str


class Copied(NamedTuple):
    """What a copy is one of. A shard of another view or topic is another shard: what holds one cannot bring the
    other back, and must not stand for it in a store that both use."""

    view: str
    shards: int
    topic_id: str
    shard: int


def _copied(manifest: Manifest) -> dict[Copied, ShardEntry]:
    """What can come back from a snapshot."""
    return {
        Copied(manifest.view, manifest.shard_count, entry.position.topic_id, entry.shard): entry
        for entry in manifest.shards
        if entry.bootstrapped
    }


def decide(
    found: Sequence[Found], now: datetime, *, keep: int | None = None, older_than: timedelta | None = None
) -> list[Decision]:
    """What a prune does.

    A whole snapshot is removed where it is older than `older_than`, and of each of its shards there are `keep`
    newer whole ones (at least one, whatever was asked), of the same view and topic, bootstrapped, and read as far:
    a shard that went to another node leaves a file, whose later copies are none to come back from. What cannot be
    read is left alone: the key may be wrong.

    Args:
        found: the oldest first.
    """
    if keep is None and older_than is None:
        raise ValueError("a prune needs a count or an age")
    newer: dict[Copied, list[int]] = {}  # how far those have read, in order
    decisions: list[Decision] = []
    for snapshot in reversed(found):
        if snapshot.condition is Condition.UNFINISHED:
            ran = any(file.path.endswith(f"/{manifests.RUN_FILE}") for file in snapshot.files)
            left = not ran or now - snapshot.newest > UNFINISHED_KEPT  # without it: a prune was killed
            decisions.append(Decision(snapshot.id, left, "was left behind" if left else "may be under way"))
            continue
        manifest = snapshot.manifest
        if manifest is None:
            decisions.append(Decision(snapshot.id, False, "cannot be read with this key"))
            continue
        age = now - datetime.fromisoformat(manifest.created_at)
        if age < timedelta():
            # Older than what was taken since that clock was set right, in the place of which it would stay.
            decisions.append(Decision(snapshot.id, False, "is dated ahead of the clock here: stands for no other"))
            continue
        shards = _copied(manifest)
        wanted = max(1, keep or 1)
        counts = (_as_far(newer.get(shard, []), entry) for shard, entry in shards.items())
        covered = min(counts, default=wanted)  # by none: nothing can come back
        if covered < wanted:
            reason = "has no newer good one to stand for it" if not covered else f"is one of the newest {keep}"
            decisions.append(Decision(snapshot.id, False, reason))
        elif older_than is not None and age <= older_than:
            decisions.append(Decision(snapshot.id, False, "is not old enough"))
        else:
            reason = f"is {age.days} d old, with {covered} newer" if shards else "holds no shard that was whole"
            decisions.append(Decision(snapshot.id, True, reason))
        if snapshot.condition is Condition.WHOLE:
            for shard, entry in shards.items():
                insort(newer.setdefault(shard, []), entry.position.offset)
    return decisions[::-1]


def _as_far(offsets: Sequence[int], entry: ShardEntry) -> int:
    """How many of these have read at least as far."""
    return len(offsets) - bisect_left(offsets, entry.position.offset)


def decide_surely(
    store: Store,
    found: Sequence[Found],
    now: datetime,
    *,
    keep: int | None = None,
    older_than: timedelta | None = None,
) -> tuple[list[Found], list[Decision]]:
    """Decide, and read what is relied on: a file of the right name and size may still be damaged. Blocking.

    For each shard of what would go, the one that stays and has read furthest is read and its hash compared. Where
    it differs that snapshot is damaged, stands for nothing, and it is decided anew.

    Returns:
        What there is, by what is known now; and what becomes of it.
    """
    known = list(found)
    read: set[tuple[str, Copied]] = set()
    while True:
        decisions = decide(known, now, keep=keep, older_than=older_than)
        removed = {decision.id for decision in decisions if decision.removed}
        going = {shard for f in known if f.manifest and f.id in removed for shard in _copied(f.manifest)}
        relied_on = _newest(known, removed, going) - read
        if not relied_on:
            return known, decisions
        for snapshot, shard in sorted(relied_on):
            read.add((snapshot, shard))
            number = next(n for n, f in enumerate(known) if f.id == snapshot)
            manifest = known[number].manifest
            assert manifest is not None
            try:
                check_stored(store, manifest, manifest.entry(shard.shard))
            except Refused as error:
                known[number] = known[number]._replace(condition=Condition.DAMAGED, reason=error.problem)


def _newest(found: Sequence[Found], removed: set[str], shards: set[Copied]) -> set[tuple[str, Copied]]:
    """For each shard, the whole snapshot of it that stays and has read furthest; of several, the newest."""
    newest: dict[Copied, tuple[int, str]] = {}
    for snapshot in found:
        if snapshot.condition is Condition.WHOLE and snapshot.manifest and snapshot.id not in removed:
            for shard, entry in _copied(snapshot.manifest).items():
                if shard in shards:
                    newest[shard] = max(newest.get(shard, (-1, "")), (entry.position.offset, snapshot.id))
    return {(snapshot, shard) for shard, (_, snapshot) in newest.items()}


def carry_out(store: Store, found: Sequence[Found], decisions: Sequence[Decision]) -> list[str]:
    """Remove what was decided; returns the names of other leftovers that went with it. Blocking."""
    files = {snapshot.id: [file.path for file in snapshot.files] for snapshot in found}
    for decision in decisions:
        if decision.removed:
            remove(store, decision.id, files[decision.id])
    return store.tidy(datetime.now(UTC) - UNFINISHED_KEPT)


def remove(store: Store, snapshot: str, files: Sequence[str]) -> None:
    """Remove one snapshot, its manifest first, durably before the rest."""
    manifest = f"{snapshot}/{manifests.MANIFEST}"
    if manifest in files:
        store.delete([manifest])
    store.delete([path for path in files if path != manifest])
    store.forget(snapshot)
