"""The HTTP server: the application on Hypercorn, inside a nursery of our own.

Shutdown is ordered by nesting. Cancelled, it says 503 at `/readyz` for `drain_s`, then takes no more connections,
lets what is in flight finish within `grace_s`, and only then ends the tasks those requests stand on.
"""

import logging
import socket
from functools import partial

import trio
from hypercorn.config import Config
from hypercorn.typing import ASGIFramework

from kycache.actors.files.directory import DataDirectory
from kycache.actors.router import Router
from kycache.http.exchange.counts import Counts, Tally
from kycache.http.exchange.driver import Driver
from kycache.http.exchange.watch import Watch
from kycache.http.operations.health import Health
from kycache.http.operations.metrics import Exposition
from kycache.http.reads.answers import Answers
from kycache.http.reads.cursors import CursorCodec, cursor_keys
from kycache.http.reads.exports import Exports
from kycache.http.reads.kept_bodies import KeptBodies
from kycache.http.reads.page_cache import PageCache

from .app import create_app
from .connections import Connections
from .http2 import correct_hypercorn
from .lane import Lane, LaneRoutes
from .limits import (
    BODY_EVENTS_MAX,
    H2_STREAMS_MAX,
    HEAD_BYTES_MAX,
    IDLE_S_MAX,
    REQUESTS_PER_CONNECTION_MAX,
    UNMOVED_S_MAX,
)
from .listen import bind, check_listener, url_of
from .routes import make_routes
from .settings import HttpSettings

__all__ = ["HttpSettings", "serve"]

_UNWIND_S = 1.0
"""After the grace: for cancelled connections to close."""


async def serve(
    router: Router,
    settings: HttpSettings,
    directory: DataDirectory,
    *,
    listener: socket.socket | None = None,
    counts: Counts | None = None,
    task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `task_status.started` gets the URL once connections are taken.

    Args:
        listener: a listening socket, taken over; without one it is bound here.
        counts: this worker's row of shared counts; without one it counts for itself.

    Raises:
        ConfigurationError: settings, keys or address cannot be used; names them.
        Refused: the data directory was made with another view definition.
    """
    settings.check()
    correct_hypercorn()
    _ = router.shard_count  # looks at the directory, and refuses another view's
    with listener or bind(settings) as bound:
        check_listener(bound, settings)
        counts = counts or Tally().row(0)
        watch = Watch(router, counts)
        health = Health(router)
        codec = CursorCodec(cursor_keys(directory, settings.cursor_keys), router.view.hash)
        pages = PageCache(settings.list_ttl_s, partial(counts.gauge, "list_cache_bytes"))
        bodies = KeptBodies(settings.body_cache_mib << 20, partial(counts.gauge, "body_cache_bytes"))
        answers = Answers(router, codec, pages, bodies, Exports(settings.exports, counts), counts)
        routes = make_routes(router.view, answers, health, Exposition(router, counts.tally))
        driver = Driver(watch, counts, settings.freshness_wait_s)
        app = create_app(router.view, routes, driver)
        lane = None
        if settings.fast_lane:
            hot = LaneRoutes(routes.users, routes.user)
            lane = Lane(driver, hot, counts, IDLE_S_MAX, REQUESTS_PER_CONNECTION_MAX)
        async with trio.open_nursery() as nursery:
            server = _Server(settings, health, watch, lane)
            url = url_of(bound)
            await nursery.start(server.run, app, trio.SocketListener(trio.socket.from_stdlib_socket(bound)))
            task_status.started(url)
            try:
                await trio.sleep_forever()
            finally:
                server.stop.set()


class _Server:
    """The part that outlives cancellation: shielded, and bounded by its own deadlines."""

    def __init__(self, settings: HttpSettings, health: Health, watch: Watch, lane: Lane | None) -> None:
        self.stop = trio.Event()
        self._settings = settings
        self._health = health
        self._watch = watch
        self._lane = lane

    async def run(
        self, app: ASGIFramework, listener: trio.SocketListener, task_status: "trio.TaskStatus[None]"
    ) -> None:
        with trio.CancelScope(shield=True) as scope:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(self._watch.run)
                tasks.start_soon(self._end, scope)
                unmoved_s = UNMOVED_S_MAX + self._settings.freshness_wait_s
                if self._lane is not None:
                    tasks.start_soon(self._lane.sweep)
                config = _config(self._settings)
                connections = Connections(app, config, self._settings.grace_s, unmoved_s, self._lane)
                await connections.serve(listener, self._drained, task_status=task_status)
                tasks.cancel_scope.cancel()

    async def _drained(self) -> None:
        await self.stop.wait()
        self._health.draining = True
        await trio.sleep(self._settings.drain_s)

    async def _end(self, scope: trio.CancelScope) -> None:
        await self.stop.wait()
        scope.deadline = trio.current_time() + self._settings.drain_s + self._settings.grace_s + _UNWIND_S


def _config(settings: HttpSettings) -> Config:
    config = Config()
    config.h11_max_incomplete_size = HEAD_BYTES_MAX
    config.h2_max_header_list_size = HEAD_BYTES_MAX
    config.h2_max_concurrent_streams = H2_STREAMS_MAX
    config.keep_alive_timeout = IDLE_S_MAX
    config.keep_alive_max_requests = REQUESTS_PER_CONNECTION_MAX
    config.max_app_queue_size = BODY_EVENTS_MAX
    config.shutdown_timeout = settings.grace_s
    # read_timeout stays unset: it leaves idle keep-alive connections open and deaf (seen).
    config.include_server_header = False
    config.accesslog = None  # paths hold user ids
    config.errorlog = logging.getLogger("kycache.http.hypercorn")
    config.errorlog.setLevel(logging.WARNING)  # who starts the server says where it listens
    return config
