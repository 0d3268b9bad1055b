"""How fresh a shard is, and which state that puts it in. Pure.

as-of is the source's clock at the last commit applied; staleness = now - as-of + allowed clock skew. Without
heartbeat rows an idle shard is not told from a dead source: freshness is then known only up to Kafka, so as-of
and staleness are None.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from .reports import NO_SHARD, Doubt, Report
from .state import ShardState

CUT_OFF = "stale"
"""The kind of doubt that a truncate leaves whose rows no shard was told of, and a source that moved back.
The other kind, `suspect`, is lifted where its record is."""

CLOCK_SKEW_S = 0.1
"""Allowed between the source's clock and this machine's: staleness is said with that much added, and a change that
bears a later time than that does not make a shard fresher (DESIGN 1)."""

OPEN = "open"
"""The report of a writer that has its shard open; it may have a reason why it commits nothing."""

SOURCE_REMEDY = "make sure the source is the right one, then run `kycache rebuild --epoch`"
NOBODY_WRITES = "no ingest holds the shard: see its log for why it ended, and start it"
CLOCK_REMEDY = "let the source and this machine keep their time by NTP"
SUSPECT_REMEDY = (
    "mend what `kycache quarantine list` names, then run `kycache quarantine replay`, "
    "or `kycache rebuild --epoch` where that keeps the record"
)
NO_SNAPSHOT_REMEDY = "unless Debezium takes one just now, order it: `kycache rebuild --epoch`"
NO_BEAT_REMEDY = "run what `kycache connector --sql` prints"
CUT_OFF_REMEDY = "install the trigger (`kycache connector --sql`), then run `kycache rebuild --epoch`"


class Standing(StrEnum):
    """The states of DESIGN section 7."""

    BOOTSTRAPPING = "bootstrapping"
    READY = "ready"
    STALE = "stale"
    HALTED = "halted"
    RESTORING = "restoring"


class Freshness(NamedTuple):
    """How true an answer is."""

    as_of_ms: int | None
    watermark: int
    suspect: bool
    heartbeat: bool
    """False: how old it is, is known only up to Kafka."""
    cut_off: bool = False
    """Something is known to have happened that no shard was told of: no demand can be met."""


class Limits(NamedTuple):
    """Settings that freshness is judged by."""

    clock_skew_s: float = CLOCK_SKEW_S
    stale_after_s: float = 10.0


class ShardStatus(NamedTuple):
    """One shard as `/readyz`, `/metrics` and `kycache status` show it. `state` is None where it has no store."""

    shard: int
    standing: Standing
    reason: str
    staleness_s: float | None
    state: ShardState | None
    holder: str | None


def concerns(doubt: Doubt, state: ShardState) -> bool:
    """Whether a doubt still holds for a shard: a whole snapshot taken behind it has put the shard right."""
    if state.bootstrapped and state.epoch > doubt.epoch:
        return False
    return not (state.streamed and state.generation is not None and state.generation > doubt.lsn > 0)


def freshness(
    states: Sequence[ShardState], doubts: Sequence[Doubt], *, profile_suspect: bool = False
) -> Freshness:
    """The freshness of an answer made of these shards: that of the least fresh one."""
    as_ofs = [s.known_as_of_ms for s in states]
    known = [as_of for as_of in as_ofs if as_of is not None]
    heartbeat = len(known) == len(as_ofs)
    held = [d for d in doubts if any(concerns(d, s) for s in states)]
    return Freshness(
        as_of_ms=min(known) if heartbeat else None,
        watermark=min(s.watermark for s in states),
        suspect=profile_suspect or bool(held) or any(s.doubts for s in states),
        heartbeat=heartbeat,
        cut_off=any(d.kind == CUT_OFF for d in held),
    )


def staleness_s(as_of_ms: int | None, now_s: float, limits: Limits) -> float | None:
    """Seconds that the source's newest applied commit may lie behind; never below 0."""
    return None if as_of_ms is None else max(0.0, now_s - as_of_ms / 1000 + limits.clock_skew_s)


def status(
    shard: int,
    state: ShardState | None,
    report: Report | None,
    doubts: Sequence[Doubt],
    now_s: float,
    limits: Limits,
    *,
    held: bool = True,
    rebuilding: bool = False,
    built: ShardState | None = None,
    why_no_state: str = "",
) -> ShardStatus:
    """What a shard's store, its writer's report and the clock say together.

    Args:
        held: the shard has a writer: what a process said that was killed is not so any more.
        rebuilding: another generation is built beside this one, which is not written meanwhile.
        built: the state of that one, where it can be read.
        why_no_state: its file is not looked at yet, and what was said of it before does not count.
    """
    stale = None if state is None else staleness_s(state.known_as_of_ms, now_s, limits)
    known = [d for d in doubts if state is None or concerns(d, state)]
    cut_off = next((f"{d.reason}; {_remedy(d)}" for d in known if d.kind == CUT_OFF), "")
    why_empty = "nothing was ingested yet"
    if report is not None and not held and report.state in (OPEN, Standing.RESTORING):
        if report.state == Standing.RESTORING:
            why_empty = f"{report.holder}, which had it come back from a snapshot, is gone; start `kycache ingest`"
        report = None
    never_right = state is not None and state.heartbeat and not state.as_of_ms
    old = never_right if stale is None else stale > limits.stale_after_s
    clock = _clock_ahead(state, old, now_s, limits)
    if why_no_state:
        standing, reason = Standing.BOOTSTRAPPING, why_no_state
    elif report is not None and report.state in (Standing.HALTED, Standing.RESTORING):
        standing, reason = Standing(report.state), "; ".join(filter(None, (report.reason, report.remedy)))
    elif state is None:
        standing, reason = Standing.BOOTSTRAPPING, why_empty
    elif not state.bootstrapped:
        standing, reason = Standing.BOOTSTRAPPING, _why_bootstrapping(state)
    elif rebuilding:
        waits = _why_bootstrapping(built) if built is not None and not built.bootstrapped else ""
        reason = "serves what it had while it is built anew beside it"
        standing, reason = Standing.STALE, "; there ".join(filter(None, (reason, waits)))
    elif cut_off:
        standing, reason = Standing.STALE, cut_off
    elif old:
        alone = "" if held else f"; {NOBODY_WRITES}"
        standing, reason = Standing.STALE, clock or f"the last commit seen is {stale or 0:.1f} s old{alone}"
    else:
        standing, reason = Standing.READY, clock
    if report is not None and report.state == OPEN and report.reason:
        reason = "; ".join(filter(None, (reason, report.reason, report.remedy)))
    reason = "; ".join(filter(None, (reason, _suspicion(state, known))))
    holder = report.holder if report is not None and report.holder else None
    return ShardStatus(shard, standing, reason, stale, state, holder)


def _clock_ahead(state: ShardState | None, stale: bool, now_s: float, limits: Limits) -> str:
    """Why a shard is not as fresh as the source's clock says, where that ran ahead of ours."""
    if state is None or not state.disbelieved:
        return ""
    ahead_s = state.seen_ms / 1000 - now_s
    if ahead_s > limits.clock_skew_s:
        dated = f"is dated {ahead_s:.1f} s ahead of this machine's clock"
    elif stale:
        dated = "was dated ahead of this machine's clock when it came"
    else:
        return ""
    return f"the latest commit seen {dated}: how fresh it is cannot be told; {CLOCK_REMEDY}"


def _suspicion(state: ShardState | None, known: Sequence[Doubt]) -> str:
    """Why each answer of a shard is suspect, whichever shard's record it is that says so."""
    records = state.doubts if state is not None else 0
    why = f"{records} records in quarantine that name no user" if records else ""
    for doubt in known:
        if doubt.kind != CUT_OFF:
            why = f"{doubt.reason}, at offset {doubt.offset} of shard {doubt.shard}"
    return why and f"every answer is suspect: {why}; {SUSPECT_REMEDY}"


def _remedy(doubt: Doubt) -> str:
    return SOURCE_REMEDY if doubt.shard == NO_SHARD else CUT_OFF_REMEDY


def _why_bootstrapping(state: ShardState) -> str:
    if not state.from_start:
        return "the log was not read from its start"
    if state.generation is not None:
        waits, remedy = "no streamed change has come since the snapshot", ""
    elif state.position.offset < state.high_water:
        waits, remedy = "no row of a whole snapshot has come yet", ""
    else:  # and none is in what there is to read: it may wait for ever
        waits, remedy = "no row of a whole snapshot has come", NO_SNAPSHOT_REMEDY
    if not state.heartbeat:
        waits, remedy = f"{waits}, nor a row of kycache_heartbeat", remedy or NO_BEAT_REMEDY
    return "; ".join(filter(None, (waits, remedy)))
