"""A member of the simulation on real files, that kills its own process at a point."""

# ruff: noqa: ARG002 (the methods of `simulation.member.Disk`)

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kycache.actors.files.directory import DataDirectory
from kycache.model.definition import default_view
from simulation.log import Log
from simulation.member import Member
from simulation.seams import Fate
from support.shards import MAP_BYTES, TOPIC, TOPIC_ID

VIEW = default_view()


PARTITIONS = 2


POINTS_MAX = 60
"""A run to the end has some eighty: most kills hit, at its beginning, middle or end."""


LATE_S = 0.003
"""The most that passes between a point and the kill, so that it also strikes inside of LMDB's commit."""


class Reaper:
    """Kills its own process at a point, or a moment after."""

    def __init__(self, rng: random.Random) -> None:
        self._left = rng.randint(1, POINTS_MAX)
        self._late_s = rng.choice((0.0, rng.random() * LATE_S))

    def pass_by(self) -> None:
        """A point."""
        self._left -= 1
        if self._left == 0:
            if self._late_s == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Thread(target=self._strike, daemon=True).start()

    def _strike(self) -> None:
        time.sleep(self._late_s)
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Points before and after each call."""

        def watched(*arguments: Any, **options: Any) -> Any:
            self.pass_by()
            try:
                return function(*arguments, **options)
            finally:
                self.pass_by()

        return watched


class Disk:
    """What a member's commits ask (`simulation.member.Disk`): to be killed, nothing else."""

    def __init__(self, folder: Path, log: Log, reaper: Reaper | None) -> None:
        self.directory = DataDirectory(folder)
        self.node = self.directory.found(VIEW.hash, TOPIC, TOPIC_ID, PARTITIONS)
        self.view = VIEW
        self.log = log
        self.map_bytes = MAP_BYTES
        self._reaper = reaper
        self.positions = [-1] * PARTITIONS

    def fate(self, shard: int) -> Fate | None:
        return None

    def about_to_commit(self, shard: int) -> None:
        if self._reaper is not None:
            self._reaper.pass_by()

    def committed(self, member: Member, shard: int) -> None:
        if self._reaper is not None:
            self._reaper.pass_by()

    def opened(self, shard: int, offset: int) -> None:
        assert offset <= len(self.log.partitions[shard])

    def freeze(self, shards: list[int]) -> None: ...
    def thaw(self, shard: int) -> None: ...
    def broken(self, what: str) -> None:
        raise AssertionError(what)
