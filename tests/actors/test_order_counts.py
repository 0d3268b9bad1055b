"""The pure parts of the order index: fences, counts, columns, the search over shards."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kycache.actors.order import layout as order
from kycache.actors.order import nodes as order_nodes
from kycache.actors.order import reader as order_reader
from kycache.actors.order import search as order_search
from kycache.model.view import FILTERS_MAX

repeatable = settings(derandomize=True, deadline=None, max_examples=150)
counts_lists = st.lists(st.integers(0, 3), min_size=1, max_size=order.NODE_BUCKETS_MAX)


@repeatable
@given(st.binary(max_size=12), st.binary(min_size=1, max_size=12))
def test_a_separator_is_short_and_separates(one: bytes, other: bytes) -> None:
    left, right = sorted((one, other))
    if left == right:
        return
    fence = order.separator(left, right)
    assert left < fence <= right
    assert not any(left < fence[:length] for length in range(len(fence)))


@repeatable
@given(counts_lists)
def test_counts_survive_both_forms(counts: list[int]) -> None:
    short = order_nodes.packed(bytearray(counts))
    assert list(order_nodes.dense(short, len(counts))) == counts
    assert len(short) <= len(counts)
    assert bool(short) or not any(counts) or len(counts) == 0


@repeatable
@given(counts_lists, st.lists(st.tuples(st.integers(0, 10**6), st.integers(-2, 3)), max_size=60))
def test_counts_bumped_are_counts_added(counts: list[int], changes: list[tuple[int, int]]) -> None:
    buckets = len(counts)
    stored: bytearray | None = order_nodes.packed(bytearray(counts)) if any(counts) else None
    for number, delta in changes:
        bucket = number % buckets
        if counts[bucket] + delta < 0:
            with pytest.raises(ValueError, match="byte must be in range"):
                order_nodes.bumped(None if stored is None else bytearray(stored), buckets, bucket, delta)
            continue
        if not delta:
            continue
        counts[bucket] += delta
        stored = order_nodes.bumped(stored, buckets, bucket, delta) or None
        assert (stored is None) == (not any(counts))
        assert list(order_nodes.dense(stored or b"", buckets)) == counts


@repeatable
@given(counts_lists, st.integers(0, 10**6))
def test_room_for_a_bucket_is_made_in_both_forms(counts: list[int], number: int) -> None:
    after = number % len(counts)
    node = order_nodes.Node(1, [b"%04d" % i for i in range(len(counts))], {})
    if any(counts):
        node.columns = {order.ALL: order_nodes.packed(bytearray(counts)), 7: order_nodes.packed(bytearray(counts))}
    moved = Counter({order.ALL: counts[after]}) if counts[after] else Counter()
    node.insert_bucket(after, node.fences[after] + b"+", moved)
    assert node.fences == sorted(node.fences)
    kept = [*counts[: after + 1], 0, *counts[after + 1 :]]
    gone = [*counts[:after], 0, counts[after], *counts[after + 1 :]]
    assert list(order_nodes.dense(node.columns.get(7, b""), len(kept))) == kept
    assert list(node.rows()) == gone


def test_every_column_has_a_number_of_its_own() -> None:
    subsets = range(1, 2**FILTERS_MAX)
    own = {order.own_column(subset, i) for subset in subsets for i in range(order.COMBINATIONS_MAX)}
    values = [tuple(b"%d-%d" % (i, filter_) for filter_ in range(FILTERS_MAX)) for i in range(3_000)]
    shared = {order.shared_column(subset, value) for subset in subsets for value in values}
    assert len(own) == len(subsets) * order.COMBINATIONS_MAX
    assert len(shared) == len(subsets) * order.SHARED_COLUMNS
    assert not own & shared
    assert order.ALL not in own | shared
    assert max(own | shared) < 2**16


def test_a_null_is_in_no_column() -> None:
    assert list(order.subsets((b"a", None, b"c"))) == [0b001, 0b100, 0b101]
    assert list(order.subsets((None,))) == []
    assert order.asked((None, b"b")) == 0b10


def test_limits_fit_their_fields() -> None:
    assert order.BUCKET_ROWS_MAX + 1 < 256
    assert order.NODE_BUCKETS_MAX + 1 < 256
    assert order.COMBINATIONS_MAX < 2 ** (8 * order.TAG_BYTES)
    longest = order.subset_key(1, (b"x" * 10_000,))
    assert len(longest) < 511
    assert longest != order.subset_key(1, (b"x" * 10_001,))
    assert len(order.combination_key((b"x" * (order.KEY_BYTES_MAX - 4),) * 1)) < 511


@pytest.mark.parametrize("seed", range(40))
def test_a_window_is_found_without_gaps(seed: int) -> None:
    """What is read for a window holds it, whatever the shards look like: even, skewed, one empty, one alone."""
    print(f"seed {seed}")
    rnd = random.Random(seed)
    units = []
    for _ in range(rnd.randrange(1, 6)):
        least, most = sorted((rnd.randrange(5_000), rnd.randrange(5_000)))
        names = sorted({rnd.randint(least, most) for _ in range(rnd.randrange(80))})
        fences = [b"", *[b"%05d" % name for name in names]]
        units.append(order_search.Units(fences, [rnd.choice((0, 1, 5, 32)) for _ in fences]))
    rows = sum(unit.before[-1] for unit in units)
    every = sorted({fence for unit in units for fence in unit.fences})
    for _ in range(50):
        start = rnd.randrange(rows + 1)
        end = rnd.randint(start, rows)

        def begun(fence: bytes) -> int:
            return sum(unit.before[bisect_left(unit.fences, fence)] for unit in units)

        def ended(fence: bytes) -> int:
            return sum(unit.before[bisect_right(unit.fences, fence) - 1] for unit in units)

        low = order_search.start_of(units, start)
        assert low == max(fence for fence in every if begun(fence) <= start)
        near = order_search.start_of(units, start, slack=order_reader.SLACK_ROWS)
        assert near <= low
        assert begun(low) - begun(near) <= order_reader.SLACK_ROWS + order.BUCKET_ROWS_MAX
        if end > start:
            stops = [fence for fence in every if fence > low and ended(fence) >= end]
            assert order_search.stop_of(units, low, end) == (min(stops) if stops else None)
