"""The table that says which state a shard is in: each rule decides where it holds and none before it does."""

from dataclasses import replace
from pathlib import Path

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.rules.freshness import Limits
from kycache.actors.rules.reports import CUT_OFF, NO_SHARD, Doubt, Report, WriterState
from kycache.actors.rules.standing import RULES, Facts, Rule, Standing, status
from kycache.actors.rules.state import Position, ShardState

NOW_S = 1000.0
HOLDER = "there:1"


def shard(as_of_s: float = NOW_S, *, ahead_s: float = 0, bootstrapped: bool = True) -> ShardState:
    state = ShardState(Position("t", "id", 0, 10), from_start=True, bootstrapped=bootstrapped, heartbeat=True)
    state.as_of_ms, state.ahead_ms, state.disbelieved = int(as_of_s * 1000), int(ahead_s * 1000), ahead_s > 0
    return state


def facts(state: ShardState | None, report: Report | None = None) -> Facts:
    return Facts(0, state, NOW_S, Limits(), report)


def reported(state: WriterState) -> Report:
    return Report(state, "the reason", "the remedy", HOLDER)


CUT = Doubt(CUT_OFF, NO_SHARD, -1, "the source moved back")

CASES: dict[str, tuple[Facts, Standing, str]] = {
    # From the last rule to the first: each one's facts hold for the rules that follow it too.
    "_ready": (facts(shard()), Standing.READY, ""),
    "_old": (facts(shard(900)), Standing.STALE, "the last commit seen is 100.1 s old"),
    "_old_by_its_clock": (facts(shard(900, ahead_s=3600)), Standing.STALE, "is dated 3500.0 s ahead"),
    "_cut_off": (
        replace(facts(shard(900, ahead_s=3600)), doubts=(CUT,)),
        Standing.STALE,
        "the source moved back; make sure the source is the right one",
    ),
    "_building": (
        replace(facts(shard(900)), doubts=(CUT,), building=True, built=shard(bootstrapped=False)),
        Standing.STALE,
        "built anew beside it; there no row of a whole snapshot has come",
    ),
    "_incomplete": (
        replace(facts(shard(900, bootstrapped=False)), doubts=(CUT,), building=True),
        Standing.BOOTSTRAPPING,
        "no row of a whole snapshot has come",
    ),
    "_empty": (replace(facts(None), doubts=(CUT,), building=True), Standing.BOOTSTRAPPING, "nothing was ingested"),
    "_restorer_gone": (
        replace(facts(None, reported(WriterState.RESTORING)), held=False),
        Standing.BOOTSTRAPPING,
        "there:1, which had it come back from a snapshot, is gone",
    ),
    "_restoring": (facts(None, reported(WriterState.RESTORING)), Standing.RESTORING, "the reason; the remedy"),
    "_halted": (
        replace(facts(None, reported(WriterState.HALTED)), held=False, building=True),
        Standing.HALTED,
        "the reason; the remedy",
    ),
    "_unchecked": (
        replace(facts(None, reported(WriterState.HALTED)), unchecked="its holder looks at it"),
        Standing.BOOTSTRAPPING,
        "its holder looks at it",
    ),
}


def name(rule: Rule) -> str:
    return getattr(rule.reason, "__name__", "")


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_each_rule_decides_where_none_before_it_does(rule: Rule) -> None:
    given, standing, reason = CASES[name(rule)]
    assert next(r for r in RULES if r.reason(given) is not None) is rule
    found = status(given)
    assert found.standing is rule.standing is standing
    assert reason in found.reason
    assert bool(reason) is bool(found.reason)


def test_the_last_rule_always_holds() -> None:
    assert all(RULES[-1].reason(given) is not None for given, _, _ in CASES.values())


def test_an_open_writer_adds_why_it_commits_nothing() -> None:
    given = facts(shard(900), reported(WriterState.OPEN))
    assert status(given).reason == "the last commit seen is 100.1 s old; the reason; the remedy"
    assert status(given).holder == HOLDER
    killed = status(replace(given, held=False))
    assert "the reason" not in killed.reason
    assert "no ingest holds the shard" in killed.reason
    assert killed.holder is None


def test_a_suspicion_is_added_whichever_rule_decided() -> None:
    doubt = Doubt("suspect", 1, 7, "a delete that names no user")
    for given, standing, reason in CASES.values():
        found = status(replace(given, doubts=(*given.doubts, doubt)))
        assert found.standing is standing
        assert reason in found.reason
        assert "every answer is suspect: a delete that names no user, at offset 7 of shard 1" in found.reason


@pytest.mark.parametrize("state", WriterState)
def test_a_report_keeps_its_word_on_disk(tmp_path: Path, state: WriterState) -> None:
    folder = DataDirectory(tmp_path).shard(0)
    folder.prepare()
    folder.write_report(Report(state, "why"))
    written = (folder.path / "state.json").read_bytes()
    assert written == f'{{"state":"{state.value}","reason":"why","remedy":"","holder":""}}'.encode()
    assert folder.report() == Report(state, "why")


def test_a_word_of_a_newer_version_is_read_as_unknown(tmp_path: Path) -> None:
    folder = DataDirectory(tmp_path).shard(0)
    folder.prepare()
    (folder.path / "state.json").write_bytes(b'{"state":"resting","reason":"why","holder":"there:1"}')
    report = folder.report()
    assert report == Report(WriterState.UNKNOWN, "why", "", HOLDER)
    found = status(facts(shard(), report))
    assert (found.standing, found.reason, found.holder) == (Standing.READY, "", HOLDER)
