"""Kills snapshots: `python -m support.killing.snapshot_killer FOLDER create|prune SEED COUNT`.

Each run is a fork of this process, so that hundreds take seconds. It is killed (SIGKILL) at its n-th step:
before or behind a write, an upload's end, a delete, an fsync. Another fork then looks at what is left, and a
third one does the work to its end. Prints what it did as JSON.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from random import Random
from typing import Any

import obstore

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.snapshots.lock import one_at_a_time
from kycache.snapshots.prune import carry_out, decide
from kycache.snapshots.storage.fetch import check_file
from kycache.snapshots.storage.keys import keys_of
from kycache.snapshots.storage.listing import Condition, survey
from kycache.snapshots.storage.settings import SnapshotSettings
from kycache.snapshots.storage.stores import Store, Writer
from kycache.snapshots.take import Taker
from support.snapshot_stand import CHECKER, Stand

PARTS = 32 << 10
"""So small that a shard's file is uploaded in several."""


class Nowhere:
    def write(self, data: bytes, /) -> int:
        return len(data)


class Killer:
    """Counts steps, and ends this process at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.step()
            result = function(*args, **kwargs)
            self.step()
            return result

        return stepped

    def arm(self) -> None:
        for owner, names in (
            (Writer, ("write", "close")),
            (obstore, ("put", "delete")),
            (os, ("fsync", "link")),
        ):
            for name in names:
                setattr(owner, name, self.around(getattr(owner, name)))


class Work:
    """What is done in one folder; every method runs in a fork of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = SnapshotSettings((root / "store").as_uri(), part_bytes=PARTS)

    def begin(self) -> None:
        stand = Stand.make(self.root, 2, rounds=20)
        stand.close()

    def create(self) -> None:
        store = Store(self.settings.store, part_bytes=PARTS, writing=True)
        keys = keys_of(self.settings, store, writing=True)
        directory = DataDirectory(self.root / "data")
        with one_at_a_time(directory):
            reading = Environments(readonly=True, map_size=1 << 30)
            Taker(directory, reading, store, keys, self.settings, CHECKER.ensure).take()

    def prune(self) -> None:
        store = Store(self.settings.store)
        found = survey(store, keys_of(self.settings, store, writing=False))
        carry_out(store, found, decide(found, datetime.now(UTC), keep=1))

    def look(self) -> None:
        """Every snapshot is whole, with every byte of it, or is none."""
        store = Store(self.settings.store)
        keys = keys_of(self.settings, store, writing=True)
        for found in survey(store, keys):
            assert found.condition is not Condition.DAMAGED, found
            if found.manifest is not None:
                for entry in found.manifest.shards:
                    check_file(store, keys, found.manifest, entry, Nowhere())

    def look_at_the_end(self) -> None:
        """One whole snapshot, and nothing else."""
        store = Store(self.settings.store)
        (found,) = survey(store, keys_of(self.settings, store, writing=False))
        assert found.condition is Condition.WHOLE, found
        folder = self.root / "store"
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".store.key"))
        assert there == [found.id, "store.key"], there
        assert len(list((folder / found.id).iterdir())) == 3, sorted((folder / found.id).iterdir())


def forked(work: Callable[[], None]) -> int:
    """Run in a fork; the signal that ended it, 0 where it came to its end.

    Raises:
        AssertionError: it ended otherwise.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stderr.flush()
            if code:
                import traceback

                traceback.print_exc()
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), ended
    return -ended


def main() -> None:
    root, command, seed, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    work = Work(root)
    forked(work.begin)
    if command == "prune":
        forked(work.create)

    def killed_at(step: int) -> Callable[[], None]:
        def run() -> None:
            killer = Killer(step)
            killer.arm()
            getattr(work, command)()
            (root / "steps").write_text(str(killer.steps))

        return run

    if command == "prune":
        forked(work.create)
    assert not forked(killed_at(-1))
    steps = int((root / "steps").read_text())
    rng = Random(seed)
    places = sorted(rng.sample(range(1, steps + 1), min(count, steps)))
    kills = 0
    for place in places:
        if command == "prune":
            assert not forked(work.create)
        kills += forked(killed_at(place)) == signal.SIGKILL
        assert not forked(work.look), f"seed {seed}, step {place}"
        assert not forked(work.create), f"seed {seed}, step {place}"
        assert not forked(work.prune)
        assert not forked(work.look_at_the_end), f"seed {seed}, step {place}"
    print(json.dumps({"steps": steps, "kills": kills}))


if __name__ == "__main__":
    main()
