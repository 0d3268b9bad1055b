"""A listener that takes no more connections than there are descriptors for.

Without it the last descriptor goes to a connection, and the next file that a read must open, a shard's new
generation, cannot be opened: a flood of idle connections would fail the requests of all others.
"""

import logging
import resource

import trio

from kycache.http.exchange.sparing_log import SparingLog

DESCRIPTORS_WANTED = 16_384
"""Asked of the kernel at start, where the hard limit allows it: 10,000 connections are planned for."""

CONNECTIONS_SHARE = 0.75
"""Of the descriptors. The others are for shards (some each, more while a generation follows another) and, where
ingest is in the same process, for Kafka and its control socket."""


def connections_max() -> int:
    """How many connections this process may hold; raises its limit of descriptors first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WANTED if hard == resource.RLIM_INFINITY else min(DESCRIPTORS_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    descriptors = DESCRIPTORS_WANTED if soft == resource.RLIM_INFINITY else soft
    return max(1, int(descriptors * CONNECTIONS_SHARE))


class BoundedListener(trio.abc.Listener[trio.SocketStream]):
    """Takes a connection when one more may be held; until then it waits in the kernel's queue."""

    def __init__(self, listener: trio.SocketListener, most: int) -> None:
        self._listener = listener
        self._most = most
        self._free = trio.Semaphore(most)
        self._log = SparingLog(logging.getLogger("kycache.http"))

    async def accept(self) -> trio.SocketStream:
        """The next connection; `ended` must be told when it has ended."""
        if not self._free.value:
            self._log.error(f"{self._most} connections are open; more wait until one ends: raise `ulimit -n`")
        await self._free.acquire()
        try:
            return await self._listener.accept()
        except BaseException:
            self._free.release()
            raise

    def ended(self) -> None:
        """A connection that was taken has ended."""
        self._free.release()

    async def aclose(self) -> None:
        """Close the listening socket."""
        await self._listener.aclose()
