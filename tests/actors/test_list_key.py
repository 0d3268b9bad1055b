"""The key of a list row, against PostgreSQL's order."""

from pathlib import Path

import lmdb
from hypothesis import given
from hypothesis import strategies as st

from kycache.actors.order.layout import KEY_BYTES_MAX
from kycache.actors.order.list_key import list_key, user_of
from kycache.model.scalars.times import INFINITY, MINUS_INFINITY
from kycache.model.values import USER_KEY_BYTES_MAX, decoder
from kycache.model.view import ColumnType, Kind

TIMESTAMPTZ = ColumnType(Kind.TIMESTAMPTZ)

EXTREMES = [2**63 - 4, 2**63 - 3, 2**63 - 2]
"""Integers just below the greatest, which is what an infinity is kept as."""


def test_list_keys_sort_as_postgres() -> None:
    """With whatever id stands behind them. A timestamptz of 294276 lies beyond 64 bits of microseconds."""
    late = decoder(TIMESTAMPTZ)("+294276-12-31T23:59:59.999999Z")
    values = [MINUS_INFINITY, -(10**18), -1, 0, 1, 10**18, *EXTREMES, late, INFINITY, None]  # ASC: NULLS LAST
    keys = [list_key(v, key) for v in values for key in (b"\0" * 16, b"\xff" * 16)]
    assert [user_of(key) for key in keys] == [b"\0" * 16, b"\xff" * 16] * len(values)
    assert sorted(keys) == keys
    assert len(set(keys)) == 2 * len(values)


def test_the_longest_list_key_is_one_that_the_index_and_lmdb_take(tmp_path: Path) -> None:
    longest = list_key(2**63 - 2, b"\xff" * USER_KEY_BYTES_MAX)
    with lmdb.open(str(tmp_path)) as environment:
        assert len(longest) <= KEY_BYTES_MAX < environment.max_key_size()


BIGINTS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from(EXTREMES)


@given(BIGINTS, BIGINTS, st.binary(), st.binary())
def test_the_ordered_value_decides_before_the_user(a: int, b: int, left: bytes, right: bytes) -> None:
    assert (list_key(a, left) < list_key(b, right)) == ((a, left) < (b, right))
