"""Removes old snapshots, never the last good one of a shard. What is removed is decided first, purely.

A snapshot goes manifest first: killed in between, what is left is no snapshot, and goes with the next prune.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from . import manifest as manifests
from .listing import Condition, Found
from .stores import Store

UNFINISHED_KEPT = timedelta(days=1)
"""An unfinished snapshot may be a run under way on another machine: no shard is copied for longer."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one snapshot, and why."""

    id: str
    removed: bool
    reason: str


def decide(
    found: Sequence[Found], now: datetime, *, keep: int | None = None, older_than: timedelta | None = None
) -> list[Decision]:
    """What a prune does.

    A whole snapshot is removed where it is older than `older_than`, and of each of its shards there are `keep`
    newer whole ones (at least one, whatever was asked), all of them of bootstrapped shards. What cannot be read is
    left alone: the key may be wrong.

    Args:
        found: the oldest first.
    """
    if keep is None and older_than is None:
        raise ValueError("a prune needs a count or an age")
    newer: dict[int, int] = {}
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
        shards = [entry.shard for entry in manifest.shards if entry.bootstrapped]
        covered = min((newer.get(shard, 0) for shard in shards), default=1)
        if covered < max(1, keep or 1):
            reason = "has no newer good one to stand for it" if not covered else f"is one of the newest {keep}"
            decisions.append(Decision(snapshot.id, False, reason))
        elif older_than is not None and age <= older_than:
            decisions.append(Decision(snapshot.id, False, "is not old enough"))
        else:
            decisions.append(Decision(snapshot.id, True, f"is {age.days} d old, with {covered} newer"))
        if snapshot.condition is Condition.WHOLE:
            for shard in shards:
                newer[shard] = newer.get(shard, 0) + 1
    return decisions[::-1]


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
