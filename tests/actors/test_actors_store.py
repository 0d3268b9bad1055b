"""The store's promises beside convergence: readers of other processes, markers, the map, damaged files."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import lmdb
import pytest

from kycache.actors.files import environment
from kycache.actors.files.environment import DamagedFile, Environments, check_before_mapping
from kycache.actors.reader import NoStore, ShardReader
from kycache.actors.store import store
from kycache.model.change import Change, Origin, Poison, Scope, Snapshot
from kycache.model.definition import default_view
from kycache.model.errors import Refused
from kycache.model.profile import SUSPICIONS_MAX
from support.pipeline.fake_source import FakeSource
from support.shards import MAP_BYTES, ShardUnderTest, filled, items_of

VIEW = default_view()

READ_AND_STOP = """
import sys, time
from pathlib import Path
from kycache.actors.files.environment import Environments
opened = Environments(readonly=True, map_size=1 << 30).lease(Path(sys.argv[1]), 0)
txn = opened.environment.begin()
print("reading", flush=True)
time.sleep(60)
"""


def test_a_killed_readers_slot_is_freed(tmp_path: Path) -> None:
    """FAULTS 2: kill -9 of a process that holds a read transaction."""
    shard, _ = filled(tmp_path)
    generation = shard.folder.current()
    assert generation is not None
    with subprocess.Popen(
        [sys.executable, "-c", READ_AND_STOP, str(generation)], stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reading\n"
        assert shard.store.free_readers() == 0  # a living one keeps it
        reader.send_signal(signal.SIGKILL)
        reader.wait()
    assert shard.store.free_readers() == 1
    shard.close()


def test_markers_fall_due_by_the_sources_clock(tmp_path: Path) -> None:
    shard = ShardUnderTest(tmp_path, VIEW)
    user = b"u" * 16

    def item(offset: int, lsn: int, ts_ms: int, *, delete: bool) -> Change:
        values = None if delete else tuple(user if n == 0 else None for n in range(14))
        return Change(offset, Origin(Snapshot.STREAMED, lsn - 1, lsn, ts_ms, 1), 0, user, user, None, values)

    start = 1_000_000
    shard.apply([item(0, 10, start, delete=False), item(1, 20, start + 1, delete=True)])
    with shard.snapshot() as snapshot:
        assert snapshot.profile(user) is not None  # the marker
    other = Change(
        2,
        Origin(Snapshot.STREAMED, 29, 30, start + store.MARKERS_KEPT_MS + 2, 1),
        0,
        b"v" * 16,
        b"v" * 16,
        None,
        tuple(b"v" * 16 if n == 0 else None for n in range(14)),
    )
    shard.apply([other])
    with shard.snapshot() as snapshot:
        assert snapshot.profile(user) is None
    shard.close()


def test_a_clock_that_leaps_ahead_is_not_believed(tmp_path: Path) -> None:
    """Nor does it make markers fall due, or redelivery look like a source that moved back."""
    shard = ShardUnderTest(tmp_path, VIEW)
    now = 1_000_000_000_000
    shard.store._clock = lambda: now / 1000
    user = b"u" * 16

    def item(offset: int, lsn: int, ts_ms: int, *, delete: bool = False) -> Change:
        values = None if delete else tuple(user if n == 0 else None for n in range(14))
        return Change(offset, Origin(Snapshot.STREAMED, lsn - 1, lsn, ts_ms, 1), 0, user, user, None, values)

    leapt = now + 10 * store.MARKERS_KEPT_MS
    shard.apply([item(0, 10, now - 20), item(1, 20, now - 10, delete=True), item(2, 30, leapt, delete=True)])
    assert (shard.state.as_of_ms, shard.state.seen_ms, shard.state.disbelieved) == (now - 10, leapt, True)
    assert shard.apply([item(3, 30, leapt, delete=True), item(4, 20, now - 10, delete=True)]).halt is None
    with shard.snapshot() as snapshot:
        assert snapshot.profile(user) is not None  # the marker
    shard.apply([item(5, 40, now + 90)])  # within what is allowed
    assert (shard.state.as_of_ms, shard.state.seen_ms, shard.state.disbelieved) == (now + 90, leapt, False)
    assert shard.apply([item(6, 25, leapt + 1)]).halt is not None
    shard.close()


def test_markers_stay_while_something_is_in_quarantine(tmp_path: Path) -> None:
    """Replayed later than a marker is kept, it would resurrect whoever was deleted in between."""
    shard = ShardUnderTest(tmp_path, VIEW)
    user = b"u" * 16

    def root(offset: int, lsn: int, ts_ms: int, owner: bytes, *, delete: bool = False) -> Change:
        values = None if delete else tuple(owner if n == 0 else None for n in range(14))
        return Change(offset, Origin(Snapshot.STREAMED, lsn - 1, lsn, ts_ms, 1), 0, owner, owner, None, values)

    start, later = 1_000_000, 1_000_000 + store.MARKERS_KEPT_MS + 2
    spoilt = Poison(0, 0, user, b"?", "why", Scope.PROFILE, user)
    shard.apply([spoilt, root(1, 20, start, user, delete=True), root(2, 30, later, b"v" * 16)])
    assert shard.detail(user) is None
    settled = shard.store.settle([0], lambda record: root(record.offset, 10, start - 1, user))
    assert [one.outcome for one in settled] == ["stale"]
    assert shard.detail(user) is None
    shard.apply([root(3, 40, later, b"v" * 16)])
    with shard.snapshot() as snapshot:
        assert snapshot.profile(user) is None  # nothing is waiting any more: the marker falls due
    shard.close()


def test_a_user_with_many_records_in_quarantine_is_suspect_until_the_last_is_settled(tmp_path: Path) -> None:
    """Past the limit one suspicion stands for the rest: to settle its record must not lift theirs."""
    shard = ShardUnderTest(tmp_path, VIEW)
    user, count = b"u" * 16, SUSPICIONS_MAX + 5
    keys = [n.to_bytes(16, "big") for n in range(count)]

    def origin(lsn: int) -> Origin:
        return Origin(Snapshot.STREAMED, lsn - 1, lsn, lsn, 1)

    spoilt = [
        Poison(n, 0, user, b"?", "why", Scope.PROFILE, user, 2, keys[n], origin(n + 10)) for n in range(count)
    ]
    shard.apply(spoilt)
    assert shard.store.settle([count - 1], None)[0].outcome == "dropped"
    rows = [tuple(key if n == 0 else None for n in range(6)) for key in keys]
    healing = [
        Change(count + n, origin(1000 + n), 2, user, user, keys[n], rows[n]) for n in range(SUSPICIONS_MAX - 1)
    ]
    shard.apply(healing)
    for left in range(count - 2, -1, -1):
        assert shard.suspect(user), left
        shard.store.settle([left], None)
    assert not shard.suspect(user)
    assert shard.state.suspects == 0
    shard.close()


def test_a_full_map_grows(tmp_path: Path) -> None:
    """FAULTS 10: the batch that found no room is applied once the map has grown."""
    source = FakeSource(Random(5), 1)
    source.snapshot()
    for _ in range(300):
        source.transactions(3)
    shard = ShardUnderTest(tmp_path, VIEW, map_bytes=256 << 10)
    items = items_of(source)
    grown = 0
    while shard.state.position.offset < len(items):
        try:
            shard.apply(items)
        except lmdb.MapFullError:
            assert shard.state.position.offset == 0
            shard.store.grow_map()
            grown += 1
    assert grown > 0
    shard.close()


@pytest.mark.parametrize("size", [0, 100, 8192, 20_480])
def test_a_truncated_file_is_found_before_it_is_mapped(tmp_path: Path, size: int) -> None:
    """FAULTS 12: LMDB would open it and die by SIGBUS at the first read behind its end."""
    shard, _ = filled(tmp_path, 100)
    shard.close()
    generation = shard.folder.current()
    assert generation is not None
    os.truncate(generation / "data.mdb", size)
    with pytest.raises(DamagedFile, match=r"data\.mdb") as raised:
        shard._open()
    assert "kycache rebuild --shard 0" in raised.value.remedy


def test_garbled_meta_pages_are_found(tmp_path: Path) -> None:
    shard, _ = filled(tmp_path)
    shard.close()
    generation = shard.folder.current()
    assert generation is not None
    with (generation / "data.mdb").open("r+b") as file:
        file.seek(4096 + 16)
        file.write(b"garbled!")
    with pytest.raises(DamagedFile, match="meta page 1"):
        check_before_mapping(generation, 0)


def test_the_file_is_never_shorter_than_its_last_page(tmp_path: Path) -> None:
    """Or a whole file would look truncated after a kill."""
    shard, source = filled(tmp_path, 10)
    generation = shard.folder.current()
    assert generation is not None
    for _ in range(20):
        seen = len(items_of(source))
        source.transactions(5)
        shard.apply(items_of(source)[seen:])
        check_before_mapping(generation, 0)
        with shard.snapshot():
            last = shard.environments.lease(generation, 0).environment.info()["last_pgno"]
            shard.environments.release(generation)
        assert (generation / "data.mdb").stat().st_size >= (last + 1) * environment.PAGE_SIZE
    shard.close()


def test_another_shards_file_and_no_file_are_refused(tmp_path: Path) -> None:
    shard, _ = filled(tmp_path / "a")
    other = ShardReader(shard.environments, shard.folder, VIEW, shards=2)
    with pytest.raises(Refused, match="shard 0: the file holds"), other.snapshot():
        pass
    empty = ShardReader(Environments(readonly=True, map_size=MAP_BYTES), shard.directory.shard(5), VIEW, 6)
    with pytest.raises(NoStore), empty.snapshot():
        pass
    shard.close()


def test_no_address_space_names_the_setting(tmp_path: Path) -> None:
    """LMDB says that there is no memory, whatever is free."""
    with pytest.raises(Refused, match=r"shard 0: 1,048,576\.0 GiB of address .*; lower `\[data\] map_size_gib`"):
        ShardUnderTest(tmp_path / "opened", VIEW, map_bytes=1 << 50)
    shard = ShardUnderTest(tmp_path / "grown", VIEW, map_bytes=1 << 46)
    with pytest.raises(
        Refused, match=r"shard 0: 131,072\.0 GiB of address space cannot .* `\[data\] map_size_gib`"
    ):
        shard.store.grow_map()  # to all that 47 bits name
    shard.store.close()
