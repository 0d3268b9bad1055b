"""FAULTS 9 and 10: no room on the disk, no room in the map. The disk is a small tmpfs, really full."""

import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

import lmdb
import pytest
import trio

from kycache.actors import shard as shard_module
from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.reader import NoStore, ShardReader
from kycache.actors.shard import Opened, ShardActor
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from kycache.model.values import uuid_bytes
from support.faults import in_child, seeds
from support.pipeline.fake_source import FakeSource
from support.shards import TOPIC_ID, Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()
DISK_BYTES = 24 << 20
"""Of the small disk: a store's file grows ahead by 16 MB, sparse, and holds a few hundred profiles in 2."""

WAIT_S = 30.0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; needs root, as CI has it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small disk can be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a test that fails leaves files open


def items_of(seed: int, rounds: int) -> tuple[FakeSource, list[Item]]:
    source = FakeSource(Random(seed), 1)
    source.transactions(3)
    source.log.clear()
    source.snapshot()
    for _ in range(rounds):
        source.transactions(3)
    source.beat()
    decoder = RecordDecoder(VIEW)
    return source, [decoder.decode(record) for record in source.records()[0]]


def fill(ballast: Path) -> None:
    """Take all room that is left, to the last page."""
    with ballast.open("ab", buffering=0) as file:
        size = 1 << 20
        while size >= 512:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2


def assert_equals(shard: ShardUnderTest, source: FakeSource) -> None:
    for user_id in source.users:
        assert shard.detail(uuid_bytes(user_id)) == source.profile(user_id)
    assert shard.state.users == len(source.users)


def goes_on(actor: ShardActor) -> bool:
    return not actor.blocked


@pytest.mark.parametrize("seed", seeds(2))
async def test_a_full_disk_pauses_and_goes_on_by_itself(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Reads go on meanwhile, nothing is lost, and nobody has to start anything."""
    monkeypatch.setattr(shard_module, "NO_ROOM_RETRY_S", 0.02)
    rng = Random(seed)
    source, items = items_of(seed, 150)
    shard = ShardUnderTest(small_disk, VIEW)
    shard.store.close()
    orders = Orders()

    async def open_store() -> Opened:
        shard.store = shard._open()
        return Opened(shard.store, TOPIC_ID, shard.store.opened_at.position.offset)

    holder = ShardHolder(shard.folder, open_store, orders.partition)
    ballast = small_disk / "ballast"
    offset, paused = 0, 0
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(holder.run)
            await until(lambda: orders.read_from)
            while offset < len(items):
                if offset == 0 or rng.random() < 0.3:  # later it may find room within its file
                    fill(ballast)
                end = min(len(items), offset + rng.choice((20, 100, 300)))
                actor = holder.actor
                assert actor is not None
                assert actor.offer(orders.batch(items, offset, end))
                while actor.state.position.offset < end:
                    if actor.blocked:
                        paused += 1
                        assert shard.state.position.offset == offset  # what was committed can be read
                        assert all(row["userId"] for row in shard.listed())
                        ballast.unlink()
                        await until(partial(goes_on, actor))
                    await trio.sleep(0.005)
                offset = end
            ballast.unlink(missing_ok=True)
            assert holder.halted is None
            assert_equals(shard, source)
            await holder.release()
    assert paused, "the disk was never full"
    shard.store = shard._open()
    shard.close()


def test_readers_of_other_processes_follow_a_growing_map(tmp_path: Path) -> None:
    """They re-set their map and go on, without an error."""
    small = 256 << 10
    _, items = items_of(7, 400)
    read, write = os.pipe()
    end = len(items)

    def reads() -> None:
        opened = Environments(readonly=True, map_size=small)
        reader = ShardReader(opened, DataDirectory(tmp_path).shard(0), VIEW, 1)
        at = -1
        while at < end:
            try:
                with reader.snapshot() as snapshot:
                    if at < 0:
                        os.write(write, b"!")
                    at = snapshot.state.position.offset
            except NoStore:
                pass

    def writes() -> None:
        shard = ShardUnderTest(tmp_path, VIEW, map_bytes=small)
        assert os.read(read, 1) == b"!"
        offset, grown = 0, 0
        while offset < end:
            try:
                offset = shard.apply(items[: offset + 200][offset:]).state.position.offset
            except lmdb.MapFullError:
                shard.store.grow_map()
                grown += 1
        assert grown > 1
        assert_equals(shard, items_of(7, 400)[0])
        shard.close()

    pid = os.fork()
    if pid == 0:
        os._exit(0 if in_child(reads) else 1)
    assert in_child(writes)
    _, status = os.waitpid(pid, 0)
    assert status == 0, "the reader failed"
    for descriptor in (read, write):
        os.close(descriptor)
