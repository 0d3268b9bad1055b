"""The Quart application: routes to the answer functions, and every other outcome as a problem.

Nothing is decided here. What a framework would do by itself (HTML errors, redirects for slashes, an OPTIONS
answer, a traceback in the log with the request's values) is switched off.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

import msgspec
import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from kycache.http.documents.docs_page import docs_answer
from kycache.http.documents.openapi import build_openapi
from kycache.http.operations.health import Health
from kycache.http.operations.metrics import Exposition
from kycache.http.reads.answers import Answers, Outcome, Request
from kycache.http.reads.counts import Counts
from kycache.http.reads.demands import Wait
from kycache.http.reads.exports import Export, Exports
from kycache.http.reads.problems import Answer, Kind, Problem
from kycache.http.reads.query import parse_parameters
from kycache.http.reads.slow import Slow, SlowLane
from kycache.http.reads.watch import Watch, settle
from kycache.model.errors import whereabouts
from kycache.model.view import Kind as TypeKind
from kycache.model.view import View

from .gate import AT_END, Gate

BODY_BYTES_MAX = 16 * 1024
"""No route takes a body. What a client sends beside its request is held no further than this."""

log = logging.getLogger("kycache.http")


class Parts(NamedTuple):
    """What the application is put together from."""

    answers: Answers
    exports: Exports
    watch: Watch
    health: Health
    exposition: Exposition
    counts: Counts
    freshness_wait_s: float


def create_app(view: View, parts: Parts) -> QuartTrio:
    """The application over one data directory."""
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.strict_slashes = True
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    if view.root.key_type.kind is TypeKind.TEXT:
        app.url_map.converters["default"] = _TextId
    _add_reads(app, parts)
    _add_operations(app, parts)
    _add_documents(app, build_openapi(view))
    _add_errors(app)
    _count_requests(app, parts.counts)
    app.asgi_app = Gate(app.asgi_app, parts.counts)  # type: ignore[method-assign]
    return app


def _add_reads(app: QuartTrio, parts: Parts) -> None:
    slow = SlowLane()

    async def settled(answer: Callable[[Request], Outcome | Slow], user: str = "") -> Response:
        ask = partial(answer, _asked(user))
        return _respond(await slow.finished(lambda: settle(ask, parts.watch, parts.freshness_wait_s)))

    @app.get("/users")
    async def users() -> Response:
        return await settled(parts.answers.users)

    @app.get("/users/export")
    async def export() -> Response:
        asked = _asked()
        ask: Callable[[], Answer | Wait | Export] = partial(parts.answers.export, asked)
        found: Answer | Export = await settle(ask, parts.watch, parts.freshness_wait_s)
        if isinstance(found, Answer):
            return _respond(found)
        headers = Headers(list(found.headers))
        if request.method == "HEAD":
            return Response(_Pieces(iter(())), 200, headers)
        at_end = cast("ExitStack", request.scope["extensions"][AT_END])
        at_end.enter_context(parts.exports.running(found))
        response = Response(_Pieces(parts.exports.counted(found)), 200, headers)
        response.timeout = None  # it may take as long as the client reads
        return response

    @app.get("/users/<user_id>")
    async def user(user_id: str) -> Response:
        return await settled(parts.answers.user, user_id if _is_text(request.scope["raw_path"]) else "")


def _asked(user: str = "") -> Request:
    return Request(request.query_string, request.headers.getlist, request.headers.keys(), user)


def _is_text(path: bytes) -> bool:
    """Whether a path is UTF-8. Where it is not, what was made of it is the id of somebody else, or of nobody."""
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return False
    return True


class _TextId(BaseConverter):
    """An id that may be any text: a slash in it comes as `%2F`, which is decoded before routes are looked at."""

    regex = "(?s:.+)"
    part_isolating = False


class _Pieces:
    """A stream's pieces, each made when the one before it was taken."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()  # the other requests' turn
        piece = next(self._pieces, None)
        if piece is None:
            raise StopAsyncIteration
        return piece


def _add_operations(app: QuartTrio, parts: Parts) -> None:
    @app.get("/livez")
    async def livez() -> Response:
        return _plain(parts.health.live())

    @app.get("/readyz")
    async def readyz() -> Response:
        return _respond(parts.health.readiness(request.query_string))

    @app.get("/metrics")
    async def metrics() -> Response:
        return _plain(parts.exposition.answer())


def _add_documents(app: QuartTrio, openapi: dict[str, Any]) -> None:
    document = Answer(
        200, (("Content-Type", "application/json"), ("Cache-Control", "no-cache")), msgspec.json.encode(openapi)
    )
    page = docs_answer(openapi)

    @app.get("/openapi.json")
    async def openapi_json() -> Response:
        return _plain(document)

    @app.get("/docs")
    async def docs() -> Response:
        return _plain(page)


def _add_errors(app: QuartTrio) -> None:
    @app.errorhandler(Problem)
    async def problem(error: Problem) -> Response:
        return _respond(error.answer())

    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        return _respond(_of_framework(error).answer())

    @app.errorhandler(Exception)
    async def internal(error: Exception) -> Response:
        _log_unexpected(error)
        return _respond(Problem(Kind.INTERNAL, "Something went wrong here; it is not your request.").answer())


def _of_framework(error: HTTPException) -> Problem:
    """What the framework refused, in our words."""
    if error.code == 404:
        return Problem(Kind.NO_SUCH_ROUTE, "There is no such route; see /openapi.json.")
    if error.code == 405:
        return Problem(
            Kind.METHOD_NOT_ALLOWED, "This route is for GET and HEAD.", headers=(("Allow", "GET, HEAD"),)
        )
    if error.code is not None and error.code < 500:
        return Problem(Kind.MALFORMED_REQUEST, "The request cannot be understood.")
    _log_unexpected(error)
    return Problem(Kind.INTERNAL, "Something went wrong here; it is not your request.")


def _log_unexpected(error: Exception) -> None:
    """Without the path, which may hold personal data."""
    route = request.url_rule.rule if request.url_rule else "other"
    log.error("failed while answering %s: %s", route, whereabouts(error))


def _count_requests(app: QuartTrio, counts: Counts) -> None:
    @app.before_request
    async def start() -> None:
        g.started = time.perf_counter()

    @app.after_request
    async def count(response: Response) -> Response:
        route = request.url_rule.rule if request.url_rule else "other"
        counts.request(route, response.status_code, time.perf_counter() - g.started)
        return response


def _plain(answer: Answer) -> Response:
    """An answer of a route that takes no parameters."""
    parse_parameters(request.query_string, ())
    return _respond(answer)


def _respond(answer: Answer) -> Response:
    response = Response(answer.body, answer.status, Headers(list(answer.headers)))
    if answer.status == 304:  # it has no body to describe, and 0 is not the length of the 200
        for name in ("Content-Type", "Content-Length"):
            response.headers.pop(name, None)
    return response
