"""A peer of `bench/reads.py`: FastAPI answers with the JSON that Redis has under the user's id.

    REDIS_PORT=PORT uvicorn --app-dir bench/peers fastapi_redis:app

It does the least that such a service can: no check of the id, no ETag, no freshness. The bytes go out as they are.
"""

# pyright: reportMissingModuleSource=false
# A check need not have the bench extra.
from __future__ import annotations

import os

from fastapi import FastAPI, Response
from redis.asyncio import Redis

CONNECTIONS_MAX = 512
"""More than requests come at once. With redis-py's own limit, 100, a stalled machine makes some of them errors."""

app = FastAPI(openapi_url=None)
_redis = Redis(port=int(os.environ["REDIS_PORT"]), max_connections=CONNECTIONS_MAX)


@app.get("/users/{user_id}")
async def user(user_id: str) -> Response:
    body = await _redis.get(user_id)
    if body is None:
        return Response(b'{"detail":"no such user"}', 404, media_type="application/json")
    return Response(body, media_type="application/json")


@app.get("/livez")
async def livez() -> Response:
    return Response(b'{"live":true}', media_type="application/json")
