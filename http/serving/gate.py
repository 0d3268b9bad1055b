"""The gate in front of the application: requests that are not safe to understand, and protocols not spoken here.

A request with both Content-Length and Transfer-Encoding may smuggle a second one: h11 reads on and would answer it
(seen), so the connection is closed behind a 400. Every way into the service must do the same.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import trio

from kycache.http.exchange.driver import Driver
from kycache.http.exchange.problems import Answer, Kind, Problem
from kycache.http.reads.exports import CutOff

BODY_S_MAX = 1.0
"""How long the body of a refused request is waited for."""

AT_END = "kycache.at_end"
"""The extension of a request's scope that holds an `ExitStack`. What a stream holds is given back by it: the
client may leave between the route's return and the stream's first byte, when no code of either runs."""

IDS = b"/users/"
"""Behind it, in an id that is any text, a slash is written `%2F`; nowhere else is it one."""

UNTAKEN_S_MAX = 120.0
"""After so long without taking a piece of an answer a client of HTTP/2 counts as gone. That its window is shut
is no matter of the kernel's, which has the same bound for other clients (`listen`)."""

Application = Callable[[Any, Any, Any], Awaitable[None]]


class _NotTaken(Exception):
    """The client takes nothing: no end can be sent either."""


class Gate:
    """ASGI middleware."""

    def __init__(self, application: Application, driver: Driver) -> None:
        self._application = application
        self._driver = driver

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand the request on, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        problem = _refused(scope) if scope["type"] == "http" else None
        if problem is None:
            exchange = _Exchange(receive, send)
            if scope["type"] == "http":
                await self._answer(scope, exchange)
            else:
                await self._application(scope, exchange.receive, exchange.send)
        else:
            answer = self._driver.refuse(problem, head=scope["method"] == "HEAD")
            await _read_whole(receive)
            await _send(answer, send)

    async def _answer(self, scope: Any, exchange: "_Exchange") -> None:
        """Let the application answer; what it left to be done at the end is done, however it ends."""
        # Nobody reads the host, and Werkzeug raises on what IDNA refuses before any handler can answer.
        headers = [h for h in scope["headers"] if h[0].lower() != b"host"]
        with ExitStack() as at_end:
            scope = {**scope, "headers": headers, "extensions": {**scope["extensions"], AT_END: at_end}}
            try:
                await self._application(scope, exchange.receive, exchange.send)
            except* _NotTaken:
                pass
            except* CutOff:
                # Returning without an end makes Hypercorn close an HTTP/1 connection: the last chunk is missing.
                # An HTTP/2 stream it would leave open for ever; there only the last line is missing.
                if scope["http_version"] == "2":
                    await exchange.send({"type": "http.response.body", "body": b"", "more_body": False})


class _Exchange:
    """Keeps the end of an answer from the application.

    Hypercorn reports a disconnect also when it has sent the whole answer, from within the application's last send.
    Quart-trio cancels itself upon it, and with itself the rest of that send: the connection would neither be
    closed nor get its idle timeout again (seen: with `Connection: close` the client waits for ever). So once the
    last piece is on its way, what comes in is read and dropped; Quart ends this receiving when its send returns.
    """

    def __init__(self, receive: Any, send: Any) -> None:
        self._receive = receive
        self._send = send
        self._answered = False

    async def receive(self) -> Any:
        message = await self._receive()
        while self._answered:
            if message["type"] == "http.disconnect":
                await trio.sleep_forever()
            message = await self._receive()
        return message

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self._answered = True
        with trio.move_on_after(UNTAKEN_S_MAX) as sending:
            await self._send(message)
        if sending.cancelled_caught:
            raise _NotTaken


def _refused(scope: Any) -> Problem | None:
    names = {name.lower() for name, _ in scope["headers"]}
    if b"content-length" in names and b"transfer-encoding" in names:
        return _closing("Content-Length and Transfer-Encoding must not both be sent.")
    target = scope["raw_path"]
    if target.startswith(b"//"):  # Werkzeug would drop all slashes but one
        return _no_such_route()
    if not target.startswith(b"/") and not _absolute(scope):
        return _closing("The request target is not a path.")
    before, slash, _ = target.lower().partition(b"%2f")
    if slash and IDS not in before:  # it would pass for a slash of the route
        return _no_such_route()
    return None


def _absolute(scope: Any) -> bool:
    """Whether the request target is an address with a scheme, as proxies are sent, that can be taken apart."""
    try:
        return "://" in scope["path"] and bool(urlsplit(scope["path"]).scheme)
    except ValueError:
        return False


def _no_such_route() -> Problem:
    return Problem(Kind.NO_SUCH_ROUTE, "There is no such route; see /openapi.json.")


def _closing(detail: str) -> Problem:
    return Problem(Kind.MALFORMED_REQUEST, detail, headers=(("Connection", "close"),))


async def _read_whole(receive: Any) -> None:
    """Let Hypercorn come to the end of the request, whose reading goes on beside us. An answer with
    `Connection: close` makes h11 refuse what follows, and the connection is gone before the answer is sent (seen).
    """
    with trio.move_on_after(BODY_S_MAX):
        while (await receive()).get("more_body", False):
            pass


async def _send(answer: Answer, send: Any) -> None:
    headers = [(name.lower().encode(), value.encode("latin1")) for name, value in answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
