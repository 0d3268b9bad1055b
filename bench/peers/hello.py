"""A peer of `bench/reads.py`: a bare ASGI application with a body as large as a profile. No framework, no data.

uvicorn --app-dir bench/peers hello:app
"""

from __future__ import annotations

from typing import Any

BODY_BYTES = 1_150
_BODY = b'{"hello":"' + b"x" * (BODY_BYTES - 12) + b'"}'
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(BODY_BYTES).encode())],
}
_END = {"type": "http.response.body", "body": _BODY}


async def app(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send(_START)
        await send(_END)
