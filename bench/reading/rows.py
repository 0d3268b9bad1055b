"""The rows of `bench/reads.py`: what each asks, of which settings of kycache, beside which peers."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .load import Requests

SEED = 20_261_130
SKEW = 7.21
"""Users are drawn by u ** 7.21: a fifth of them gets four fifths of the requests (0.2 ** (1 / 7.21) = 0.8)."""

DRAWS = 100_000
"""Then the same again: some seconds of the fastest side."""

HOT_USERS = 100
"""They get half of the requests where half of the bodies are kept."""

SMALL_CACHE_MIB = 2
"""Holds the hot users by far, and by far not all: users asked in turn are gone before they are asked again."""

OTHER_ROUTE_SHARE = 1 / 200
CURSORS = 40
FILTER = "kycStatus=VERIFIED&region=EMEA"
PAGE_FAR = 100
BEARER_CHARACTERS = 700

CHROME = {
    "Connection": "keep-alive",
    "sec-ch-ua-platform": '"Linux"',
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 "
    "Safari/537.36",
    "Accept": "application/json, text/plain, */*",
    "sec-ch-ua": '"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "Origin": "https://backoffice.example.com",
    "Sec-Fetch-Site": "same-site",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
    "Referer": "https://backoffice.example.com/customers/search?status=VERIFIED",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en-US;q=0.9,en;q=0.8,de;q=0.7",
    "Priority": "u=1, i",
}
"""What Chrome 142 sends with a `fetch` of another origin of the same site."""


@dataclass(frozen=True)
class World:
    """What there is to be asked for, as kycache answered it before the first row."""

    users: Sequence[str]
    """All, those with 40 rows included."""
    with_forty_rows: Sequence[str]
    tags: Mapping[str, str]
    bodies: Mapping[str, bytes]
    lsn: str
    """Covered by every answer since."""
    pages: int
    cursors: Sequence[tuple[int, str]]
    """Numbers of some pages, and the cursor that leads to each."""


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    name: str
    label: str
    peers: Sequence[str]
    ours: Callable[[World], Requests]
    theirs: Callable[[World], Requests] | None = None
    """What peers are asked, where they know no cursor."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Of `[http]`."""

    def of_peers(self, world: World) -> Requests:
        """What peers are asked."""
        return (self.theirs or self.ours)(world)

    @property
    def of_list(self) -> bool:
        return self.name.startswith("list-")


def skewed(rng: random.Random, count: int) -> list[int]:
    """Places among so many, a few of them most often."""
    return [int(count * rng.random() ** SKEW) for _ in range(DRAWS)]


def _detail(users: Sequence[str]) -> list[str]:
    return [f"/users/{user}" for user in users]


def _kept(world: World) -> Requests:
    return Requests(_detail(world.users), skewed(random.Random(SEED), len(world.users)))


def _never_kept(world: World) -> Requests:
    order = list(range(len(world.users)))
    random.Random(SEED).shuffle(order)
    return Requests(_detail(world.users), order)


def _half_kept(world: World) -> Requests:
    rng = random.Random(SEED)
    others = list(range(HOT_USERS, len(world.users)))
    rng.shuffle(others)
    order: list[int] = []
    while others:
        order.append(rng.randrange(HOT_USERS) if rng.random() < 0.5 else others.pop())
    return Requests(_detail(world.users), order)


def _not_modified(world: World) -> Requests:
    return replace(_kept(world), own=[{"If-None-Match": world.tags[user]} for user in world.users])


def _min_lsn(world: World) -> Requests:
    return replace(_kept(world), headers={"Kycache-Min-LSN": world.lsn})


def _browser(world: World) -> Requests:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = "".join(random.Random(SEED).choices(letters, k=BEARER_CHARACTERS))
    return replace(_kept(world), headers={**CHROME, "Authorization": f"Bearer {token}"})


def _forty_rows(world: World) -> Requests:
    users = world.with_forty_rows
    return Requests(_detail(users), skewed(random.Random(SEED), len(users)))


def _other_route(world: World) -> Requests:
    """At random, so that every connection meets it."""
    kept, rng = _kept(world), random.Random(SEED + 1)
    other = len(kept.paths)
    order = [other if rng.random() < OTHER_ROUTE_SHARE else place for place in kept.order]
    return Requests([*kept.paths, "/livez"], order)


def _page(query: str) -> Callable[[World], Requests]:
    return lambda _: Requests([f"/users{query}"], [0])


def _last(world: World) -> Requests:
    return Requests([f"/users?page={world.pages}"], [0])


def _random_page(world: World) -> Requests:
    paths = [f"/users?page={number}" for number in range(1, world.pages + 1)]
    return Requests(paths, random.Random(SEED).choices(range(world.pages), k=DRAWS))


def _cursors(world: World) -> Requests:
    return Requests([f"/users?cursor={cursor}" for _, cursor in world.cursors], range(len(world.cursors)))


def _pages_of_cursors(world: World) -> Requests:
    return Requests([f"/users?page={number}" for number, _ in world.cursors], range(len(world.cursors)))


_FOR_DETAIL = ("redis", "hello")
_FOR_LIST = ("postgres", "tuned")
_SMALL = {"body_cache_mib": SMALL_CACHE_MIB}
_UNKEPT = {"list_ttl": 0}

ROWS = (
    Row("kept", "every body kept", _FOR_DETAIL, _kept),
    Row("half-kept", "half of the bodies kept", _FOR_DETAIL, _half_kept, settings=_SMALL),
    Row("never-kept", "no body kept", _FOR_DETAIL, _never_kept, settings=_SMALL),
    Row("not-modified", "If-None-Match, 304", _FOR_DETAIL, _not_modified),
    Row("min-lsn", "a Kycache-Min-LSN that is met", _FOR_DETAIL, _min_lsn),
    Row("browser", "a browser's headers and a bearer token", _FOR_DETAIL, _browser),
    Row("forty-rows", "profiles of 40 rows", _FOR_DETAIL, _forty_rows),
    Row("other-route", "every 200th request is `/livez`", _FOR_DETAIL, _other_route),
    Row("list-kept", "page 1, kept for a second", _FOR_LIST, _page("")),
    Row("list-first", "page 1, always read", _FOR_LIST, _page(""), settings=_UNKEPT),
    Row("list-far", f"page {PAGE_FAR}, always read", _FOR_LIST, _page(f"?page={PAGE_FAR}"), settings=_UNKEPT),
    Row("list-last", "the last page, always read", _FOR_LIST, _last, settings=_UNKEPT),
    Row("list-cursor", "a cursor, always read", _FOR_LIST, _cursors, _pages_of_cursors, _UNKEPT),
    Row("list-filtered", f"`{FILTER}`, always read", _FOR_LIST, _page(f"?{FILTER}"), settings=_UNKEPT),
    Row("list-random", "a random page, always read", _FOR_LIST, _random_page, settings=_UNKEPT),
)
