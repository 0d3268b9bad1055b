"""The demo's people and its writes: deterministic, skewed, believable."""

from collections import Counter

import pytest

from kycache.demo.population.people import ACCOUNT_COLUMNS, KYC_COLUMNS, USER_COLUMNS, Person, people
from kycache.demo.population.writes import Writer

CROWD = list(people(5_000))


def test_the_same_seed_makes_the_same_people() -> None:
    assert list(people(300)) == CROWD[:300]
    assert list(people(300, seed=1)) != CROWD[:300]


def test_rows_have_a_value_for_each_column_and_belong_together() -> None:
    for one in CROWD[:500]:
        assert len(one.user) == len(USER_COLUMNS.split(","))
        assert all(len(row) == len(KYC_COLUMNS.split(",")) and row[1] == one.user[0] for row in one.kyc)
        assert all(len(row) == len(ACCOUNT_COLUMNS.split(",")) and row[1] == one.user[0] for row in one.accounts)


def test_ids_and_addresses_are_unique() -> None:
    ids = [one.user[0] for one in CROWD] + [row[0] for one in CROWD for row in one.kyc + one.accounts]
    assert len(set(ids)) == len(ids)
    emails = [one.user[3] for one in CROWD if one.user[3]]
    assert len(set(emails)) == len(emails)


def share(count: int) -> float:
    return count / len(CROWD)


def test_regions_and_statuses_are_skewed() -> None:
    regions = Counter(one.user[11] for one in CROWD)
    assert share(regions["EMEA"]) > 0.4
    assert 0 < share(regions["LATAM"]) < 0.15
    statuses = Counter(row[2] for one in CROWD for row in one.kyc)
    assert set(statuses) == {"VERIFIED", "PENDING", "REJECTED", "EXPIRED"}
    assert statuses["VERIFIED"] > 3 * statuses["PENDING"] > 0


def test_the_rare_is_there() -> None:
    assert 0.04 < share(sum(not one.kyc for one in CROWD)) < 0.12
    assert {len(one.accounts) for one in CROWD} == {0, 1, 2, 3, 4}
    assert any(one.user[12] is None for one in CROWD)
    assert any(not str(one.user[1]).isascii() for one in CROWD)
    created = Counter(one.user[12] for one in CROWD if one.user[12])
    assert created.most_common(1)[0][1] > 10


@pytest.mark.parametrize("index", range(0, 200, 20))
def test_names_fit_the_columns(index: int) -> None:
    one: Person = CROWD[index]
    assert len(one.user[4] or "") <= 20
    assert len(one.user[9]) <= 20
    assert len(one.user[10]) == 2


class TestWriter:
    def test_the_same_seed_makes_the_same_changes(self) -> None:
        ids = [str(one.user[0]) for one in CROWD]
        one, other = Writer(list(ids), 7, "t"), Writer(list(ids), 7, "t")
        assert [one.next() for _ in range(200)] == [other.next() for _ in range(200)]

    def test_every_table_is_inserted_into_updated_and_deleted_from(self) -> None:
        writer = Writer([str(one.user[0]) for one in CROWD], 7, "t")
        changes = [change.sql for _ in range(2_000) for change in writer.next()]
        for table in ("users", "kyc_records", "accounts"):
            for verb in ("INSERT INTO", "UPDATE", "DELETE FROM"):
                assert any(sql.startswith(f"{verb} {table} ") for sql in changes), (verb, table)

    def test_a_fifth_of_the_users_draws_four_fifths_of_the_changes(self) -> None:
        ids = [str(one.user[0]) for one in CROWD]
        hot = set(ids[: len(ids) // 5])
        writer = Writer(ids, 7, "t")
        drawn = [writer._user() for _ in range(5_000)]
        assert 0.75 < sum(user in hot for user in drawn) / len(drawn) < 0.85

    def test_without_users_it_makes_one(self) -> None:
        writer = Writer([], 7, "t")
        assert writer.next()[0].sql.startswith("INSERT INTO users")
        assert len(writer.users) == 1
