"""The order index against a plain sorted list, over real LMDB files."""

from __future__ import annotations

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path

import lmdb
import pytest

from kycache.actors.order import layout as order
from kycache.actors.order import reader as order_reader
from kycache.actors.order import recount as order_check
from kycache.actors.order.layout import Entry, IndexDiffers, Where
from kycache.actors.order.reader import OrderSnapshot
from kycache.actors.order.writer import OrderWriter
from kycache.model.view import FILTERS_MAX

STATUSES = (b"PENDING", b"VERIFIED", b"REJECTED", b"NONE")
REGIONS = (b"EMEA", b"APAC", b"", None, "Süd".encode() * 200)  # the last is longer than an LMDB key
MAP_BYTES = 1 << 28

Move = tuple[Entry | None, Entry | None]


class Index:
    """Some shards, and what they must hold."""

    def __init__(self, folder: Path, shards: int, filters: int = 2) -> None:
        self.folder = folder
        self.filters = filters
        self.users: list[dict[bytes, Entry]] = [{} for _ in range(shards)]
        self.envs: list[lmdb.Environment] = []
        self.open()

    def open(self) -> None:
        for env in self.envs:
            env.close()
        names = [str(self.folder / f"{shard}") for shard in range(len(self.users))]
        self.envs = [lmdb.open(name, map_size=MAP_BYTES, max_dbs=2, sync=False) for name in names]
        self.handles = [(env.open_db(b"rows"), env.open_db(b"directory")) for env in self.envs]
        self.writers = [OrderWriter(self.filters, *handles) for handles in self.handles]

    def apply(self, shard: int, changes: Mapping[bytes, Entry | None], *, abort: bool = False) -> None:
        users = self.users[shard]
        moves: list[Move] = [(users.get(user), entry) for user, entry in changes.items()]
        with self.envs[shard].begin(write=True) as txn:
            self.writers[shard].apply(txn, moves)
            if abort:
                txn.abort()
                return
        for user, entry in changes.items():
            if entry is None:
                users.pop(user, None)
            else:
                users[user] = entry

    @contextmanager
    def snapshots(self) -> Iterator[list[OrderSnapshot]]:
        with ExitStack() as stack:
            yield [
                OrderSnapshot(self.filters, stack.enter_context(env.begin()), *handles)
                for env, handles in zip(self.envs, self.handles, strict=True)
            ]

    def expected(self, where: Where, *, newest: bool) -> list[tuple[bytes, bytes]]:
        rows = [
            (entry.key, entry.row)
            for users in self.users
            for entry in users.values()
            if all(asked is None or asked == has for asked, has in zip(where, entry.filters, strict=True))
        ]
        return sorted(rows, reverse=newest)

    def compare(self, rnd: random.Random, where: Where, looks: int = 6, recount: slice = slice(None)) -> None:
        """Recount shards, then look here and there."""
        with self.snapshots() as shards:
            for shard in shards[recount]:
                order_check.check(shard)
            oldest = self.expected(where, newest=False)
            keys = [key for key, _ in oldest]
            assert order_reader.total(shards, where) == len(oldest)
            for look in range(2 * looks):
                newest = bool(look % 2)
                rows = oldest[::-1] if newest else oldest
                skip, size = rnd.randrange(len(rows) + 3), rnd.choice((0, 1, 7, 50, 500))
                found = order_reader.page(shards, where, newest=newest, skip=skip, size=size)
                assert found == rows[skip : skip + size]
                key = rnd.choice(keys) if keys and rnd.random() < 0.5 else new_key(rnd, b"nobody")
                below, above = oldest[: bisect_left(keys, key)], oldest[bisect_right(keys, key) :]
                front, behind = (above[::-1], below[::-1]) if newest else (below, above)
                assert order_reader.rank(shards, where, newest=newest, key=key) == len(front)
                found = order_reader.walk(shards, where, newest=newest, after=key, size=size)
                assert found == behind[:size]
                found = order_reader.walk_back(shards, where, newest=newest, before=key, size=size)
                assert found == front[max(len(front) - size, 0) :]

    def entries(self) -> list[tuple[int, int]]:
        counted = []
        for env, handles in zip(self.envs, self.handles, strict=True):
            with env.begin() as txn:
                counted.append((txn.stat(handles[0])["entries"], txn.stat(handles[1])["entries"]))
        return counted


def new_key(rnd: random.Random, user: bytes, moments: int = 400) -> bytes:
    """Few moments, so that many share one; some at the ends of the scale."""
    moment = rnd.choice((0, 2**64 - 1)) if rnd.random() < 0.02 else rnd.randrange(moments) << 20
    return moment.to_bytes(8, "big") + user


def new_entry(rnd: random.Random, user: bytes) -> Entry:
    row = rnd.randbytes(rnd.randrange(1, 30))
    return Entry(new_key(rnd, user), (rnd.choice(STATUSES), rnd.choice(REGIONS)), row)


def change(rnd: random.Random, old: Entry | None, user: bytes, *, deletes: float) -> Entry | None:
    kind = rnd.random()
    if old is None:
        return None if kind < deletes else new_entry(rnd, user)
    if kind < deletes:
        return None
    kind = rnd.random()
    if kind < 0.2:
        return old
    if kind < 0.4:
        return Entry(old.key, old.filters, rnd.randbytes(9))
    if kind < 0.7:
        return Entry(old.key, (rnd.choice(STATUSES), old.filters[1]), old.row)
    if kind < 0.85:
        return Entry(new_key(rnd, user), old.filters, old.row)
    return new_entry(rnd, user)


def user_name(number: int) -> bytes:
    return b"user-%d" % number + b"x" * (number % 90 if number % 11 == 0 else 0)


QUESTIONS: list[Where] = [
    (None, None),
    (b"VERIFIED", None),
    (None, b"EMEA"),
    (None, b""),
    (b"NONE", b"APAC"),
    (b"PENDING", REGIONS[-1]),
    (None, b"nowhere"),
]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_batches_aborts_and_reopening(tmp_path: Path, seed: int) -> None:
    print(f"seed {seed}")
    rnd = random.Random(seed)
    index = Index(tmp_path, shards=3)
    for step in range(48):
        shard = rnd.randrange(3)
        deletes = 0.05 if step < 28 else 0.6
        names = {user_name(3 * rnd.randrange(2_000) + shard) for _ in range(rnd.choice((1, 40, 700)))}
        users = index.users[shard]
        changes = {name: change(rnd, users.get(name), name, deletes=deletes) for name in sorted(names)}
        if rnd.random() < 0.25:
            index.apply(shard, changes, abort=True)
            if rnd.random() < 0.5:  # a writer that was not told finds out by itself
                index.writers[shard].forget()
        else:
            index.apply(shard, changes)
        if rnd.random() < 0.1:
            index.open()
        index.compare(rnd, rnd.choice(QUESTIONS), looks=3, recount=slice(shard, shard + 1))
    for shard in range(3):
        index.apply(shard, dict.fromkeys(index.users[shard]))
        index.compare(rnd, (None, None))
    assert index.entries() == [(0, 0)] * 3


def test_every_page_of_every_filter_order_and_size_and_walks_both_ways(tmp_path: Path) -> None:
    rnd = random.Random(5)
    index = Index(tmp_path, shards=3)
    for shard in range(3):
        names = [user_name(3 * number + shard) for number in range(250)]
        index.apply(shard, {name: new_entry(rnd, name) for name in names})
    questions = product((None, *STATUSES, b"EXPIRED"), (None, b"EMEA", b"", REGIONS[-1]))
    with index.snapshots() as shards:
        for where, newest, size in product(questions, (True, False), (3, 50, 500)):
            rows = index.expected(where, newest=newest)
            pages = [rows[start : start + size] for start in range(0, len(rows), size)]
            after: bytes | None = None
            for number, page in enumerate(pages):
                assert order_reader.page(shards, where, newest=newest, skip=number * size, size=size) == page
                assert order_reader.walk(shards, where, newest=newest, after=after, size=size) == page
                after = page[-1][0]
            assert order_reader.page(shards, where, newest=newest, skip=len(rows), size=size) == []
            if after is not None:
                assert order_reader.walk(shards, where, newest=newest, after=after, size=size) == []
            for earlier, later in zip(reversed(pages[:-1]), reversed(pages[1:]), strict=True):
                found = order_reader.walk_back(shards, where, newest=newest, before=later[0][0], size=size)
                assert found == earlier


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """48,000 users in 4 shards, several nodes each: one half loaded in order, the other at random.

    One region is rare; the last shard is much smaller than the others.
    """
    rnd = random.Random(7)
    index = Index(tmp_path_factory.mktemp("large"), shards=4)
    made: list[dict[bytes, Entry | None]] = [{} for _ in range(4)]
    for number in range(48_000):
        name = b"%08d" % number
        moment = number if number % 2 else rnd.randrange(48_000)
        filters = (rnd.choice(STATUSES), b"RARE" if rnd.random() < 0.001 else rnd.choice((b"EMEA", b"APAC")))
        shard = 3 if rnd.random() < 0.02 else number % 3
        made[shard][name] = Entry(moment.to_bytes(8, "big") + name, filters, b"row")
    for shard, changes in enumerate(made):
        names = list(changes)
        index.apply(shard, {name: changes[name] for name in names if int(name) % 2})
        for start in range(0, len(names), 1_500):
            some = [name for name in names[start : start + 1_500] if not int(name) % 2]
            index.apply(shard, {name: changes[name] for name in some})
    return index


@pytest.mark.parametrize("where", [(None, None), (b"NONE", None), (b"NONE", b"EMEA"), (None, b"RARE")])
def test_pages_far_and_near_of_a_large_index(large: Index, where: Where) -> None:
    with large.snapshots() as shards:
        assert max(len(shard.shard.nodes) for shard in shards) > 4
    large.compare(random.Random(11), where, looks=25)


def reads(index: Index, where: Where, *, skip: int, size: int) -> tuple[int, int]:
    """Directory records and buckets read for a page and its total."""
    with index.snapshots() as shards:
        order_reader.page(shards, where, newest=True, skip=skip, size=size)
        order_reader.total(shards, where)
        return sum(shard.reads.records for shard in shards), sum(shard.reads.buckets for shard in shards)


@pytest.mark.parametrize("where", [(None, None), (b"NONE", None), (b"NONE", b"EMEA")])
def test_page_10000_reads_as_much_as_page_1(large: Index, where: Where) -> None:
    size = 1
    rows = len(large.expected(where, newest=True))
    skips = [0, 100, 1_000, min(10_000, rows // 2), rows - 1]
    measured = {skip: reads(large, where, skip=skip * size, size=size) for skip in skips}
    per_shard = 1 + 2 * any(where)  # root; and for a filter its column's number and counts
    for skip, (records, buckets) in measured.items():
        assert records <= 4 * (per_shard + 2), f"row {skip}: {measured}"
        assert buckets <= 4 * 4, f"row {skip}: {measured}"


@pytest.mark.parametrize("where", [(None, None), (b"NONE", b"EMEA")])
def test_a_page_of_many_users_reads_as_much_as_one_of_few(large: Index, tmp_path: Path, where: Where) -> None:
    rnd = random.Random(23)
    small = Index(tmp_path, shards=4)
    for shard in range(4):
        names = [b"%d-%d" % (shard, number) for number in range(1_200)]
        small.apply(shard, {name: new_entry(rnd, name) for name in names})
    few, many = (
        [reads(index, where, skip=total * tenths // 10, size=50) for tenths in (0, 3, 9)]
        for index in (small, large)
        for total in [len(index.expected(where, newest=True))]
    )
    # Ten times the users: at most one node more in each shard, and the buckets between two users of a page.
    assert max(records for records, _ in many) <= max(records for records, _ in few) + 4
    assert max(buckets for _, buckets in many) <= max(buckets for _, buckets in few) + 50


def test_a_rare_filter_opens_no_bucket_in_vain(large: Index) -> None:
    rows = len(large.expected((None, b"RARE"), newest=True))
    assert 20 < rows < 100
    _, buckets = reads(large, (None, b"RARE"), skip=0, size=rows)
    assert buckets <= rows
    assert reads(large, (None, b"nowhere"), skip=0, size=50)[1] == 0
    assert reads(large, (None, None), skip=48_000, size=50)[1] == 0


def test_deleting_nearly_all_merges_buckets_and_nodes(tmp_path: Path) -> None:
    rnd = random.Random(13)
    index = Index(tmp_path, shards=1)
    names = [user_name(number) for number in range(9_000)]
    index.apply(0, {name: new_entry(rnd, name) for name in names})
    with index.snapshots() as shards:
        assert len(shards[0].shard.nodes) > 2
    for keep in (3_000, 300, 5):
        kept = set(rnd.sample(sorted(index.users[0]), keep))
        index.apply(0, {name: None for name in index.users[0] if name not in kept})
        index.compare(rnd, (b"VERIFIED", None))
    with index.snapshots() as shards:
        assert len(shards[0].shard.nodes) <= 2
    index.apply(0, dict.fromkeys(index.users[0]))
    assert index.entries() == [(0, 0)]
    index.apply(0, {b"again": new_entry(rnd, b"again")})
    index.compare(rnd, (None, None))


@pytest.mark.parametrize("filters", [0, 1, 4])
def test_any_number_of_filters(tmp_path: Path, filters: int) -> None:
    rnd = random.Random(filters)
    index = Index(tmp_path, shards=2, filters=filters)
    for _, shard in product(range(4), range(2)):
        entries = {}
        for number in range(300):
            name = b"%d-%d" % (shard, number)
            values = tuple(rnd.choice((None, b"a", b"b")) for _ in range(filters))
            entries[name] = Entry(new_key(rnd, name), values, rnd.randbytes(3))
        index.apply(shard, entries)
    for where in product((None, b"a", b"zz"), repeat=filters):
        index.compare(rnd, where, looks=1)


def test_a_writer_takes_no_more_filters_than_the_limit(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 filters"):
        Index(tmp_path, shards=1, filters=FILTERS_MAX + 1)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (Entry(b"b", (b"A", b"R"), b"row"), None, "missing"),
        (Entry(b"a", (b"A", b"R"), b"other"), None, "not what"),
        (Entry(b"a", (b"B", b"R"), b"row"), None, "not what"),
        (Entry(b"a", (b"B", b"R"), b"row"), Entry(b"a", (b"C", b"R"), b"row"), "not what"),
        (Entry(b"a", (b"A", b"R"), b"other"), Entry(b"a", (b"A", b"R"), b"new"), "not what"),
        (None, Entry(b"a", (b"A", b"R"), b"row"), "there already"),
    ],
)
def test_a_wrong_old_entry_is_refused_and_changes_nothing(
    tmp_path: Path, old: Entry | None, new: Entry | None, message: str
) -> None:
    index = Index(tmp_path, shards=1)
    index.apply(0, {b"u": Entry(b"a", (b"A", b"R"), b"row")})
    with pytest.raises(IndexDiffers, match=message) as raised, index.envs[0].begin(write=True) as txn:
        index.writers[0].apply(txn, [(None, Entry(b"0", (b"NEW", b"R"), b"row")), (old, new)])
    assert not re.search(r"\b6[12]\b", raised.value.problem)  # the keys in hexadecimal: they hold user ids
    index.compare(random.Random(0), (b"A", None))
    # Nor does the writer remember anything of it: the number of the new value was never given out.
    index.apply(0, {b"u": Entry(b"c", (b"NEW", b"R"), b"row")})
    index.compare(random.Random(0), (b"NEW", None))


def test_arguments_out_of_range_are_refused(tmp_path: Path) -> None:
    index = Index(tmp_path, shards=1)
    for key in (b"", b"k" * (order.KEY_BYTES_MAX + 1)):
        with pytest.raises(ValueError, match="a key of"):
            index.apply(0, {b"u": Entry(key, (None, None), b"")})
    with pytest.raises(ValueError, match="1 filter values"):
        index.apply(0, {b"u": Entry(b"k", (b"A",), b"")})
    index.apply(0, {b"u": Entry(b"k" * order.KEY_BYTES_MAX, (None, None), b"")})
    index.compare(random.Random(0), (None, None))
    with index.snapshots() as shards:
        with pytest.raises(ValueError, match="1 filter values"):
            order_reader.total(shards, (b"A",))
        with pytest.raises(ValueError, match="negative"):
            order_reader.page(shards, (None, None), newest=True, skip=-1, size=1)


@pytest.mark.parametrize("seed", [1, 2])
def test_values_past_the_limit_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    print(f"seed {seed}")
    monkeypatch.setattr(order, "COMBINATIONS_MAX", 6)
    monkeypatch.setattr(order, "SHARED_COLUMNS", 3)
    rnd = random.Random(seed)
    index = Index(tmp_path, shards=2)
    regions = [b"region-%d" % number for number in range(25)]
    for step in range(20):
        shard = step % 2
        changes: dict[bytes, Entry | None] = {}
        for _ in range(200):
            name = b"%d-%d" % (shard, rnd.randrange(700))
            entry = new_entry(rnd, name)
            region = rnd.choice(regions[: 3 + 2 * step])
            changes[name] = Entry(entry.key, (entry.filters[0], region), entry.row)
            if rnd.random() < 0.2:
                changes[name] = None
        index.apply(shard, changes, abort=step % 5 == 4)
        region = rnd.choice(regions)
        for where in ((b"NONE", None), (None, region), (rnd.choice(STATUSES), region)):
            index.compare(rnd, where, looks=2, recount=slice(shard, shard + 1))
    with index.snapshots() as shards:
        assert all(shard.shard.root.overflowing > 100 for shard in shards)
    for shard in range(2):
        index.apply(shard, dict.fromkeys(index.users[shard]))
    assert index.entries() == [(0, 0)] * 2


@pytest.mark.parametrize("seed", [1, 2])
def test_numbers_of_values_that_are_gone_are_given_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A text filter whose values come and go for ever: no row has to carry its own, and nothing is miscounted."""
    print(f"seed {seed}")
    monkeypatch.setattr(order, "COMBINATIONS_MAX", 32)
    rnd = random.Random(seed)
    index = Index(tmp_path, shards=1)
    for wave in range(30):
        regions = [b"region-%d" % (wave + number) for number in range(4)]
        changes: dict[bytes, Entry | None] = {}
        for name in [b"%d" % number for number in range(120)]:
            old = index.users[0].get(name)
            if old is None or old.filters[1] not in regions or rnd.random() < 0.1:
                entry = new_entry(rnd, name)
                changes[name] = Entry(entry.key, (rnd.choice((*STATUSES, None)), rnd.choice(regions)), entry.row)
        if rnd.random() < 0.2:
            index.apply(0, changes, abort=True)
        index.apply(0, changes)
        if rnd.random() < 0.2:
            index.open()
        where = (rnd.choice((None, *STATUSES)), rnd.choice((None, *regions, b"region-%d" % max(wave - 3, 0))))
        index.compare(rnd, where, looks=2)
    with index.snapshots() as shards:
        root = shards[0].shard.root
        assert root.overflowing == 0
        assert max(root.used) <= 32


def test_values_that_found_no_number_are_one_column_still_when_there_are_some_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers come free while rows of a value without one are counted: that value must not have two columns."""
    monkeypatch.setattr(order, "COMBINATIONS_MAX", 6)
    monkeypatch.setattr(order, "SHARED_COLUMNS", 2)
    rnd = random.Random(29)
    index = Index(tmp_path, shards=1)
    for step in range(40):
        crowded = step % 8 < 3
        changes: dict[bytes, Entry | None] = {}
        for name in [b"%d" % rnd.randrange(90) for _ in range(45)]:
            region = b"region-%d" % rnd.randrange(14 if crowded else 3)
            entry = new_entry(rnd, name)
            changes[name] = Entry(entry.key, (b"VERIFIED", region), entry.row)
        index.apply(0, changes, abort=step % 7 == 6)
        if step % 5 == 4:
            index.open()
        for number in (rnd.randrange(3), rnd.randrange(14)):
            index.compare(rnd, (rnd.choice((None, b"VERIFIED")), b"region-%d" % number), looks=1)


def test_a_combination_that_rows_carry_gets_no_tag_while_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tags run out before columns where values are NULL, and come free again: one row would be known as two."""
    monkeypatch.setattr(order, "COMBINATIONS_MAX", 4)
    index = Index(tmp_path, shards=1)

    def row(number: int, filters: tuple[bytes | None, bytes | None]) -> Entry:
        return Entry(b"%d" % number, filters, b"row")

    halves = [(b"a", None), (b"x", None), (None, b"b"), (None, b"y")]
    index.apply(0, {b"%d" % number: row(number, filters) for number, filters in enumerate(halves)})
    index.apply(0, {b"4": row(4, (b"a", b"b"))})
    with index.snapshots() as shards:
        assert shards[0].shard.root.overflowing == 1
    index.apply(0, {b"1": None, b"6": row(6, (b"c", b"d"))})
    index.apply(0, {b"5": row(5, (b"a", b"b"))})
    index.apply(0, {b"4": row(4, (b"a", b"y"))})
    for where in ((b"a", b"b"), (b"a", None), (None, b"y"), (b"a", b"y")):
        index.compare(random.Random(1), where)


def test_more_combinations_than_the_real_limit(tmp_path: Path) -> None:
    rnd = random.Random(17)
    index = Index(tmp_path, shards=1)
    changes: dict[bytes, Entry | None] = {}
    for number in range(order.COMBINATIONS_MAX + 300):
        name = b"%06d" % rnd.randrange(10**6)
        changes[name] = Entry(name, (b"VERIFIED", b"region-%d" % (number // 2)), b"row")
    for number in range(order.COMBINATIONS_MAX + 300):
        name = b"%06d-" % rnd.randrange(10**6)
        changes[name] = Entry(name, (b"PENDING" if number % 2 else b"LATE", b"text %d" % number), b"row")
    index.apply(0, changes)
    with index.snapshots() as shards:
        assert shards[0].shard.root.overflowing > 300
    for where in ((b"VERIFIED", None), (b"LATE", None), (None, b"region-3"), (b"LATE", b"text 3370")):
        index.compare(rnd, where)


def corruptions() -> dict[str, tuple[int, bytes, bytes | None]]:
    """Which database (0: rows, 1: directory), which key begins so, what to do to the value."""
    return {
        "another tag": (0, b"", b"\0\2"),
        "an unknown tag": (0, b"", b"\xff\0"),
        "a lost row": (0, b"", None),
        "a lost column": (1, b"c", None),
        "a lost node": (1, b"n", None),
        "a lost tag": (1, b"t", None),
        "a lost combination": (1, b"v", None),
        "a lost subset": (1, b"s", None),
        "a changed subset": (1, b"s", b"\0\7"),
        "a changed column": (1, b"c", b"\7\7\7\7"),
    }


@pytest.mark.parametrize("name", list(corruptions()))
def test_a_recount_finds(tmp_path: Path, name: str) -> None:
    rnd = random.Random(19)
    index = Index(tmp_path, shards=1)
    index.apply(0, {user_name(number): new_entry(rnd, user_name(number)) for number in range(500)})
    database, prefix, patch = corruptions()[name]
    with index.envs[0].begin(write=True) as txn, txn.cursor(index.handles[0][database]) as cursor:
        assert cursor.set_range(prefix)
        key, value = cursor.item()
        assert cursor.delete()
        if patch is not None:
            cursor.put(key, patch + value[len(patch) :])
    with index.snapshots() as shards, pytest.raises(IndexDiffers):
        order_check.check(shards[0])
