"""Which state a shard is in, and why: a table of rules over facts, of which the first that holds decides. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from .alteration import why_altered
from .freshness import Limits, concerns, staleness_s
from .reports import CUT_OFF, NO_SHARD, Doubt, Report, WriterState
from .state import ShardState

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


class ShardStatus(NamedTuple):
    """One shard as `/readyz`, `/metrics` and `kycache status` show it. `state` is None where it has no store."""

    shard: int
    standing: Standing
    reason: str
    staleness_s: float | None
    state: ShardState | None
    holder: str | None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a shard's status is made of, as it was read at one moment."""

    shard: int
    state: ShardState | None
    """None where it has no store, or none that may be read."""
    now_s: float
    limits: Limits
    report: Report | None = None
    """What its writer last said."""
    doubts: Sequence[Doubt] = ()
    """Those of its data directory."""
    held: bool = True
    """A process holds its lock. Without one, a killed process left a report of `open` or `restoring`."""
    building: bool = False
    """Another generation is built beside this one, which is not written meanwhile."""
    built: ShardState | None = None
    """The state of that generation, where it can be read."""
    unchecked: str = ""
    """Why its file is not read yet; then no earlier report counts."""

    @property
    def believed(self) -> Report | None:
        """The writer's report, where it still holds."""
        return None if self.report is None or self.abandoned else self.report

    @property
    def abandoned(self) -> bool:
        """The report says that its writer is at work, and there is no writer."""
        at_work = self.report is not None and self.report.state in (WriterState.OPEN, WriterState.RESTORING)
        return at_work and not self.held

    @property
    def concerning(self) -> list[Doubt]:
        """The doubts that still hold for the shard."""
        return [d for d in self.doubts if self.state is None or concerns(d, self.state)]

    @property
    def staleness_s(self) -> float | None:
        """None where it cannot be known."""
        return None if self.state is None else staleness_s(self.state.known_as_of_ms, self.now_s, self.limits)

    @property
    def old(self) -> bool:
        """The last commit is too long ago, or none was ever dated right."""
        stale = self.staleness_s
        if stale is None:
            return self.state is not None and self.state.heartbeat and not self.state.as_of_ms
        return stale > self.limits.stale_after_s


def status(facts: Facts) -> ShardStatus:
    """What a shard's store, its writer's report and the clock say together."""
    standing, why = next((rule.standing, why) for rule in RULES if (why := rule.reason(facts)) is not None)
    report = facts.believed
    return ShardStatus(
        facts.shard,
        standing,
        _joined(why, *(remark(facts) for remark in REMARKS)),
        facts.staleness_s,
        facts.state,
        None if report is None else report.holder or None,
    )


class Rule(NamedTuple):
    """One line of the table."""

    standing: Standing
    reason: Callable[[Facts], str | None]
    """Why the shard has this standing, empty where nothing needs to be said; None where the rule does not hold."""


def _unchecked(facts: Facts) -> str | None:
    return facts.unchecked or None


def _halted(facts: Facts) -> str | None:
    return _said(facts, WriterState.HALTED)


def _restoring(facts: Facts) -> str | None:
    return _said(facts, WriterState.RESTORING)


def _restorer_gone(facts: Facts) -> str | None:
    if facts.state is not None or facts.report is None or not facts.abandoned:
        return None
    if facts.report.state != WriterState.RESTORING:
        return None
    return f"{facts.report.holder}, which had it come back from a snapshot, is gone; start `kycache ingest`"


def _empty(facts: Facts) -> str | None:
    return "nothing was ingested yet" if facts.state is None else None


def _incomplete(facts: Facts) -> str | None:
    return None if facts.state is None else _missing(facts.state)


def _building(facts: Facts) -> str | None:
    if not facts.building:
        return None
    waits = None if facts.built is None else _missing(facts.built)
    return "; there ".join(filter(None, ("serves what it had while it is built anew beside it", waits)))


def _cut_off(facts: Facts) -> str | None:
    for doubt in facts.concerning:
        if doubt.kind == CUT_OFF:
            return f"{doubt.reason}; {SOURCE_REMEDY if doubt.shard == NO_SHARD else CUT_OFF_REMEDY}"
    return None


def _old_by_its_clock(facts: Facts) -> str | None:
    return _clock_ahead(facts) if facts.old else None


def _old(facts: Facts) -> str | None:
    if not facts.old:
        return None
    alone = "" if facts.held else NOBODY_WRITES
    return _joined(f"the last commit seen is {facts.staleness_s or 0:.1f} s old", alone)


def _ready(facts: Facts) -> str | None:
    return _clock_ahead(facts) or ""


RULES = (
    Rule(Standing.BOOTSTRAPPING, _unchecked),
    Rule(Standing.HALTED, _halted),
    Rule(Standing.RESTORING, _restoring),
    Rule(Standing.BOOTSTRAPPING, _restorer_gone),
    Rule(Standing.BOOTSTRAPPING, _empty),
    Rule(Standing.BOOTSTRAPPING, _incomplete),
    Rule(Standing.STALE, _building),
    Rule(Standing.STALE, _cut_off),
    Rule(Standing.STALE, _old_by_its_clock),
    Rule(Standing.STALE, _old),
    Rule(Standing.READY, _ready),
)
"""From the first to the last; the first that gives a reason decides, and the last always does."""


def _writer_waits(facts: Facts) -> str:
    """Why a writer that has the shard open commits nothing."""
    return _said(facts, WriterState.OPEN) or ""


def _suspicion(facts: Facts) -> str:
    """Why each answer of a shard is suspect, whichever shard's record it is that says so."""
    records = facts.state.doubts if facts.state is not None else 0
    why = f"{records} records in quarantine that name no user" if records else ""
    for doubt in facts.concerning:
        if doubt.kind != CUT_OFF:
            why = f"{doubt.reason}, at offset {doubt.offset} of shard {doubt.shard}"
    return why and f"every answer is suspect: {why}; {SUSPECT_REMEDY}"


def _alteration(facts: Facts) -> str:
    """The same where the source's tables were altered."""
    return why_altered(facts.state)


REMARKS = (_writer_waits, _suspicion, _alteration)
"""What is added to the reason, whichever rule decided; each may be empty."""


def _said(facts: Facts, state: WriterState) -> str | None:
    """What the writer gave as its reason for a state; None where it is not known to be in it."""
    report = facts.believed
    return None if report is None or report.state is not state else _joined(report.reason, report.remedy)


def _clock_ahead(facts: Facts) -> str | None:
    """Why a shard is not as fresh as the source's clock says, where that ran ahead of ours."""
    if facts.state is None or not facts.state.disbelieved:
        return None
    ahead_s = facts.state.seen_ms / 1000 - facts.now_s
    if ahead_s > facts.limits.clock_skew_s:
        dated = f"is dated {ahead_s:.1f} s ahead of this machine's clock"
    elif facts.old:
        dated = "was dated ahead of this machine's clock when it came"
    else:
        return None
    return f"the latest commit seen {dated}: how fresh it is cannot be told; {CLOCK_REMEDY}"


def _missing(state: ShardState) -> str | None:
    """What a shard waits for until it is whole; None where it is."""
    if state.bootstrapped:
        return None
    if not state.from_start:
        return "the log was not read from its start"
    if state.generation is not None:
        waits, remedy = "no streamed change has come since the snapshot", ""
    elif state.position.offset < state.high_water:
        waits, remedy = "no row of a whole snapshot has come yet", ""
    else:  # and none is in what there is to read: it may wait for ever
        waits, remedy = "no row of a whole snapshot has come", NO_SNAPSHOT_REMEDY
    if not state.heartbeat:
        waits, remedy = f"{waits}, nor a row of the heartbeat table", remedy or NO_BEAT_REMEDY
    return _joined(waits, remedy)


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
