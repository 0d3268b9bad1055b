"""Connections: accepted here, begun in the fast lane and lent to Hypercorn's handler, ended together.

Hypercorn's `serve` does the same but for the end: its handler sends within a shield, so that a client that does
not read keeps a cancelled connection, and with it the process, for as long as it likes (seen). Here the sockets
are shut down when the grace is over, which ends any send.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from copy import copy
from functools import cached_property, partial
from typing import cast

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from kycache.http.exchange.sparing_log import SparingLog
from kycache.model.errors import whereabouts

from .bounded import BoundedListener, connections_max
from .lane import Lane, Returned


class _Moving:
    """A connection's stream, as Hypercorn uses it, which ends when nothing moves on it.

    Hypercorn's own timeouts know of requests: an HTTP/2 preface without one, a WebSocket handshake it refuses, and
    streams whose window is shut would stay for ever (seen). Whoever is sent to counts as moving: how long that may
    take without any progress is the kernel's matter (`listen`).
    """

    def __init__(self, stream: trio.SocketStream, unmoved_s: float, read: bytes = b"") -> None:
        self.socket = stream.socket
        self.unread = read
        """What was read of the connection and not handed out."""
        self.given_back = False
        self.answering: Callable[[], bool] = lambda: False
        """Whether a whole request has no answer yet: what comes meanwhile may be for the next reader."""
        self.broken = False
        """Nothing can be sent any more."""
        self._answered = trio.Event()
        self._closed = False
        self._stream = stream
        self._unmoved_s = unmoved_s
        self._sends = 0
        self._sent_s = trio.current_time()
        self._receiving = trio.CancelScope()

    async def receive_some(self, bytes_max: int) -> bytes | bytearray:
        if self.unread and not self.given_back:
            first, self.unread = self.unread, b""
            return first
        while not self._over():
            data: bytes | None = None
            with trio.move_on_after(self._unmoved_s) as self._receiving:
                data = bytes(await self._stream.receive_some(bytes_max))
            if data is not None:
                return await self._received(data)
        return b""

    def _over(self) -> bool:
        """Whether it was given back.

        Raises:
            trio.ClosedResourceError: nothing moved for too long.
        """
        cancelled = self._receiving.cancelled_caught
        still_s = trio.current_time() - self._sent_s
        if cancelled and not self.given_back and not self._sends and still_s >= self._unmoved_s:
            raise trio.ClosedResourceError("nothing moves on this connection")
        return self.given_back

    async def _received(self, data: bytes) -> bytes:
        """What came; where the stream was given back meanwhile, it is for its next reader.

        Clients send the next request before Hypercorn has put the last one away. It waits here until then: else
        a connection in use would never be idle, and never come back (seen).
        """
        while data and self.answering() and not self._closed:
            self._answered = trio.Event()
            await self._answered.wait()
        if not self.given_back:
            return data
        self.unread = data
        return b""

    def answered(self) -> None:
        """The answer was sent."""
        self._answered.set()

    async def send_all(self, data: bytes) -> None:
        self._sends += 1
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.broken = True
            raise
        finally:
            self._sends -= 1
            self._sent_s = trio.current_time()

    def give_back(self) -> None:
        """To its owner: what reads it sees its end, and it stays open."""
        self.given_back = True
        self._receiving.cancel()
        self.answered()

    async def send_eof(self) -> None:
        if not self.given_back:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        if not self.given_back:
            self._closed = True
            self.answered()
            await self._stream.aclose()


class _Handler(TCPServer):
    """Hypercorn's, but for its end: that waits for the idle timeout although the client has left (seen), and each
    that leaves would hold a descriptor for so long. And a connection that was lent ends as soon as it is idle.

    Once nothing can be sent any more, nothing is read: a reader that has a next request in hand waits for the end
    of the last answer, and after a reset that end never comes (seen).
    """

    _left = False
    _busy = False
    lender: _Moving | None = None

    @cached_property
    def _reading(self) -> trio.CancelScope:
        return trio.CancelScope()

    async def _read_data(self) -> None:
        with self._reading:
            await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if self._left and isinstance(event, Updated):  # an answer nobody waits for ends, and all is idle
            return
        if isinstance(event, Updated) and not event.idle:
            self._busy = True
        await super().protocol_send(event)
        if isinstance(event, Closed) or cast("_Moving", self.stream).broken:
            self._reading.cancel()
        if self.lender is not None and isinstance(event, Updated) and event.idle:
            self._busy = False
            if self._idle():
                self.lender.give_back()
            else:
                self.lender.answered()

    def _idle(self) -> bool:
        """It speaks HTTP/1.1, has answered, and holds nothing that the client sent."""
        protocol = self.protocol.protocol
        if not isinstance(protocol, H11Protocol) or protocol.stream is not None:
            return False
        connection = protocol.connection
        states = (connection.our_state, connection.their_state)
        return states == (h11.IDLE, h11.IDLE) and connection.trailing_data == (b"", False)

    def answering(self) -> bool:
        """A whole request of HTTP/1.1 has no answer yet, or is not put away."""
        protocol = self.protocol.protocol
        if not self._busy or not isinstance(protocol, H11Protocol):
            return False
        return protocol.stream is None or protocol.connection.their_state in (h11.DONE, h11.MUST_CLOSE)

    @property
    def requests(self) -> int:
        """How many it answered, of HTTP/1.1."""
        protocol = self.protocol.protocol
        return protocol.keep_alive_requests if isinstance(protocol, H11Protocol) else 0


class Connections:
    """The connections of one application.

    Args:
        unmoved_s: how long one may stay on which nothing moves.
        lane: where connections begin; None: with Hypercorn.
    """

    def __init__(
        self, app: ASGIFramework, config: Config, grace_s: float, unmoved_s: float, lane: Lane | None
    ) -> None:
        self._lane = lane
        self._app = ASGIWrapper(app)
        self._config = config
        self._grace_s = grace_s
        self._unmoved_s = unmoved_s
        self._context = WorkerContext(None)
        self._log = SparingLog(logging.getLogger("kycache.http"))
        self._open: set[trio.SocketStream] = set()
        self._none_open = trio.Event()

    async def serve(
        self,
        listener: trio.SocketListener,
        until: Callable[[], Awaitable[None]],
        *,
        task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Take connections until `until` returns, give those that are open the grace, then end them."""
        lifespan = Lifespan(self._app, self._config, {})
        async with trio.open_nursery() as application:
            await application.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    bounded = BoundedListener(listener, connections_max())
                    handle = partial(self._handle, bounded)
                    await accepting.start(
                        partial(trio.serve_listeners, handle, [bounded], handler_nursery=connections)
                    )
                    task_status.started()
                    await until()
                    accepting.cancel_scope.cancel()
                await self._end()
                connections.cancel_scope.cancel()
            await lifespan.wait_for_shutdown()
            application.cancel_scope.cancel()

    async def _handle(self, listener: BoundedListener, stream: trio.SocketStream) -> None:
        self._open.add(stream)
        try:
            if self._lane is None:
                await self._handler(_Moving(stream, self._unmoved_s), self._config)
            else:
                await self._lane.serve(stream, self._lend)
        except* Exception as failed:
            self._log.error(f"a connection failed and was closed: {whereabouts(failed)}")
        finally:
            self._open.discard(stream)
            with trio.CancelScope(shield=True):
                await stream.aclose()
            listener.ended()
            if not self._open:
                self._none_open.set()

    def _handler(self, moving: _Moving, config: Config) -> _Handler:
        # It takes a stream without TLS too, whatever its annotation says.
        stream = cast("trio.SSLStream[trio.SocketStream]", moving)
        return _Handler(self._app, config, self._context, ConnectionState({}), stream)

    async def _lend(self, stream: trio.SocketStream, read: bytes, requests: int) -> Returned | None:
        """Let Hypercorn answer a connection until it is idle."""
        moving = _Moving(stream, self._unmoved_s, read)
        config = copy(self._config)
        config.keep_alive_max_requests -= requests
        handler = self._handler(moving, config)
        handler.lender, moving.answering = moving, handler.answering
        await handler
        return Returned(moving.unread, handler.requests) if moving.given_back else None

    async def _end(self) -> None:
        """Idle connections close at once, the others when they have answered; what is left then is shut down."""
        await self._context.terminated.set()
        if self._lane is not None:
            self._lane.end()
        with trio.move_on_after(self._grace_s):
            while self._open:
                self._none_open = trio.Event()
                await self._none_open.wait()
        for stream in self._open:
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_RDWR)
