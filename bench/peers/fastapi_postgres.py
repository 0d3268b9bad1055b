"""A peer of `bench/reads.py`: FastAPI answers a page of the list from PostgreSQL, with a join and OFFSET.

    POSTGRES_DSN=DSN [TUNED=1] uvicorn --app-dir bench/peers fastapi_postgres:app

The same rows and total as kycache's page, without cursors and freshness. The user's status is that of the latest
KYC record, so it is joined: to the rows of the page alone, where the status is not itself asked for.
Prepared statements, and a pool whose connections stay. The rows go to FastAPI as dictionaries, as its users do it.

Tuned: msgspec makes the JSON, and the ids of a far page come from an index alone.
"""

# pyright: reportMissingModuleSource=false
# A check need not have the bench extra.
from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import msgspec
from fastapi import FastAPI, Query, Response

CONNECTIONS = 8
"""More only wait for the one core."""

TUNED = bool(os.environ.get("TUNED"))
FAR = 10
"""Pages from here on skip so many rows that a second look at those of the page costs less."""

_LATEST = """LEFT JOIN LATERAL (
    SELECT k.status FROM kyc_records k WHERE k.user_id = u.user_id
    ORDER BY k.updated_at DESC, k.kyc_id DESC LIMIT 1) latest ON true"""
_STATUS = "coalesce(latest.status::text, 'NONE')"
_SHOWN = f"""SELECT u.user_id AS "userId", u.first_name AS "firstName",
    u.last_name AS "lastName", {_STATUS} AS "kycStatus" """
_ORDER = "ORDER BY u.created_at DESC, u.user_id DESC"


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    global _pool
    async with asyncpg.create_pool(
        os.environ["POSTGRES_DSN"], min_size=CONNECTIONS, max_size=CONNECTIONS, max_inactive_connection_lifetime=0
    ) as _pool:
        yield


_pool: asyncpg.Pool
app = FastAPI(openapi_url=None, lifespan=_lifespan)


@app.get("/users", response_model=None)
async def users(
    page: int = 1,
    size: int = 50,
    status: Annotated[str | None, Query(alias="kycStatus")] = None,
    region: str | None = None,
) -> Response | dict[str, Any]:
    rows_of, count_of, asked = _questions(status, region, far=page >= FAR)
    async with _pool.acquire() as connection:
        rows = await connection.fetch(rows_of, size, (page - 1) * size, *asked)
        total = await connection.fetchval(count_of, *asked)
    around = {"size": size, "number": page, "total": total, "next": None, "prev": None}
    answer = {"data": [dict(row) for row in rows], "page": around, "asOf": None}
    return Response(msgspec.json.encode(answer), media_type="application/json") if TUNED else answer


@app.get("/livez")
async def livez() -> Response:
    return Response(b'{"live":true}', media_type="application/json")


def _questions(status: str | None, region: str | None, *, far: bool) -> tuple[str, str, list[str]]:
    """The query of the rows, which takes LIMIT and OFFSET first; that of the total; what both are asked."""
    asked = [value for value in (region, status) if value is not None]

    def where(first: int) -> str:
        tests = []
        if region is not None:
            tests.append(f"u.region = ${first}")
        if status is not None:
            tests.append(f"{_STATUS} = ${first + len(tests)}")
        return f"WHERE {' AND '.join(tests)}" if tests else ""

    count_of = f"SELECT count(*) FROM users u {_LATEST if status is not None else ''} {where(1)}"
    if status is not None:
        return f"{_SHOWN} FROM users u {_LATEST} {where(3)} {_ORDER} LIMIT $1 OFFSET $2", count_of, asked
    found = f"FROM users u {where(3)} {_ORDER} LIMIT $1 OFFSET $2"
    page = f"(SELECT u.* {found}) u"
    if TUNED and far:
        page = f"(SELECT u.user_id {found}) ids JOIN users u USING (user_id)"
    return f"{_SHOWN} FROM {page} {_LATEST} {_ORDER}", count_of, asked
