"""The gate in front of the application: requests that are not safe to understand, and protocols not spoken here.

A request with both Content-Length and Transfer-Encoding may smuggle a second one: h11 reads on and would answer it
(seen), so the connection is closed behind a 400. Every way into the service must do the same.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from .problems import Answer, Kind, Problem
from .tally import Counts

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Gate:
    """ASGI middleware."""

    def __init__(self, application: Application, counts: Counts) -> None:
        self._application = application
        self._counts = counts

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Hand the request on, or refuse it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        problem = _refused(scope) if scope["type"] == "http" else None
        if problem is None:
            await self._application(scope, receive, send)
        else:
            self._counts.request("other", problem.kind.status, 0.0)
            await _send(problem.answer(), send)


def _refused(scope: Any) -> Problem | None:
    names = {name.lower() for name, _ in scope["headers"]}
    if b"content-length" in names and b"transfer-encoding" in names:
        return _closing("Content-Length and Transfer-Encoding must not both be sent.")
    target = scope["raw_path"]
    if not target.startswith(b"/") and b"://" not in target:
        return _closing("The request target is not a path.")
    return None


def _closing(detail: str) -> Problem:
    return Problem(Kind.MALFORMED_REQUEST, detail, headers=(("Connection", "close"),))


async def _send(answer: Answer, send: Any) -> None:
    headers = [(name.lower().encode(), value.encode("latin1")) for name, value in answer.headers]
    headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": False})
