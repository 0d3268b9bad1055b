"""A shard's partition as its holder sees it: orders to the one who reads it, as data.

Each order to read on begins a run, and no two runs of a process have the same number: not those of two holders,
of two assignments, or of two sessions with the broker. A batch carries the number of the run that it was polled
for. So a batch that was polled before an order was obeyed is told from what comes after the order.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple


class ReadFrom(NamedTuple):
    """Begin a run: deliver the partition's records from `offset` on."""

    partition: int
    run: int
    offset: int
    leader_epoch: int
    """Of the record before `offset`; -1: unknown."""


class Pause(NamedTuple):
    """End a run: deliver no more of the partition until the next `ReadFrom`."""

    partition: int
    run: int


class Resume(NamedTuple):
    """Go on in a run, where a delivery found no room."""

    partition: int
    run: int


Order = ReadFrom | Pause | Resume


class Partition:
    """Gives the orders for one partition, for one assignment of it. All calls come from one thread."""

    def __init__(self, number: int, runs: Iterator[int], order: Callable[[Order], None]) -> None:
        """Args:
        runs: the numbers of runs to come, shared by all partitions of the process.
        order: takes an order, and never waits.
        """
        self.number = number
        self._runs = runs
        self._order = order

    def read_from(self, offset: int, leader_epoch: int) -> int:
        """Order: deliver from `offset` on. Returns the number of the run, which every batch of it carries."""
        run = next(self._runs)
        self._order(ReadFrom(self.number, run, offset, leader_epoch))
        return run

    def pause(self, run: int) -> None:
        """Order: deliver no more of the run."""
        self._order(Pause(self.number, run))

    def resume(self, run: int) -> None:
        """Order: go on in the run, where a delivery found no room."""
        self._order(Resume(self.number, run))
