"""What a shard decides, line by line of DEBEZIUM.md where `test_simulation` does not show it alone."""

import pytest

from kycache.actors.rules.fold import Outcome
from kycache.actors.rules.timeline import Mark, sweep_spared
from kycache.model.change import Beat, Change, Misrouted, Origin, Poison, Scope, Snapshot, Truncate
from kycache.model.errors import HaltShard
from kycache.model.partition import partition_of
from kycache.model.profile import SUSPICIONS_MAX
from kycache.model.values import Absent, Value
from support.desk import USER, Desk, S


def test_1_redelivery_and_older_changes_have_no_effect() -> None:
    desk = Desk()
    desk.snapshot_row(S, "r")
    assert desk.put(desk.streamed(1100, 1120), "1") is Outcome.APPLIED
    assert desk.put(desk.streamed(1200, 1220), "2") is Outcome.APPLIED
    assert desk.put(desk.streamed(1100, 1120), "1") is Outcome.STALE
    assert desk.put(desk.streamed(1200, 1220), "2") is Outcome.APPLIED  # equal is applied again
    assert desk.root() == ("2",)
    assert desk.state.counters.stale == 1


def test_2_snapshot_rows_then_the_first_transaction_with_a_null_commit() -> None:
    desk = Desk()
    desk.snapshot_row(S, "snapshot")
    assert desk.put(desk.streamed(None, 900), "first after") is Outcome.APPLIED
    assert desk.put(desk.streamed(1100, 1120), "second") is Outcome.APPLIED
    assert desk.root() == ("second",)


def test_2_a_later_whole_snapshot_beats_what_was_streamed() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(1100, 1120), "b")
    assert desk.snapshot_row(2 * S, "c") is Outcome.APPLIED
    assert desk.root() == ("c",)
    assert desk.put(desk.streamed(1100, 1120), "b") is Outcome.STALE  # delivered before, comes again
    assert desk.root() == ("c",)


def test_2_the_first_transaction_after_a_snapshot_counts_though_the_clock_was_set_back() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(None, 1020, ts=9_000_000), "b")
    desk.snapshot_row(2 * S, "c")
    assert desk.put(desk.streamed(None, 1020, ts=9_000_000), "b") is Outcome.STALE  # comes again
    assert desk.put(desk.streamed(None, 2020, ts=50), "d") is Outcome.APPLIED
    assert desk.root() == ("d",)


def test_3_interleaved_lsns_drop_nothing() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(1100, 1500), "long transaction")
    assert desk.put(desk.streamed(1600, 1400), "later commit, lower lsn") is Outcome.APPLIED
    assert desk.root() == ("later commit, lower lsn",)
    assert desk.state.watermark == 1500


def test_6_incremental_rows_tie_and_a_newer_update_stays() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(1100, 1120), "b")
    incremental = Origin(Snapshot.PARTIAL, 1100, 1120, 5, None)
    assert desk.put(incremental, "b") is Outcome.APPLIED
    desk.put(desk.streamed(1200, 1220), "c")
    assert desk.put(incremental, "b") is Outcome.STALE
    assert desk.root() == ("c",)
    assert desk.state.watermark == 1220


def test_8_a_source_that_moved_back_halts_before_the_change() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(1200, 1220, ts=50), "b")
    assert desk.put(desk.streamed(1100, 1120, ts=40), "redelivered") is Outcome.STALE  # no false alarm
    with pytest.raises(HaltShard, match="the source moved back") as raised:
        desk.put(desk.streamed(1100, 1130, ts=60), "younger, yet behind")
    assert "kycache rebuild --epoch" in raised.value.remedy
    assert desk.root() == ("b",)
    assert desk.state.watermark == 1220


def test_8_a_whole_snapshot_below_the_watermark_halts() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(1200, 1220), "b")
    with pytest.raises(HaltShard, match="a whole snapshot at 0/4B0 came after 0/4C4"):
        desk.snapshot_row(1200, "c")
    assert desk.snapshot_row(S, "a") is Outcome.STALE  # the same snapshot's row, delivered twice


def test_10_upserts_and_11_deletes_leave_a_marker() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    assert desk.put(desk.streamed(1100, 1120), "x", table=2, key="acc") is Outcome.APPLIED
    assert desk.delete(desk.streamed(1200, 1220), table=2, key="acc") is Outcome.APPLIED
    assert desk.put(desk.streamed(1150, 1160), "late", table=2, key="acc") is Outcome.STALE
    row = desk.profiles.get(USER).row(2, "acc")
    assert row is not None
    assert row.values is None


def test_16_a_late_child_does_not_bring_a_user_back() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.delete(desk.streamed(1100, 1120))
    desk.put(desk.streamed(1050, 1060), "late", table=2, key="acc")
    assert not desk.profiles.get(USER).exists


def test_18_truncate_by_trigger_at_its_version() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.snapshot_row(S, "old", table=2, key="acc1")
    desk.put(desk.streamed(1300, 1350), "newer", table=2, key="acc2")
    assert not desk.apply(Truncate(0, desk.streamed(1200, 1210, tx=5), 2)).notices
    assert desk.apply(Beat(0, desk.streamed(1200, 1220, tx=5), (2,))).outcome is Outcome.BEAT
    profile = desk.profiles.get(USER)
    assert profile.row(2, "acc1") is None
    assert profile.row(2, "acc2") is not None
    assert desk.put(desk.streamed(1100, 1120), "late", table=2, key="acc1") is Outcome.STALE
    assert not desk.apply(Beat(0, desk.streamed(1400, 1420, tx=6), ())).notices


def test_18_truncate_without_trigger_marks_every_shard_stale() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.apply(Truncate(0, desk.streamed(1200, 1210, tx=5), 2))
    (notice,) = desk.apply(Beat(0, desk.streamed(1300, 1310, tx=6), ())).notices
    assert notice.mark is Mark.STALE
    assert "accounts" in notice.reason
    assert notice.lsn == 1210
    assert not desk.apply(Beat(0, desk.streamed(1400, 1410, tx=7), ())).notices  # said once


def test_18_a_truncate_that_comes_again_after_a_snapshot_truncates_nothing() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    beat = Beat(0, desk.streamed(1200, 1220, tx=5), (0,))
    desk.apply(beat)
    desk.snapshot_row(2 * S, "inserted since")
    desk.apply(beat)
    assert desk.root() == ("inserted since",)


def test_18_what_comes_again_from_before_a_snapshot_makes_no_truncate_behind_it_overdue() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    old = Beat(0, desk.streamed(1100, 1120, tx=4), ())
    desk.apply(old)
    desk.snapshot_row(2 * S, "a")
    first = desk.streamed(None, 2110, tx=5)  # the first transaction behind it
    desk.apply(Truncate(0, first, 2))
    assert not desk.apply(old).notices  # killed here, Debezium restarts from long ago
    desk.apply(Beat(0, first, (2,)))
    assert not desk.state.pending


def test_22_rows_a_whole_snapshot_did_not_send_are_swept_at_the_first_streamed_change() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.snapshot_row(S, "gone", table=2, key="acc")
    desk.apply(Beat(0, desk.streamed(1100, 1120), ()))
    desk.snapshot_row(2 * S, "a2")
    assert desk.profiles.get(USER).row(2, "acc") is not None
    partial = Origin(Snapshot.PARTIAL, 2100, 2120, 5, None)
    desk.put(partial, "a2")
    assert desk.profiles.get(USER).row(2, "acc") is not None  # never after an incremental one
    desk.apply(Beat(0, desk.streamed(2200, 2220), ()))
    assert desk.profiles.get(USER).row(2, "acc") is None
    assert desk.state.counters.swept == 1


def test_23_an_unchanged_toast_value_is_kept_or_suspect() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a", "long")
    desk.put(desk.streamed(1100, 1120), "b", Absent.UNAVAILABLE)
    assert desk.root() == ("b", "long")
    assert not desk.profiles.get(USER).suspicions
    desk.delete(desk.streamed(1200, 1220))
    desk.put(desk.streamed(1300, 1320), "c", Absent.UNAVAILABLE)
    assert desk.profiles.get(USER).suspicions
    desk.put(desk.streamed(1400, 1420), "c", "whole")
    assert not desk.profiles.get(USER).suspicions


def test_23_a_value_that_was_not_known_is_not_known_for_not_having_changed() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a", "long")
    desk.apply(poison(Scope.PROFILE, 0, origin=desk.streamed(1100, 1120)))  # it might have changed here
    desk.put(desk.streamed(1200, 1220), "c", Absent.UNAVAILABLE)
    assert desk.profiles.get(USER).suspicions
    # Replayed, the record is older than the row: what it says of the value comes too late.
    replayed = Change(1, desk.streamed(1100, 1120), 0, b"k", USER, None, ("b", "other"))
    assert desk.fold.replay(desk.state, replayed, desk.profiles) is Outcome.STALE
    assert [s.offset for s in desk.profiles.get(USER).suspicions] == [1, 2]  # the second is the row's own
    desk.put(desk.streamed(1300, 1320), "d", "other")
    assert not desk.profiles.get(USER).suspicions
    # Where no row was, null stands in the place of what nobody knows, and is nothing that can be kept.
    desk.put(desk.streamed(1400, 1420), "e", Absent.UNAVAILABLE, table=1, key=b"1")
    desk.put(desk.streamed(1500, 1520), "f", Absent.UNAVAILABLE, table=1, key=b"1")
    assert desk.profiles.get(USER).suspicions


def test_28_a_missing_column_is_not_null() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a", "kept")
    desk.put(desk.streamed(1100, 1120), "b", Absent.MISSING)
    assert desk.root() == ("b", "kept")
    assert not desk.profiles.get(USER).suspicions


def poison(scope: Scope, table: int | None = None, key: Value = None, origin: Origin | None = None) -> Poison:
    return Poison(0, 0, b"k", b"v", "why", scope, USER, table, key, origin)


def test_poison_heals_by_a_full_row_of_the_same_row_only() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.apply(poison(Scope.PROFILE, 2, "acc", desk.streamed(1100, 1120)))
    desk.apply(poison(Scope.PROFILE))
    desk.put(desk.streamed(1200, 1220), "b")
    assert len(desk.profiles.get(USER).suspicions) == 2
    desk.put(desk.streamed(1300, 1320), "x", table=2, key="acc")
    assert [s.table for s in desk.profiles.get(USER).suspicions] == [-1]  # which row it was, nobody knows
    assert desk.state.watermark == 1320


def test_poison_without_a_user_puts_the_shard_or_the_directory_in_doubt() -> None:
    desk = Desk()
    assert not desk.apply(poison(Scope.SHARD)).notices
    assert desk.state.doubts == 1
    assert [n.mark for n in desk.apply(poison(Scope.DIRECTORY)).notices] == [Mark.SUSPECT]


def test_an_overdue_truncate_is_told_beside_a_nameless_delete() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.apply(Truncate(0, desk.streamed(1200, 1210, tx=5), 2))
    verdict = desk.apply(poison(Scope.DIRECTORY, origin=desk.streamed(1300, 1310, tx=6)))
    assert [n.mark for n in verdict.notices] == [Mark.STALE, Mark.SUSPECT]


def test_an_older_row_does_not_heal_a_newer_poison() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    older, newer = desk.streamed(1100, 1120), desk.streamed(1200, 1220)
    desk.put(older, "x", table=2, key="acc")
    desk.apply(poison(Scope.PROFILE, 2, "acc", newer))
    desk.apply(poison(Scope.PROFILE, 2, "acc", desk.streamed(1250, 1260)))
    assert len(desk.profiles.get(USER).suspicions) == 2
    desk.put(older, "x", table=2, key="acc")  # delivered twice
    assert len(desk.profiles.get(USER).suspicions) == 2
    desk.put(desk.streamed(1220, 1230), "y", table=2, key="acc")
    assert [s.offset for s in desk.profiles.get(USER).suspicions] == [3]


def test_what_comes_again_during_a_snapshot_sweeps_nothing() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    beat = Beat(0, desk.streamed(1100, 1120), ())
    desk.apply(beat)
    desk.snapshot_row(2 * S, "k", table=1, key="kyc")  # the root's own row is still to come
    desk.apply(beat)
    assert desk.root() == ("a",)
    desk.snapshot_row(2 * S, "a")
    desk.apply(Beat(0, desk.streamed(2100, 2120), ()))
    assert desk.root() == ("a",)


def test_the_first_transaction_comes_again_after_a_snapshot() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    first = desk.streamed(None, 1120, ts=50)
    desk.put(first, "old")
    desk.snapshot_row(2 * S, "new")
    assert desk.put(first, "old") is Outcome.STALE
    assert desk.root() == ("new",)


def test_a_row_whose_snapshot_row_is_in_quarantine_is_not_swept() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.snapshot_row(S, "kept", table=2, key="acc")
    desk.apply(Beat(0, desk.streamed(1100, 1120), ()))
    desk.snapshot_row(2 * S, "a")
    desk.apply(poison(Scope.PROFILE, 2, "acc", Origin(Snapshot.WHOLE, None, 2 * S, 5, None)))
    desk.apply(Beat(0, desk.streamed(2100, 2120), ()))
    profile = desk.profiles.get(USER)
    assert profile.row(2, "acc") is not None
    assert profile.suspicions


def test_replay_enters_no_history() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.put(desk.streamed(1100, 1120), "b")
    before = (desk.state.watermark, desk.state.generation)
    late = Change(9, desk.streamed(1050, 1060), 2, b"k", USER, "acc", ("x",))
    assert desk.fold.replay(desk.state, late, desk.profiles) is Outcome.APPLIED
    replaced = Change(9, Origin(Snapshot.WHOLE, None, S // 2, 1, None), 2, b"k", USER, "acc", ("y",))
    assert desk.fold.replay(desk.state, replaced, desk.profiles) is Outcome.STALE
    assert (desk.state.watermark, desk.state.generation) == before


def test_what_belongs_into_another_shard_is_not_replayed_into_this() -> None:
    desk = Desk(shards=2)
    key = next(k for k in (b"a", b"b", b"c", b"d") if partition_of(k, 2) == 1)
    stray = Change(3, desk.streamed(1100, 1120), 0, key, USER, None, ("a",))
    with pytest.raises(HaltShard, match="a key of partition 1 of 2"):
        desk.fold.replay(desk.state, stray, desk.profiles)
    assert not desk.profiles.known(USER)


def test_what_stood_before_a_whole_snapshot_is_replayed_into_nothing() -> None:
    """Also a row of an incremental one: the user may have been erased since."""
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.apply(Beat(0, desk.streamed(1100, 1120), ()))
    partial = Origin(Snapshot.PARTIAL, 1200, 1220, 5, None)
    desk.apply(poison(Scope.PROFILE, 2, "acc", partial))
    at = desk.offset - 1
    desk.apply(Beat(0, Origin(Snapshot.WHOLE, None, 2 * S, 6, None), ()))
    desk.apply(Beat(0, desk.streamed(2100, 2120), ()))
    assert desk.root() is None
    late = Change(at, partial, 2, b"k", USER, "acc", ("x",))
    assert desk.fold.replay(desk.state, late, desk.profiles) is Outcome.STALE
    assert desk.profiles.get(USER).row(2, "acc") is None


def test_what_a_poison_spared_from_the_sweep_goes_once_it_is_understood() -> None:
    desk = Desk()
    desk.snapshot_row(S, "a")
    desk.snapshot_row(S, "gone", table=2, key="acc")
    desk.apply(Beat(0, desk.streamed(1100, 1120), ()))
    desk.apply(poison(Scope.PROFILE))  # of the snapshot, but nobody can say: the first row that tells comes next
    spoilt = desk.offset - 1
    desk.snapshot_row(2 * S, "b", table=1, key="kyc")
    desk.apply(Beat(0, desk.streamed(2100, 2120), ()))
    profile = desk.profiles.get(USER)
    assert profile.suspicions
    assert profile.row(2, "acc") is not None
    row = Change(spoilt, Origin(Snapshot.WHOLE, None, 2 * S, 5, None), 0, b"k", USER, None, ("a2",))
    assert desk.fold.replay(desk.state, row, desk.profiles) is Outcome.APPLIED
    profile.suspicions = ()
    sweep_spared(desk.state, profile)
    assert desk.root() == ("a2",)
    assert profile.row(2, "acc") is None


def test_suspicions_of_a_profile_are_bounded() -> None:
    desk = Desk()
    for number in range(100):
        desk.apply(poison(Scope.PROFILE, 2, f"acc{number}", desk.streamed(1100, 1120)))
    assert len(desk.profiles.get(USER).suspicions) == SUSPICIONS_MAX


def test_a_poison_in_the_wrong_partition_halts_too() -> None:
    with pytest.raises(HaltShard, match=r"has a key of partition \d+ of 64"):
        Desk(shards=64).apply(poison(Scope.PROFILE, 2, "acc"))


def test_wrong_partition_halts_naming_table_and_partition() -> None:
    desk = Desk(shards=64)
    with pytest.raises(HaltShard, match=r"table 'users' has a key of partition \d+ of 64"):
        desk.snapshot_row(S, "a")
    assert desk.state.generation is None
    with pytest.raises(HaltShard, match="offset 1: wrong key"):
        desk.apply(Misrouted(0, "wrong key", "mend it"))


def test_bootstrapped_needs_start_snapshot_and_a_streamed_change() -> None:
    def bootstrapped(*steps: str, from_start: bool = True) -> bool:
        desk = Desk()
        desk.state.from_start = from_start
        for n, step in enumerate(steps):
            lsn = S * (n + 1)
            if step == "snapshot":
                desk.snapshot_row(lsn, "a")
            elif step == "beat row":
                desk.apply(Beat(0, Origin(Snapshot.WHOLE, None, lsn, 1, None), ()))
            else:
                desk.apply(Beat(0, desk.streamed(lsn + 100, lsn + 120), ()))
        return desk.state.bootstrapped

    assert bootstrapped("snapshot", "change")
    assert bootstrapped("beat row", "change")  # a partition without users
    assert not bootstrapped("snapshot")
    assert not bootstrapped("snapshot", "snapshot")  # the first was interrupted, and started over
    assert not bootstrapped("change", "change")  # snapshot.mode=no_data
    assert not bootstrapped("snapshot", "change", from_start=False)
    assert bootstrapped("change", "snapshot", "change")


def test_14_a_childs_own_key_changes_in_one_record() -> None:
    """The row under the former key is gone, whatever comes again of it; columns that are missing were its own."""
    desk = Desk()
    desk.snapshot_row(S, "root")
    desk.put(desk.streamed(1100, 1120), "a", "kept", table=1, key=b"1")
    values: tuple[Value | Absent, ...] = ("a", Absent.MISSING)
    renamed = Change(0, desk.streamed(1200, 1220), 1, b"k", USER, b"2", values, partial=True, former=b"1")
    assert desk.apply(renamed).outcome is Outcome.APPLIED

    def rows() -> list[tuple[object, object]]:
        return [(k, r.values) for t, k, r in desk.profiles.get(USER).rows() if t == 1 and r.values is not None]

    assert rows() == [(b"2", ("a", "kept"))]
    assert desk.put(desk.streamed(1100, 1120), "a", "kept", table=1, key=b"1") is Outcome.STALE
    assert desk.apply(renamed).outcome is Outcome.APPLIED
    assert rows() == [(b"2", ("a", "kept"))]
    desk.put(desk.streamed(1300, 1320), "b", "new", table=1, key=b"1")
    desk.delete(desk.streamed(1300, 1330), table=1, key=b"2")
    assert desk.apply(renamed).outcome is Outcome.STALE
    assert rows() == [(b"1", ("b", "new"))]
