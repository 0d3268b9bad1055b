"""A copy of a shard's file that costs too much is given up, wherever it hangs; then nothing is pinned any more."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import lmdb
import pytest

from kycache.actors.generations import hot_copy
from kycache.actors.generations.hot_copy import CopyLimits, copied_pages
from kycache.model.errors import Refused
from kycache.snapshots.storage.stores import Writer
from support.snapshot_stand import Stand
from support.waiting import wait_until


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies are watched closely, and may cost nothing; little of the file is on its way."""
    monkeypatch.setattr(hot_copy, "GROWTH_BYTES_MIN", 0)
    monkeypatch.setattr(hot_copy, "LOOK_S", 0.001)
    monkeypatch.setattr(hot_copy, "PIPE_BYTES", 1 << 12)


def unpinned(environment: lmdb.Environment) -> bool:
    """Nobody reads the file any more: no reader's line ends with a transaction's number."""
    return all(line.endswith("-") for line in environment.readers().splitlines()[1:])


@pytest.mark.usefixtures("watched")
def test_a_copy_that_costs_too_much_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand.make(tmp_path, rounds=150)
    generation = stand.shards[0].folder.current()
    assert generation is not None
    environment, _ = stand.shards[0].environments.lease(generation, 0)
    late_s = 0.0
    # A clock of the test's: on a busy machine a limit near 0 s is over before the first page is read.
    clock = SimpleNamespace(monotonic=lambda: late_s, sleep=time.sleep)
    monkeypatch.setattr(hot_copy, "time", clock)
    for limits, why in (
        (CopyLimits(growth=0.0), "grew by"),
        (CopyLimits(growth=9.0, time_limit_s=60.0), "longer than"),
    ):
        with environment.begin() as txn:
            pages = copied_pages(0, environment, txn, limits)
            next(pages)
            for _ in range(20):
                stand.go_on(2)
            late_s += 61.0
            wait_until(lambda: unpinned(environment), "the end of the copy")
            with pytest.raises(Refused, match=why):
                list(pages)
    stand.shards[0].environments.release(generation)
    stand.close()


@pytest.mark.usefixtures("watched")
def test_a_store_that_hangs_pins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody reads the pages any more, and yet the file must not grow until its writer has to stop."""
    stand = Stand.make(tmp_path, rounds=150)
    stand.set(copying=CopyLimits(growth=0.0))
    generation = stand.shards[0].folder.current()
    assert generation is not None
    environment, _ = stand.shards[0].environments.lease(generation, 0)
    hangs, goes_on, write = Event(), Event(), Writer.write

    def hang(writer: Writer, data: bytes) -> int:
        hangs.set()
        assert goes_on.wait(30)
        return write(writer, data)

    monkeypatch.setattr(Writer, "write", hang)
    with ThreadPoolExecutor(1) as thread:
        taken = thread.submit(stand.take)
        assert hangs.wait(30)
        for _ in range(20):
            stand.go_on(2)
        wait_until(lambda: unpinned(environment), "the end of the copy")
        goes_on.set()
        with pytest.raises(Refused, match="grew by"):
            taken.result()
    stand.shards[0].environments.release(generation)
    stand.close()
