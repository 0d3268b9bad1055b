"""FAULTS 2 and 11: readers that die, stop or hang must not make a shard's file grow without end."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from random import Random
from urllib.request import urlopen

import lmdb
import pytest
import trio

from kycache.actors import shard
from kycache.actors.files import open_reads
from kycache.actors.files.open_reads import OpenRead, OpenReads, Reader, readers_in
from kycache.actors.rules.freshness import Limits
from kycache.actors.rules.standing import Facts, status
from kycache.actors.shard import Opened
from kycache.actors.store.store import Store
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.change import Item
from kycache.model.definition import default_view
from support.http_stand import Stand, people
from support.pipeline.fake_source import FakeSource
from support.services import started
from support.shards import Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()
WAIT_S = 20.0
PAGE_BYTES = 4096
CHANGES_PER_BATCH = 24
STOPS_MAX = 1000
"""A page is read in most of the time that it takes to answer one; a few stops are enough."""

READ_AND_STAY = """
import sys, time
from pathlib import Path
from kycache.actors.files.environment import Environments
from kycache.actors.files.directory import DataDirectory
from kycache.actors.reader import ShardReader
from kycache.model.definition import default_view
reads = Environments(readonly=True, map_size=1 << 30)
reader = ShardReader(reads, DataDirectory(Path(sys.argv[1])).shard(0), default_view(), 1)
with reader.snapshot() as snapshot:
    print("reading", flush=True)
    time.sleep(300)
"""


@contextmanager
def reading(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process in the middle of a read, as `kycache web` reads."""
    command = [sys.executable, "-c", READ_AND_STAY, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"reading\n"
            yield child
        finally:
            child.kill()


class Written:
    """A shard, and changes of few users for it, so that its file has no reason to grow."""

    def __init__(self, folder: Path, transactions: int) -> None:
        source = FakeSource(Random(11), 1)
        source.snapshot()
        for _ in range(transactions):
            source.transactions(2)
            source.beat()
        decoder = RecordDecoder(VIEW)
        self.items: list[Item] = [decoder.decode(record) for record in source.records()[0]]
        self.shard = ShardUnderTest(folder, VIEW)
        self.next = 0

    def write(self, batches: int) -> None:
        for _ in range(batches):
            end = min(self.next + CHANGES_PER_BATCH, len(self.items))
            assert self.next < end, "the test needs more changes"
            self.shard.apply(self.items[self.next : end])
            self.next = end

    def pages(self) -> int:
        lease = self.shard.environments.lease(self.shard.store.generation, 0)
        try:
            return lease.environment.info()["last_pgno"]
        finally:
            self.shard.environments.release(self.shard.store.generation)


def oldest_reader(store: Store) -> int | None:
    """The process with the oldest read that keeps pages, None where no read does."""
    return None if store.oldest_read is None else store.oldest_read.reader.pid


def test_the_table_of_readers_is_understood() -> None:
    table = "    pid     thread     txnid\n     30085 7f54773f0b80 0\n     30085 7f5476a3f6c0 -\n  7 1 812\n"
    assert list(readers_in(table)) == [Reader(30085, "7f54773f0b80", 0), Reader(7, "1", 812)]
    assert list(readers_in("(no active readers)\n")) == []


def test_a_reader_killed_in_mid_read_is_freed_by_the_running_writer(tmp_path: Path) -> None:
    """FAULTS 2, the slot and the file: the same writer, never restarted, stops growing."""
    written = Written(tmp_path, 420)
    written.write(10)
    with reading(tmp_path) as child:
        began = written.pages()
        written.write(12)
        assert oldest_reader(written.shard.store) == child.pid
        held = written.pages() - began
        assert held > 12  # a living one keeps every page from being used again
    written.write(open_reads.DEAD_LOOK_TRANSACTIONS)
    assert oldest_reader(written.shard.store) is None
    freed = written.pages()
    written.write(24)
    assert written.pages() - freed <= held // 2
    written.shard.close()


@contextmanager
def asking(url: str) -> Iterator[None]:
    """A client that asks for pages without a pause, until the server is gone."""

    def ask() -> None:
        with suppress(OSError, HTTPException):
            while not ended.is_set():
                with urlopen(f"{url}/users?size=500", timeout=WAIT_S) as answer:
                    answer.read()

    ended = threading.Event()
    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def stop_in_mid_read(pid: int, environment: lmdb.Environment) -> None:
    """Stop a child of ours in a moment in which it holds a read transaction."""
    for _ in range(STOPS_MAX):
        os.kill(pid, signal.SIGSTOP)
        os.waitpid(pid, os.WUNTRACED)
        if any(reader.pid == pid for reader in readers_in(environment.readers())):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.001)  # another moment
    raise AssertionError("it was never met in the middle of a read")


def test_a_web_killed_in_mid_read_is_freed_by_the_running_writer(no_settings: Path) -> None:
    """FAULTS 2 with the whole `kycache web`, under requests, beside a writer of another process that goes on."""
    stand = Stand(no_settings / "data", shards=1)
    users = people(1000)
    stand.load(users)
    (no_settings / "kycache.toml").write_text("[http]\nport = 0\nlist_ttl = 0\n", encoding="utf-8")
    (store,) = stand.stores
    environment = stand.environments.lease(store.generation, 0).environment

    def pages() -> int:
        return int(environment.info()["last_pgno"])

    def write(batches: int) -> None:
        for user in users[:batches]:
            stand.put(user)

    write(40)
    with started(no_settings, "web") as web, asking(str(web.logged("listening")["url"])):
        pid = web.child.pid
        stop_in_mid_read(pid, environment)
        began = pages()
        write(open_reads.DEAD_LOOK_TRANSACTIONS)
        assert oldest_reader(store) == pid
        held = pages() - began
        assert held > open_reads.DEAD_LOOK_TRANSACTIONS  # stopped, it keeps every page from being used again
        web.child.kill()
        web.child.wait()
    write(1)
    assert oldest_reader(store) is None
    freed = pages()
    write(40)
    assert pages() - freed <= held // 2
    stand.environments.release(store.generation)
    stand.close()


async def test_a_read_that_never_ends_stops_the_writer_before_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 11: bounded while the reader stands still; reads go on; nothing is lost; it goes on by itself."""
    monkeypatch.setattr(open_reads, "GROWTH_MIN_BYTES", 64 * PAGE_BYTES)
    monkeypatch.setattr(open_reads, "GROWTH_SHARE", 0.0)
    monkeypatch.setattr(shard, "NO_ROOM_RETRY_S", 0.01)
    monkeypatch.setattr(shard, "BATCH_ITEMS", CHANGES_PER_BATCH)
    monkeypatch.setattr(shard, "BATCH_ITEMS_MAX", CHANGES_PER_BATCH)
    looks: list[object] = []
    look = OpenReads.look

    def counted(reads: OpenReads) -> OpenRead | None:
        looks.append(reads)
        return look(reads)

    monkeypatch.setattr(OpenReads, "look", counted)
    written = Written(tmp_path, 300)
    written.write(4)
    items, folder = written.items, written.shard.folder
    began = written.pages()
    written.shard.store.close()

    async def opened() -> Opened:
        written.shard.store = written.shard._open()
        return Opened(written.shard.store, "id", written.next)

    orders = Orders()
    holder = ShardHolder(folder, opened, orders.partition)

    def position() -> int:
        return written.shard.state.position.offset

    def reason() -> str:
        report = folder.report()
        return status(Facts(0, written.shard.state, 0.0, Limits(), report)).reason

    async with trio.open_nursery() as nursery:
        nursery.start_soon(holder.run)
        await until(lambda: orders.read_from)
        actor = holder.actor
        assert actor is not None
        with reading(tmp_path) as child:
            child.send_signal(signal.SIGSTOP)
            for first in range(written.next, len(items), CHANGES_PER_BATCH):
                end = min(first + CHANGES_PER_BATCH, len(items))
                actor.offer(orders.batch(items, first, end))
            await until(lambda: str(child.pid) in reason())
            stood, blocked_at = position(), written.pages()
            assert stood < len(items)
            assert blocked_at - began < 2 * 64 + 64  # the limit, and what one batch may take beyond it
            tried = len(looks)
            await until(lambda: len(looks) >= tried + 10)
            assert (position(), written.pages()) == (stood, blocked_at)
        await until(lambda: position() == len(items))
        assert holder.actor is actor  # the same run, no restart
        assert str(child.pid) not in reason()
        assert actor.blocked == ""
        await holder.release()
    written.shard.store = written.shard._open()
    written.shard.close()
