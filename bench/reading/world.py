"""The data that all sides hold, and the check that they answer the same with it."""

# pyright: reportMissingModuleSource=false
# A check need not have the bench extra.
from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

from shards import Shards

from kycache.demo.population.people import Person, people

from .load import Requests
from .rows import CURSORS, SEED, Row, World
from .sides import Side, client, fetched

ROWS_OF_ONE = 40
WITH_FORTY_ROWS = 100
SPARE_FOR_EACH = 20
"""People whose KYC records and accounts, some four each, are given to one of those with 40 rows."""

BEAT_S = 0.5
"""A source's heartbeat: each commits on every shard, so that what is kept about a shard is made again."""

COMPARED = 25
"""Requests of each row that every side is asked before the first round."""

REDIS_READY_S = 20.0
Headers = Mapping[str, str]


def crowd(users: int) -> list[Person]:
    """The demo's people; the last hundred of them have 40 rows: their own, and those of others who stay out."""
    everyone = list(people(users + SPARE_FOR_EACH * WITH_FORTY_ROWS))
    spare = chain.from_iterable(
        [*((True, row) for row in person.kyc), *((False, row) for row in person.accounts)]
        for person in everyone[users:]
    )
    made = everyone[: users - WITH_FORTY_ROWS]
    for person in everyone[users - WITH_FORTY_ROWS : users]:
        kyc, accounts = list(person.kyc), list(person.accounts)
        while 1 + len(kyc) + len(accounts) < ROWS_OF_ONE:
            of_kyc, row = next(spare)
            (kyc if of_kyc else accounts).append((row[0], person.user[0], *row[2:]))
        made.append(Person(person.user, tuple(kyc), tuple(accounts)))
    return made


@contextmanager
def beating(shards: Shards) -> Iterator[None]:
    """Commits heartbeats, as an idle source sends them, until the block ends."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            shards.commit([])

    thread = threading.Thread(target=beat, name="beats")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def discover(side: Side, everyone: Sequence[Person]) -> World:
    """Ask kycache for every profile and some pages: what the rows ask for, and what Redis is filled with."""
    users = [person.user[0] for person in everyone]
    tags: dict[str, str] = {}
    bodies: dict[str, bytes] = {}
    lsn = ""
    with client(side) as asked:
        for user in users:
            status, bodies[user], headers = fetched(asked, f"/users/{user}", {})
            assert status == 200, f"{side.name}: {status} for a user that was written"
            tags[user], lsn = headers["ETag"], headers["Kycache-Watermark"]
        first = json.loads(fetched(asked, "/users", {})[1])
        pages = -(-first["page"]["total"] // first["page"]["size"])
        before = random.Random(SEED).sample(range(1, pages), min(CURSORS, pages - 1))
        cursors = [
            (number + 1, json.loads(fetched(asked, f"/users?page={number}", {})[1])["page"]["next"])
            for number in before
        ]
    return World(users, users[-WITH_FORTY_ROWS:], tags, bodies, lsn, pages, cursors)


def warm(side: Side, world: World) -> None:
    """Ask for every profile once, so that one that keeps bodies has them; they must be the known ones."""
    with client(side) as asked:
        for user in world.users:
            assert fetched(asked, f"/users/{user}", {})[1] == world.bodies[user], f"{side.name}: another body"


def fill_redis(port: int, world: World) -> None:
    """The bodies, under the users' ids."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotConnected

    with Redis(port=port) as redis:
        deadline = time.monotonic() + REDIS_READY_S
        while True:
            with suppress(NotConnected):
                redis.ping()
                break
            if time.monotonic() > deadline:
                raise SystemExit("redis-server does not come up")
            time.sleep(0.05)
        redis.mset(dict(world.bodies))


def compare(row: Row, world: World, ours: Sequence[Side], peers: Mapping[str, Side]) -> int:
    """Ask every side the same; how many requests were compared.

    Raises:
        SystemExit: a side answers something else than the first one does.
    """
    asked, theirs = row.ours(world), row.of_peers(world)
    places = [asked.order[at * len(asked.order) // COMPARED] for at in range(COMPARED)]
    for place in dict.fromkeys(places):
        expected = _answer(ours[0], asked, place)
        for side in ours[1:]:
            _same(row, side, _answer(side, asked, place), expected)
        for name, side in peers.items():
            if name != "hello":  # it has no data
                _same(row, side, _answer(side, theirs, place), expected)
        if not row.of_list and expected[0] == 200 and asked.paths[place].startswith("/users/"):
            user = asked.paths[place].removeprefix("/users/")
            assert expected[1] == world.bodies[user], f"{row.name}: another body than before"
    return len(set(places))


def _answer(side: Side, requests: Requests, place: int) -> tuple[int, bytes]:
    status, body, _ = side.get(requests.paths[place], requests.headers_of(place))
    return status, body


def _same(row: Row, side: Side, got: tuple[int, bytes], expected: tuple[int, bytes]) -> None:
    if expected[0] not in (200, 304) or got[0] not in (200, expected[0]):
        raise SystemExit(f"{row.name}: {side.name} answers {got[0]}, kycache {expected[0]}")
    if expected[0] == 304 or b'"live"' in got[1] or not got[1]:
        return  # peers have no tag and send the body; each has a /livez of its own
    if _compared(row, got[1]) != _compared(row, expected[1]):
        raise SystemExit(f"{row.name}: {side.name} answers with another body than kycache")


def _compared(row: Row, body: bytes) -> Any:
    """What must be equal: a profile's bytes; a page's rows and total, since cursors and `asOf` are ours alone."""
    if not row.of_list:
        return body
    page = json.loads(body)
    return page["data"], page["page"]["total"], page["page"]["size"]
