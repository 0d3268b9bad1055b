"""A partition without a consumer thread: its orders, as they were given, and batches for them."""

from itertools import count

from kycache.actors.partition import Order, Partition, Pause, ReadFrom
from kycache.actors.shard import Batch
from kycache.model.change import Item


class Orders:
    """What a shard ordered of its partition."""

    def __init__(self) -> None:
        self.given: list[Order] = []
        self.partition = Partition(0, count(1), self.given.append)

    @property
    def read_from(self) -> list[int]:
        """The offsets from which it was ordered to read, in order."""
        return [order.offset for order in self.given if isinstance(order, ReadFrom)]

    @property
    def paused(self) -> list[int]:
        """The runs that were ended."""
        return [order.run for order in self.given if isinstance(order, Pause)]

    @property
    def run(self) -> int:
        """The number of the latest run."""
        return max(order.run for order in self.given if isinstance(order, ReadFrom))

    def batch(self, items: list[Item], first: int, end: int, *, run: int | None = None) -> Batch:
        """Items from `first` to before `end`, polled for a run, of a log that holds all of them.

        Args:
            run: None: the latest.
        """
        return Batch(self.run if run is None else run, items[first:end], 1, end, -1, len(items))
