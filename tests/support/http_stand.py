"""A data directory with real shards, and the real HTTP server over it, on a free loopback port."""

import json
import random
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.generations.create import create_store
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits
from kycache.actors.rules.state import Identity, Position
from kycache.actors.store.fence import Fence
from kycache.actors.store.store import FORMAT, Store
from kycache.http.serving.server import serve
from kycache.http.serving.settings import HttpSettings
from kycache.model.change import Beat, Change, Item, Origin, Poison, Scope, Snapshot
from kycache.model.definition import default_view
from kycache.model.partition import partition_of
from kycache.model.scalars.times import INFINITY
from kycache.model.values import Value
from kycache.model.view import View
from support.waiting import until

TOPIC = "kyc.changes"
TOPIC_ID = "00000000-0000-0000-0000-000000000001"
MAP_BYTES = 1 << 28
SNAPSHOT_LSN = 1000
ENDS_AT_ONCE = HttpSettings(port=0, drain_s=0.0, grace_s=2.0, freshness_wait_s=0.05, list_ttl_s=0.0)
"""Without a cache of pages: what was just written is seen, whatever a test asked before."""
WAITS_LONG = replace(ENDS_AT_ONCE, freshness_wait_s=10.0)


@dataclass
class User:
    """A row of `users`, and the statuses of its KYC records, oldest first."""

    number: int
    first: str | None = "Ada"
    last: str | None = "Lovelace"
    region: str | None = "EMEA"
    created_us: int | None = 0
    statuses: list[str] = field(default_factory=list)
    more: dict[str, Value] = field(default_factory=dict)
    """Columns of another view than the packaged one."""

    @property
    def key(self) -> bytes:
        return self.number.to_bytes(16, "big")

    @property
    def id(self) -> str:
        return str(uuid.UUID(bytes=self.key))

    @property
    def status(self) -> str:
        return self.statuses[-1] if self.statuses else "NONE"

    def row(self) -> dict[str, Any]:
        """The list entry."""
        return {"userId": self.id, "firstName": self.first, "lastName": self.last, "kycStatus": self.status}


class Stand:
    """The shards of a data directory, and what a writer does to them."""

    def __init__(self, root: Path, shards: int = 3, view: View | None = None) -> None:
        self.view = view or default_view()
        self.shards = shards
        self.directory = DataDirectory(root)
        self.environments = Environments(readonly=False, map_size=MAP_BYTES)
        self.limits = Limits()
        self.believed_s = 3600.0
        """How far ahead the source's clock is believed: a test may say that a change is newer than any other."""
        self.stores: list[Store] = []
        self.offsets = [0] * shards
        self.lsn = SNAPSHOT_LSN

    def create(self) -> None:
        """Make every shard, empty."""
        self.directory.found(self.view.hash, TOPIC, TOPIC_ID, self.shards)
        for number in range(self.shards):
            folder = self.directory.shard(number)
            folder.prepare()
            generation = folder.next_generation()
            identity = Identity(FORMAT, number, self.shards, self.view.hash)
            position = Position(TOPIC, TOPIC_ID, number, 0)
            create_store(self.environments, generation, identity, position, from_start=True)
            folder.flip(generation)
            self.stores.append(
                Store(
                    self.environments,
                    generation,
                    self.view,
                    identity,
                    self.directory.add_doubts,
                    clock=lambda: time.time() + self.believed_s,
                )
            )

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def router(self) -> Router:
        return Router(self.directory, self.environments, self.view, self.limits)

    def shard_of(self, user: User) -> int:
        return partition_of(user.id.encode(), self.shards)

    def apply(self, shard: int, items: list[Item]) -> None:
        """One batch of one shard."""
        self.offsets[shard] += len(items)
        position = Position(TOPIC, TOPIC_ID, shard, self.offsets[shard])
        applied = self.stores[shard].apply(items, position, self.offsets[shard], Fence())
        assert applied is not None
        assert applied.halt is None

    def load(self, users: Iterable[User], *, ts_ms: int | None = None, heartbeat: bool = True) -> None:
        """A whole snapshot of these users, and one beat on each shard: bootstrapped, and fresh (or of `ts_ms`)."""
        self.create()
        origin = Origin(Snapshot.WHOLE, None, SNAPSHOT_LSN, now_ms(), None)
        batches: list[list[Item]] = [[] for _ in range(self.shards)]
        for shard in range(self.shards) if heartbeat else ():
            batches[shard].append(Beat(0, origin, ()))
        for user in users:
            shard = self.shard_of(user)
            batches[shard] += self._changes(user, origin, self.offsets[shard] + len(batches[shard]))
        for shard, batch in enumerate(batches):
            if batch:
                self.apply(shard, batch)
        if heartbeat:
            self.beat(ts_ms=ts_ms)

    def put(self, user: User, *, ts_ms: int | None = None) -> int:
        """A transaction that writes a user; returns an LSN that reading one's own write asks for."""
        origin = self._streamed(ts_ms)
        shard = self.shard_of(user)
        self.apply(shard, self._changes(user, origin, self.offsets[shard]))
        return origin.lsn

    def delete(self, user: User) -> None:
        """A transaction that deletes a user."""
        shard = self.shard_of(user)
        change = Change(self.offsets[shard], self._streamed(None), 0, user.id.encode(), user.key, user.key, None)
        self.apply(shard, [change])

    def beat(self, shards: Iterable[int] | None = None, *, ts_ms: int | None = None) -> int:
        """A heartbeat on each shard; returns its LSN."""
        origin = self._streamed(ts_ms)
        for shard in range(self.shards) if shards is None else shards:
            self.apply(shard, [Beat(self.offsets[shard], origin, ())])
        return origin.lsn

    def poison(self, shard: int, scope: Scope, user: User | None = None) -> None:
        """A record that cannot be decoded."""
        key = None if user is None else user.key
        offset = self.offsets[shard]
        self.apply(shard, [Poison(offset, 0, b"k", b"v", "not JSON", scope, key, None if user is None else 0)])

    def _streamed(self, ts_ms: int | None) -> Origin:
        self.lsn += 100
        return Origin(Snapshot.STREAMED, self.lsn - 50, self.lsn, now_ms() if ts_ms is None else ts_ms, self.lsn)

    def _changes(self, user: User, origin: Origin, offset: int) -> list[Item]:
        given: dict[str, Value] = {
            "user_id": user.key,
            "first_name": user.first,
            "last_name": user.last,
            "region": user.region,
            "created_at": user.created_us,
            **user.more,
        }
        rows: list[tuple[int, Value, dict[str, Value]]] = [(0, user.key, given)]
        for place, status in enumerate(user.statuses):
            key = user.key[:-1] + bytes([place])
            rows.append((1, key, {"kyc_id": key, "status": status, "updated_at": place}))
        tables = self.view.tables
        return [
            Change(
                offset + place,
                origin,
                table,
                user.id.encode(),
                user.key,
                key,
                tuple(values.get(c.name) for c in tables[table].columns),
            )
            for place, (table, key, values) in enumerate(rows)
        ]


def now_ms() -> int:
    return int(time.time() * 1000)


async def waiting(client: httpx.AsyncClient, count: int) -> None:
    """Until so many requests wait for freshness."""
    await until_metric(client, f"kycache_http_freshness_waiting {count}.0")


async def until_metric(client: httpx.AsyncClient, line: str) -> None:
    """Until `/metrics` shows a line."""

    async def shown() -> bool:
        return f"{line}\n" in (await client.get("/metrics")).text

    await until(shown)


@asynccontextmanager
async def serving(stand: Stand, settings: HttpSettings = ENDS_AT_ONCE) -> AsyncIterator[httpx.AsyncClient]:
    """The server over the stand, and a client of it."""
    router = stand.router()
    try:
        async with trio.open_nursery() as nursery:
            url: str = await nursery.start(partial(serve, router, settings, stand.directory))
            async with httpx.AsyncClient(base_url=url, timeout=10, verify=False) as client:
                yield client
            nursery.cancel_scope.cancel()
    finally:
        router.close()


def problem(response: httpx.Response, status: int, slug: str, parameter: str | None = None) -> dict[str, Any]:
    """The problem a response must be."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    body: dict[str, Any] = json.loads(response.content)
    assert body["type"] == f"urn:kycache:problem:{slug}"
    assert body["status"] == status
    assert body.get("parameter") == parameter
    return body


LABELS = ["PENDING", "VERIFIED", "REJECTED", "EXPIRED"]
REGIONS = ["EMEA", "APAC", "é & ü", None]


def people(count: int, seed: int = 1) -> list[User]:
    """Users with equal, absent and infinite instants among them."""
    rng = random.Random(seed)
    return [
        User(
            rng.getrandbits(128),
            first=rng.choice(["Ada", "Ño", "x\u2028y", None]),
            region=rng.choice(REGIONS),
            created_us=rng.choice([0, 1, 5, -7, rng.randrange(10**15), INFINITY, None]),
            statuses=rng.choices(LABELS, k=rng.randint(0, 2)),
        )
        for _ in range(count)
    ]


OTHER_VIEW = """
name = "shop"
[root]
table = "customers"
key = "id"
[root.columns]
id = { name = "customerId", type = "int" }
name = { name = "contact.name", type = "text", privacy = "pii" }
tier = { name = "tier", type = "enum(GOLD,TIN)" }
since = { name = "since", type = "timestamp" }
extra = { name = "extra", type = "json" }
[list]
order = "since"
fields = ["customerId", "tier"]
filters = ["tier"]
"""
