"""What a shard concludes from fingerprints, and from columns that rows came with before."""

import msgspec
import pytest

from kycache.actors.rules.alteration import acknowledge_alteration, look_for_columns, why_altered
from kycache.actors.rules.freshness import freshness
from kycache.actors.rules.state import Position, ShardState
from kycache.model.change import Origin, Snapshot
from kycache.model.values import Absent, Value
from support.desk import NAMES, Desk, S


def suspect(desk: Desk) -> bool:
    return freshness([desk.state], ()).suspect


@pytest.fixture
def desk() -> Desk:
    """Bootstrapped by a whole snapshot that was read under catalog `a`."""
    desk = Desk()
    desk.snapshot_row(S, "x", "y")
    desk.beat(desk.whole(S), "a")
    desk.beat(desk.streamed(1100, 1120), "a")
    assert desk.state.bootstrapped
    assert not suspect(desk)
    return desk


class TestFingerprint:
    def test_another_one_puts_every_answer_in_doubt_with_reason_and_remedy(self, desk: Desk) -> None:
        desk.beat(desk.streamed(1200, 1220), "b")
        assert suspect(desk)
        why = why_altered(desk.state)
        assert why.startswith("every answer is suspect: what the view reads was altered at the source")
        assert "0/4C4" in why
        assert f"offset {desk.offset - 1}" in why
        assert "`kycache rebuild --epoch`" in why
        assert "`kycache rebuild --acknowledge`" in why

    def test_it_stays_whatever_beats_say_later(self, desk: Desk) -> None:
        for n, fingerprint in enumerate(("b", "b", "a", "", "a")):
            desk.beat(desk.streamed(1200 + n, 1220 + n), fingerprint)
        assert suspect(desk)

    def test_a_change_between_the_snapshot_and_the_first_beat_is_seen(self) -> None:
        desk = Desk()
        desk.beat(desk.whole(S), "a")
        desk.beat(desk.streamed(None, 1120), "b")
        assert suspect(desk)

    def test_redelivered_beats_say_nothing_new(self, desk: Desk) -> None:
        desk.beat(desk.streamed(1200, 1220), "b")
        acknowledge_alteration(desk.state)
        desk.beat(desk.streamed(1100, 1120), "a")
        desk.beat(desk.streamed(1200, 1220), "b")
        desk.beat(desk.streamed(1300, 1320), "b")
        assert not suspect(desk)

    def test_a_whole_snapshot_that_began_later_ends_it_when_its_rows_are_all_there(self, desk: Desk) -> None:
        desk.beat(desk.streamed(1200, 1220), "b")
        desk.snapshot_row(2 * S, "x", "y")
        desk.beat(desk.whole(2 * S), "b")
        assert suspect(desk)  # the rows of before are still there
        desk.beat(desk.streamed(2100, 2120), "b")
        assert not suspect(desk)
        desk.beat(desk.streamed(2200, 2220), "c")
        assert suspect(desk)

    def test_what_was_altered_before_a_whole_snapshot_is_in_it(self, desk: Desk) -> None:
        desk.beat(desk.whole(2 * S), "b")
        desk.beat(desk.streamed(2100, 2120), "b")
        assert not suspect(desk)

    def test_redelivery_from_before_a_whole_snapshot_is_not_compared_with_it(self, desk: Desk) -> None:
        desk.beat(desk.whole(2 * S), "b")
        desk.beat(desk.streamed(1100, 1120), "a")
        desk.beat(desk.streamed(2100, 2120), "b")
        assert not suspect(desk)

    @pytest.mark.parametrize("brought", ["", "a"])
    def test_the_first_one_is_taken_as_it_is(self, brought: str) -> None:
        """A store, or a heartbeat table, of before the feature."""
        desk = Desk()
        desk.beat(desk.whole(S), brought)
        desk.beat(desk.streamed(None, 1120))
        desk.beat(desk.streamed(1200, 1220), "a")
        assert not suspect(desk)
        desk.beat(desk.streamed(1300, 1320), "b")
        assert suspect(desk)

    def test_a_whole_snapshot_without_one_forgets_the_former(self, desk: Desk) -> None:
        desk.snapshot_row(2 * S, "x", "y")
        desk.beat(desk.whole(2 * S))
        desk.beat(desk.streamed(2100, 2120), "b")
        assert not suspect(desk)

    def test_an_incremental_snapshot_says_nothing_of_it_and_ends_nothing(self, desk: Desk) -> None:
        partial = Origin(Snapshot.PARTIAL, 1200, 1250, 1, None)
        desk.beat(partial, "b")
        assert not suspect(desk)
        desk.beat(desk.streamed(1300, 1320), "b")
        desk.beat(partial, "b")
        desk.put(partial, "x", "y")
        desk.beat(desk.streamed(1400, 1420), "b")
        assert suspect(desk)

    def test_a_beat_without_one_changes_nothing(self, desk: Desk) -> None:
        desk.beat(desk.streamed(1200, 1220))
        desk.beat(desk.streamed(1300, 1320), "a")
        assert not suspect(desk)
        assert desk.state.fingerprint == "a"


class TestColumns:
    def test_a_row_without_a_column_that_was_there_puts_every_answer_in_doubt(self, desk: Desk) -> None:
        desk.put(desk.streamed(1200, 1220), "x", Absent.MISSING)
        assert suspect(desk)
        assert "rows come of table users without second, which earlier ones had" in why_altered(desk.state)

    def test_the_reason_stays_when_a_beat_tells_too(self, desk: Desk) -> None:
        desk.put(desk.streamed(1200, 1220), "x", Absent.MISSING)
        desk.beat(desk.streamed(1300, 1320), "b")
        assert "without second" in why_altered(desk.state)

    def test_a_log_from_before_the_column_is_no_news(self) -> None:
        desk = Desk()
        desk.put(desk.whole(S), "x", Absent.MISSING)
        desk.put(desk.streamed(1100, 1120), "x", Absent.MISSING)
        desk.put(desk.streamed(1200, 1220), "x", "y")
        assert not suspect(desk)
        desk.put(desk.streamed(1100, 1120), "x", Absent.MISSING)  # comes again
        assert not suspect(desk)
        desk.put(desk.streamed(1300, 1320), Absent.MISSING, "y")
        assert suspect(desk)

    def test_redelivery_of_a_row_that_is_still_the_latest(self) -> None:
        """It is applied again, since its version is the stored one."""
        desk = Desk()
        desk.put(desk.streamed(1100, 1120), 1, Absent.MISSING, table=1, key=1)
        desk.put(desk.streamed(1200, 1220), 2, "y", table=1, key=2)
        desk.put(desk.streamed(1100, 1120), 1, Absent.MISSING, table=1, key=1)
        assert not suspect(desk)

    def test_tables_are_apart(self, desk: Desk) -> None:
        desk.put(desk.streamed(1200, 1220), 1, Absent.MISSING, table=1, key=1)
        desk.put(desk.streamed(1300, 1320), 1, Absent.MISSING, table=1, key=1)
        assert not suspect(desk)

    def test_a_value_that_did_not_change_is_a_column_that_is_there(self) -> None:
        desk = Desk()
        desk.put(desk.streamed(1100, 1120), "x", Absent.UNAVAILABLE)
        desk.put(desk.streamed(1200, 1220), "x", Absent.UNAVAILABLE)
        assert not suspect(desk)
        desk.put(desk.streamed(1300, 1320), "x", Absent.MISSING)
        assert suspect(desk)

    def test_a_delete_has_no_image(self, desk: Desk) -> None:
        desk.delete(desk.streamed(1200, 1220))
        assert not suspect(desk)

    def test_a_whole_snapshot_under_a_definition_that_fits_no_more_leaves_it(self, desk: Desk) -> None:
        desk.put(desk.streamed(1200, 1220), "x", Absent.MISSING)
        desk.put(desk.whole(2 * S), "x", Absent.MISSING)
        desk.beat(desk.streamed(2100, 2120), "b")
        assert suspect(desk)

    def test_a_column_that_came_back_in_a_whole_snapshot_ends_it(self, desk: Desk) -> None:
        desk.put(desk.streamed(1200, 1220), "x", Absent.MISSING)
        desk.snapshot_row(2 * S, "x", "y")
        desk.beat(desk.streamed(2100, 2120))
        assert not suspect(desk)

    def test_tables_of_more_columns_than_a_number_has_bits(self) -> None:
        names = (NAMES[0]._replace(columns=tuple(f"c{n}" for n in range(300))),)
        state = ShardState(Position("t", "i", 0, 0))
        values: list[Value | Absent] = [*(["v"] * 299), Absent.MISSING]
        look_for_columns(state, 0, Origin(Snapshot.STREAMED, 1, 10, 1, 1), 0, values, names)
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=ShardState)
        assert state.altered is None
        values[298] = Absent.MISSING
        look_for_columns(state, 1, Origin(Snapshot.STREAMED, 1, 20, 1, 1), 0, values, names)
        assert "table users without c298," in why_altered(state)


def test_acknowledged_is_trusted_until_the_next_alteration(desk: Desk) -> None:
    desk.beat(desk.streamed(1200, 1220), "b")
    desk.put(desk.streamed(1300, 1320), "x", Absent.MISSING)
    assert "without second" in acknowledge_alteration(desk.state)
    assert acknowledge_alteration(desk.state) == ""
    desk.put(desk.streamed(1400, 1420), "x", Absent.MISSING)
    desk.beat(desk.streamed(1500, 1520), "b")
    assert not suspect(desk)
    assert why_altered(desk.state) == ""
    desk.beat(desk.streamed(1600, 1620), "c")
    assert suspect(desk)


def test_a_state_of_before_opens() -> None:
    """Its array ends where these members begin."""
    now = ShardState(Position("t", "i", 0, 0), from_start=True, generation=7, ahead_ms=3, disbelieved=True)
    array = msgspec.msgpack.decode(msgspec.msgpack.encode(now))
    before = ShardState.__struct_fields__.index("fingerprint")
    read = msgspec.msgpack.decode(msgspec.msgpack.encode(array[:before]), type=ShardState)
    assert read == now
    assert not read.fingerprint
    assert read.altered is None
