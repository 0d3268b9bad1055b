"""The fast lane: plain requests of the two hot paths, answered on the spot.

A connection begins here. What `heads` understands is answered by the same functions as everywhere; at the first
request that it does not, the connection goes to Hypercorn's handler with every byte that was read, and comes back
when Hypercorn has answered and is idle. Both lanes answer alike, byte for byte but for the date.

    bytes ──▶ read_head ──▶ understand ──▶ a kept answer, else the driver ──▶ bytes
                  └─────────────┴──▶ Foreign ──▶ the full lane ──▶ back, with what it did not read
"""

import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import trio

from kycache.http.exchange.counts import Counts
from kycache.http.exchange.driver import Driver, KeptAnswer, Pending, Route
from kycache.http.exchange.problems import Answer
from kycache.http.exchange.request import Request
from kycache.http.exchange.wire import CLOSE, CLOSE_ASKED, END, DateLine, header_lines, status_line
from kycache.http.reads.answers import PREFIX

from .heads import Foreign, Head, Understood, read_head, understand
from .limits import ANSWERED_BYTES, TURN_BYTES, TURN_S

SWEEP_S = 1.0
"""How often idle connections are looked for: one look for all, instead of a timer for each read."""


class Returned(NamedTuple):
    """A connection that the full lane gives back."""

    unread: bytes
    """What the client sent since."""
    requests: int
    """Those that the full lane answered."""


HandOver = Callable[[trio.SocketStream, bytes, int], Awaitable[Returned | None]]
"""Lends a connection to the full lane, with what was read and how many requests it had. None: it has ended."""


class _Link:
    """One connection in the lane."""

    __slots__ = ("fd", "lines", "requests", "since_s", "stream", "understood", "waiting")

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.fd = stream.socket.fileno()
        self.requests = 0
        self.waiting = False
        """For a head, or the rest of one."""
        self.since_s = 0.0
        self.lines = b""
        """The headers of the latest request: clients send the same again and again."""
        self.understood: Understood | Foreign = Foreign("malformed")

    def headers(self, lines: bytes) -> Understood | Foreign:
        """What header lines mean."""
        if lines != self.lines:
            self.lines, self.understood = lines, understand(lines)
        return self.understood

    def end(self) -> None:
        """Make `read` return, so that its own task closes it: the descriptor may soon be another client's."""
        with suppress(OSError):
            self.stream.socket.shutdown(socket.SHUT_RDWR)

    async def read(self) -> bytes:
        """What the client sent next; empty at the end."""
        while True:
            try:
                await trio.lowlevel.wait_readable(self.fd)
                return os.read(self.fd, TURN_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                return b""

    async def left(self) -> None:
        """Wait until the client has left. Of one that has sent more nothing is known: that is read later."""
        try:
            if await self.stream.socket.recv(1, socket.MSG_PEEK):
                await trio.sleep_forever()
        except OSError:
            return

    async def write(self, data: bytes) -> bool:
        """Send all of it; whether the client still takes it."""
        try:
            sent = os.write(self.fd, data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        if sent < len(data):
            try:
                await self.stream.send_all(memoryview(data)[sent:])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return False
        return True


class Lane:
    """The fast lane of one process.

    Args:
        idle_s: how long a connection may be without a whole head.
        requests_max: of one connection; the last answer says that it ends.
    """

    def __init__(
        self,
        driver: Driver,
        routes: "LaneRoutes",
        counts: Counts,
        idle_s: float,
        requests_max: int,
    ) -> None:
        self._driver = driver
        self._routes = routes
        self._counts = counts
        self._idle_s = idle_s
        self._requests_max = requests_max
        self._date = DateLine()
        self._links: set[_Link] = set()
        self._ending = False

    async def sweep(self) -> None:
        """Close connections that are idle for too long; never returns."""
        while True:
            await trio.sleep(min(SWEEP_S, self._idle_s / 4))
            limit_s = trio.current_time() - self._idle_s
            for link in self._links:
                if link.waiting and link.since_s < limit_s:
                    link.end()

    def end(self) -> None:
        """End what waits for a request now, and everything else once it has its answer."""
        self._ending = True
        for link in self._links:
            if link.waiting:
                link.end()

    async def serve(self, stream: trio.SocketStream, hand_over: HandOver) -> None:
        """Answer a connection's requests until it ends."""
        link = _Link(stream)
        self._links.add(link)
        try:
            data = b""
            while True:
                data, foreign = await self._answer_all(link, data)
                if foreign is None:
                    return
                self._counts.count("hand_overs", foreign.reason)
                returned = await hand_over(stream, data, link.requests)
                if returned is None:
                    return
                link.requests += returned.requests
                data = returned.unread
        finally:
            self._links.discard(link)

    async def _answer_all(self, link: _Link, data: bytes) -> tuple[bytes, Foreign | None]:
        """Answer until the lane leaves a request. Returns its bytes and why; no reason: the connection ends."""
        searched = 0
        link.since_s = trio.current_time()
        while True:
            found = read_head(data, 0, searched) if data else None
            if isinstance(found, Foreign):
                return data, found
            if found is None:
                searched = len(data)
                if self._ending and not data:
                    return b"", None
                link.waiting = True
                more = await link.read()
                link.waiting = False
                if not more:
                    return b"", None
                data += more
                continue
            at, foreign = await self._answer_these(link, data, found)
            if at < 0:
                return b"", None
            data = data[at:]
            if foreign is not None:
                return data, foreign
            searched = 0
            link.since_s = trio.current_time()

    async def _answer_these(self, link: _Link, data: bytes, found: Head) -> tuple[int, Foreign | None]:
        """Answer the requests whose heads are there.

        Returns:
            Where the first one begins that was not answered, and why the lane leaves it; -1: the connection ends.
        """
        sent: list[bytes] = []
        size = at = 0
        began_s = time.perf_counter()
        head: Head | Foreign | None = found
        while isinstance(head, Head):
            understood = link.headers(head.lines)
            if isinstance(understood, Foreign):
                head = understood
                break
            link.requests += 1
            ends = self._ending or link.requests >= self._requests_max
            last = CLOSE_ASKED if understood.close else CLOSE if ends else b""
            answer = self._at_once(head, understood, last)
            if isinstance(answer, Pending):
                # What was answered before it goes out first: this one may take seconds.
                if sent and not await link.write(b"".join(sent)):
                    return -1, None
                sent, size = [], 0
                finished = await self._finish(link, answer)
                if finished is None:
                    return -1, None
                answer = self._bytes(finished, last)
            sent.append(answer)
            size += len(answer)
            at = head.end
            if last:
                await link.write(b"".join(sent))
                return -1, None
            head = read_head(data, at) if at < len(data) else None
            if head and (size > ANSWERED_BYTES or time.perf_counter() - began_s > TURN_S):
                if not await link.write(b"".join(sent)):
                    return -1, None
                sent, size = [], 0
                await trio.lowlevel.checkpoint()  # the other connections' turn
                began_s = time.perf_counter()
        if sent and not await link.write(b"".join(sent)):
            return -1, None
        return at, head

    async def _finish(self, link: _Link, pending: Pending) -> Answer | None:
        """The answer that there was not at once; None: the client left before."""
        answer = None

        async def leave() -> None:
            await link.left()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave)
            answer = await self._driver.finish(pending)
            nursery.cancel_scope.cancel()
        return answer

    def _at_once(self, head: Head, understood: Understood, last: bytes) -> bytes | Pending:
        """The answer to a request, where it need not wait."""
        route = self._routes.user if len(head.path) > len(PREFIX) else self._routes.users
        found = self._driver.begin(route, Request(head.path, head.query, understood.headers, head.is_head))
        return found if isinstance(found, Pending) else self._bytes(found, last)

    def _bytes(self, answer: Answer | KeptAnswer, last: bytes) -> bytes:
        if isinstance(answer, KeptAnswer):
            lines = answer.lines + answer.truth
        else:
            lines = header_lines(answer.headers)
        return b"".join((status_line(answer.status), lines, self._date.now(), last, END, answer.body))


class LaneRoutes(NamedTuple):
    """The two hot paths."""

    users: Route
    user: Route
