"""What a shard concludes where its tables were altered at the source. Pure.

DDL sends no events, and some of it changes rows. It shows in two ways: a beat has another fingerprint of the
catalog (`model/fingerprint.py`) than the one before it, at most one beat late; or a row comes without a column
that rows of its table had before. Either puts every answer of the shard in doubt, until a whole snapshot that
began later has come, or somebody who knows what was done has acknowledged that no row changed.

A whole snapshot brings the fingerprint that it was read under, and the beats after it are compared with that.
Where it brings none, since the connector is of before the feature, the first beat with one is compared with
nothing.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from kycache.model.change import Origin, Snapshot
from kycache.model.lsn import format_lsn
from kycache.model.values import Absent, Value

from .state import Alteration, ShardState

ALTERED_REMEDY = (
    "run `kycache rebuild --epoch`, with a new view definition where this one no longer fits (`kycache doctor` "
    "says so); or, where it is known that no row changed, `kycache rebuild --acknowledge`"
)


_T = TypeVar("_T")


class TableNames(NamedTuple):
    """A table of the view, and its stored columns, as the source calls them."""

    table: str
    columns: tuple[str, ...]


def compare_fingerprint(state: ShardState, offset: int, origin: Origin, fingerprint: str) -> None:
    """What a beat says of the catalog. Beats are transactions one after another: their LSNs put them in order."""
    if origin.snapshot is Snapshot.WHOLE:
        if origin.lsn >= state.fingerprint_lsn:
            state.fingerprint, state.fingerprint_lsn = fingerprint, origin.lsn
        return
    if origin.snapshot is not Snapshot.STREAMED or origin.lsn <= state.fingerprint_lsn:
        return  # redelivered, or read again by a snapshot that is not whole
    if state.fingerprint not in ("", fingerprint):
        # What rows lack says more than that something changed.
        lacking = "" if state.altered is None else state.altered.lacking
        state.altered = Alteration(offset, origin.lsn, lacking)
    state.fingerprint, state.fingerprint_lsn = fingerprint, origin.lsn


def look_for_columns(
    state: ShardState,
    offset: int,
    origin: Origin,
    table: int,
    values: Sequence[Value | Absent],
    names: Sequence[TableNames],
) -> None:
    """Which declared columns an image has, and whether it lacks one that its table had before.

    DDL waits for all who write to the table, so of one table LSNs tell what was written before it and what after.
    A column that was declared before it was made is no loss, nor is a row of a log from before that.
    """
    if len(state.unseen) < len(names):
        state.unseen = tuple(_packed((1 << len(each.columns)) - 1) for each in names)
        state.seen_lsn = (0,) * len(names)
    missing = sum(1 << n for n, value in enumerate(values) if value is Absent.MISSING)
    unseen, since = int.from_bytes(state.unseen[table], "big"), state.seen_lsn[table]
    lost = missing & ~unseen
    if lost and origin.lsn > since:
        name, columns = names[table]
        lacking = ", ".join(column for n, column in enumerate(columns) if lost >> n & 1)
        state.altered = Alteration(offset, origin.lsn, f"table {name} without {lacking}")
    if unseen & ~missing:
        state.unseen = _replaced(state.unseen, table, _packed(unseen & missing))
        state.seen_lsn = _replaced(state.seen_lsn, table, max(since, origin.lsn))


def settle_alteration(state: ShardState) -> None:
    """A whole snapshot has come to its end: what was altered before it began is in it."""
    if state.altered is not None and state.altered.lsn < (state.generation or 0):
        state.altered = None


def acknowledge_alteration(state: ShardState) -> str:
    """Trust the shard again, by an operator's word; returns what was in doubt, empty where nothing was."""
    if state.altered is None:
        return ""
    was = describe_alteration(state.altered)
    # Columns that went are declared, but not there: as if they had never been seen.
    state.altered, state.unseen, state.seen_lsn = None, (), ()
    return was


def describe_alteration(altered: Alteration) -> str:
    """What was seen, for an operator."""
    at = f"{format_lsn(altered.lsn)}, at offset {altered.offset}"
    if altered.lacking:
        return f"rows come of {altered.lacking}, which earlier ones had (seen at {at})"
    return (
        f"what the view reads was altered at the source, and rows may have changed without an event (seen at {at})"
    )


def why_altered(state: ShardState | None) -> str:
    """Why each answer of a shard is in doubt, and what to do; empty where it is not."""
    if state is None or state.altered is None:
        return ""
    return f"every answer is suspect: {describe_alteration(state.altered)}; {ALTERED_REMEDY}"


def _packed(bits: int) -> bytes:
    """A set of columns: as many bytes as it needs, none where it is empty."""
    return bits.to_bytes((bits.bit_length() + 7) // 8, "big")


def _replaced(values: tuple[_T, ...], at: int, value: _T) -> tuple[_T, ...]:
    return (*values[:at], value, *values[at + 1 :])
