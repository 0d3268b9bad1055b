"""The Quart application: routes handed to the driver, and every other outcome as a problem.

Nothing is decided here. What a framework would do by itself (HTML errors, redirects for slashes, an OPTIONS
answer, a traceback in the log with the request's values) is switched off.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import cast
from urllib.parse import urlsplit

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter

from kycache.http.exchange.driver import Driver, Route
from kycache.http.exchange.problems import Answer, Kind, Problem
from kycache.http.exchange.request import Request, RequestHeaders
from kycache.model.view import Kind as TypeKind
from kycache.model.view import View

from .gate import AT_END, Gate

BODY_BYTES_MAX = 16 * 1024
"""No route takes a body. What a client sends beside its request is held no further than this."""


def create_app(view: View, routes: Iterable[Route], driver: Driver) -> QuartTrio:
    """The application over one data directory."""
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES_MAX
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.strict_slashes = True
    app.url_map.redirect_defaults = False
    app.url_map.merge_slashes = False
    if view.root.key_type.kind is TypeKind.TEXT:
        app.url_map.converters["default"] = _TextId
    for route in routes:
        _add_route(app, route, driver)
    _add_errors(app, driver)
    app.asgi_app = Gate(app.asgi_app, driver)  # type: ignore[method-assign]
    return app


def _add_route(app: QuartTrio, route: Route, driver: Driver) -> None:
    async def view(**_parts: str) -> Response:  # of the path: the driver takes it as it was sent
        at_end = cast("ExitStack", request.scope["extensions"][AT_END])
        return _response(await driver.answer(route, _facts(), at_end))

    app.add_url_rule(route.name, endpoint=route.name, view_func=view, methods=["GET"])


def _facts() -> Request:
    path: bytes = request.scope["raw_path"]
    if not path.startswith(b"/"):  # an address with its scheme, as proxies are sent
        path = urlsplit(path).path
    head = request.method == "HEAD"
    return Request(path, request.query_string, RequestHeaders(request.headers.items()), head)


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


def _add_errors(app: QuartTrio, driver: Driver) -> None:
    @app.errorhandler(HTTPException)
    async def http_error(error: HTTPException) -> Response:
        if error.code is not None and error.code < 500:
            return _response(driver.refuse(_of_framework(error), route=_route(), head=request.method == "HEAD"))
        return await internal(error)

    @app.errorhandler(Exception)
    async def internal(error: Exception) -> Response:
        return _response(driver.unexpected(error, route=_route(), head=request.method == "HEAD"))


def _route() -> str:
    return request.url_rule.rule if request.url_rule else "other"


def _of_framework(error: HTTPException) -> Problem:
    """What the framework refused, in our words."""
    if error.code == 404:
        return Problem(Kind.NO_SUCH_ROUTE, "There is no such route; see /openapi.json.")
    if error.code == 405:
        return Problem(
            Kind.METHOD_NOT_ALLOWED, "This route is for GET and HEAD.", headers=(("Allow", "GET, HEAD"),)
        )
    return Problem(Kind.MALFORMED_REQUEST, "The request cannot be understood.")


def _response(answer: Answer) -> Response:
    """The answer as the framework sends it, with its own headers and no others."""
    body = answer.body if answer.stream is None else _Pieces(answer.stream.pieces())
    response = Response(body, answer.status)
    response.headers = Headers(list(answer.headers))
    if answer.stream is not None:
        response.timeout = None  # it may take as long as the client reads
    return response
