"""Connections: accepted here, each handled by Hypercorn's own handler, ended together.

Hypercorn's `serve` does the same but for the end: its handler sends within a shield, so that a client that does
not read keeps a cancelled connection, and with it the process, for as long as it likes (seen). Here the sockets
are shut down when the grace is over, which ends any send.
"""

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, ConnectionState

from kycache.http.exchange.sparing_log import SparingLog
from kycache.model.errors import whereabouts

from .bounded import BoundedListener, connections_max


class _Moving:
    """A connection's stream, as Hypercorn uses it, which ends when nothing moves on it.

    Hypercorn's own timeouts know of requests: an HTTP/2 preface without one, a WebSocket handshake it refuses, and
    streams whose window is shut would stay for ever (seen). Whoever is sent to counts as moving: how long that may
    take without any progress is the kernel's matter (`listen`).
    """

    def __init__(self, stream: trio.SocketStream, unmoved_s: float) -> None:
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose
        self._stream = stream
        self._unmoved_s = unmoved_s
        self._sends = 0
        self._sent_s = trio.current_time()

    async def receive_some(self, bytes_max: int) -> bytes | bytearray:
        while True:
            with trio.move_on_after(self._unmoved_s):
                return await self._stream.receive_some(bytes_max)
            if not self._sends and trio.current_time() - self._sent_s >= self._unmoved_s:
                raise trio.ClosedResourceError("nothing moves on this connection")

    async def send_all(self, data: bytes) -> None:
        self._sends += 1
        try:
            await self._stream.send_all(data)
        finally:
            self._sends -= 1
            self._sent_s = trio.current_time()


class _Handler(TCPServer):
    """Hypercorn's, but for its end: that waits for the idle timeout although the client has left (seen), and each
    that leaves would hold a descriptor for so long.
    """

    _left = False

    async def _read_data(self) -> None:
        await super()._read_data()
        self._left = True
        await self.idle_task.stop()

    async def protocol_send(self, event: Event) -> None:
        if not (self._left and isinstance(event, Updated)):  # an answer nobody waits for ends, and all is idle
            await super().protocol_send(event)


class Connections:
    """The connections of one application.

    Args:
        unmoved_s: how long one may stay on which nothing moves.
    """

    def __init__(self, app: ASGIFramework, config: Config, grace_s: float, unmoved_s: float) -> None:
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
            # It takes a stream without TLS too, whatever its annotation says.
            moving = cast("trio.SSLStream[trio.SocketStream]", _Moving(stream, self._unmoved_s))
            await _Handler(self._app, self._config, self._context, ConnectionState({}), moving)
        except* Exception as failed:
            self._log.error(f"a connection failed and was closed: {whereabouts(failed)}")
        finally:
            self._open.discard(stream)
            listener.ended()
            if not self._open:
                self._none_open.set()

    async def _end(self) -> None:
        """Idle connections close at once, the others when they have answered; what is left then is shut down."""
        await self._context.terminated.set()
        with trio.move_on_after(self._grace_s):
            while self._open:
                self._none_open = trio.Event()
                await self._none_open.wait()
        for stream in self._open:
            with suppress(OSError):
                stream.socket.shutdown(socket.SHUT_RDWR)
