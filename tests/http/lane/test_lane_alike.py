"""Both lanes answer alike: the same random requests over the same data, compared byte for byte, Date apart."""

import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from kycache.actors.router import Router
from kycache.actors.rules.reports import CUT_OFF, SUSPECT, Doubt
from kycache.http.reads import answers
from kycache.http.serving.settings import HttpSettings
from kycache.model.change import Change, Origin, Scope, Snapshot
from kycache.model.definition import parse_view
from kycache.model.lsn import format_lsn
from kycache.model.partition import partition_of
from kycache.model.values import key_order_bytes
from support.faults import seeds
from support.http_stand import ENDS_AT_ONCE, Stand, User, now_ms, people
from support.lanes.raw_http import Server, get, running, undated

SCRIPTS = 80
"""Connections of a seed."""

SETTINGS = replace(ENDS_AT_ONCE, freshness_wait_s=0.001, list_ttl_s=1.0, exports=2)


@asynccontextmanager
async def both(stand: Stand, settings: HttpSettings = SETTINGS) -> AsyncIterator[tuple[Server, Server]]:
    """A server with the fast lane, and one without it, over the same data."""
    async with AsyncExitStack() as stack:
        fast = await stack.enter_async_context(running(stand, replace(settings, fast_lane=True)))
        full = await stack.enter_async_context(running(stand, replace(settings, fast_lane=False)))
        yield fast, full


async def same(servers: tuple[Server, Server], sent: bytes) -> bytes:
    """What both answer until they close."""
    fast, full = [undated(await server.sent(sent)) for server in servers]
    assert fast == full, f"sent: {sent!r}"
    return fast


class Drawn:
    """Requests drawn at random, good and bad."""

    def __init__(
        self, rng: random.Random, ids: list[str], tags: dict[str, str], cursors: list[str], lsn: int
    ) -> None:
        self._rng = rng
        self._ids = ids
        self._tags = tags
        self._cursors = cursors
        self._lsn = lsn
        self._known = ids[0]
        """Whose tag is likely to be named."""

    def script(self) -> bytes:
        """A few pipelined requests, of which the last one closes."""
        rng = self._rng
        asked = [self._request() for _ in range(rng.choice([0, 0, 1, 2, 4]))]
        close = rng.choice(["Connection: close", "connection:  Close", "Connection: keep-alive, close"])
        return b"".join([*asked, self._request(close)])

    def _request(self, *more: str) -> bytes:
        rng = self._rng
        headers = [*more]
        target = self._target()
        for draw in (self._conditional, self._demand, self._other):
            if rng.random() < 0.25:
                headers += draw()
        rng.shuffle(headers)
        return get(target, *headers, method=rng.choice(["GET", "GET", "HEAD"]))

    def _target(self) -> str:
        rng = self._rng
        drawn = rng.random()
        if drawn < 0.4:
            return f"/users/{self._id()}" + (rng.choice(["", "?", "?x=1", "?&", "?="]) if drawn < 0.05 else "")
        if drawn < 0.85:
            return "/users" + self._query()
        odd = [
            "/livez",
            "/users/",
            "//users",
            "/users/a/b",
            "/users/%2F",
            "/nowhere",
            "/Users",
            "/users/%65xport?x",
        ]
        return rng.choice(odd)

    def _id(self) -> str:
        rng = self._rng
        self._known = known = rng.choice(self._ids)
        drawn = rng.randrange(16)
        if drawn < 9:
            return quote(known, safe="")
        if drawn == 9:
            return "".join(f"%{byte:02{rng.choice('xX')}}" for byte in known.encode())
        if drawn == 10:
            return quote(known, safe="").upper()
        if drawn == 11:
            return quote(known + rng.choice([" ", "\n", "\0", "/", "x", "é", "\u2028"]), safe="")
        odd = [
            "%",
            "%f",
            "%zz",
            "%ff",
            "%C0%AF",
            ".",
            "..",
            "%2e",
            ";",
            "a|b",
            "'",
            "+",
            "-1",
            "0",
            "00",
            "-0",
            "1.0",
        ]
        odd += [
            "9" * 40,
            "9223372036854775807",
            "9223372036854775808",
            "%31",
            "1%0A",
            "x" * 2000,
            "exports",
            "Export",
        ]
        odd += ["{00000000-0000-0000-0000-000000000001}", "0" * 32, "00000000-0000-0000-0000-00000000ffff"]
        return rng.choice(odd)

    def _query(self) -> str:
        rng = self._rng
        pieces = [self._parameter() for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        return rng.choice(["", "?"]) if not pieces else "?" + rng.choice(["&", "&", "&&"]).join(pieces)

    def _parameter(self) -> str:
        rng = self._rng
        odd = ["x", "%73ize", "", "a%"]
        name = rng.choice(["size", "page", "order", "kycStatus", "region", "tier", "cursor"] * 3 + odd)
        values = {
            "size": ["1", "3", "2", "7", "50", "500", "501", "0", "-1", "01", "a", "%31", "1e2", "٣", ""],
            "page": ["1", "2", "3", "99999", "0", "9" * 15, "9" * 16, "a", "+1", ""],
            "order": ["newest", "oldest", "Newest", "", "new%65st"],
            "kycStatus": ["VERIFIED", "NONE", "PENDING", "verified", "x", ""],
            "region": ["EMEA", "APAC", "%C3%A9+%26+%C3%BC", "é", "%ff", "x" * 1025, "a%", ""],
            "tier": ["GOLD", "TIN", "gold", ""],
            "cursor": [*self._cursors, *(cursor[:-1] for cursor in self._cursors[:2]), "x", "x" * 8193, ""],
        }
        value = rng.choice(values.get(name, ["1", ""]))
        return rng.choice([f"{name}={quote(value, safe='%+')}"] * 9 + [name])

    def _conditional(self) -> list[str]:
        rng = self._rng
        tag = self._tags.get(self._known, '"x"')
        odd = [
            "*",
            " * ",
            f"W/{tag}",
            f'"a", {tag}',
            f'"a",,{tag} ,',
            tag[:-1],
            tag.strip('"'),
            "",
            '"\xff"',
            f"w/{tag}",
        ]
        return [
            f"If-None-Match: {rng.choice([tag] * 9 + odd)}",
            *(["if-none-match: x"] if rng.random() < 0.2 else []),
        ]

    def _demand(self) -> list[str]:
        rng = self._rng
        good, bad = format_lsn(self._lsn), format_lsn(self._lsn + 1)
        values = {
            "Kycache-Min-LSN": [
                *[good] * 9,
                good.lower(),
                "0/0",
                bad,
                bad,
                bad,
                "FF/0",
                "1",
                "G/0",
                "",
                " ",
                f"{good} ",
            ],
            "Kycache-Max-Staleness": [
                *["99999"] * 7,
                "0",
                "0.0",
                "-1",
                "1e3",
                "",
                "99999.5",
                ".5",
                "٣".encode().decode("latin1"),
            ],
            "Kycache-Consistency": ["strong", "Strong", "", "eventual"],
            "kycache-watermark": ["0/0"],
            "KYCACHE-other_Thing": ["x"],
            "Kycache-": [""],
            "kYcAcHe-mIn-LsN": [good],
        }
        name = rng.choice([*list(values)[:2] * 9, *values])
        return [f"{name}: {rng.choice(values[name])}" for _ in range(rng.choice([1, 1, 1, 2]))]

    def _other(self) -> list[str]:
        odd = [
            "Accept: text/html",
            "Accept-Encoding: gzip, zstd",
            "Accept-Encoding: identity;q=0",
            "Range: bytes=0-3",
        ]
        odd += ["Cookie: a=b; c", "Cookie: \xff", "Authorization: Bearer x", "X-HTTP-Method-Override: DELETE"]
        odd += [
            "X-Forwarded-For: 1.2.3.4",
            "X-Forwarded-Host: [",
            "Forwarded: for=x",
            "Content-Length: 0",
            "If-Match: *",
        ]
        odd += [
            "Content-Type: application/json",
            "Connection: keep-alive",
            "Keep-Alive: timeout=1",
            "Remote-Addr: x",
        ]
        odd += [
            "Transfer-encodin: chunked",
            "Upgrade-Insecure-Requests: 1",
            "If-Modified-Since: x",
            "Date: x",
            "X:",
        ]
        odd += ["Accept-Language: é", "Referer: http://[", "Origin: null", "Early-Data: 1", "Max-Forwards: 0"]
        return self._rng.sample(odd, 2)


async def known_of(server: Server, ids: list[str]) -> tuple[dict[str, str], list[str]]:
    """Tags of users, and cursors of pages, that the server gives."""
    tags, cursors = {}, []
    for name in ids:
        got = await server.sent(get(f"/users/{quote(name, safe='')}", "Connection: close"))
        if found := re.search(r"\netag: ([^\r]*)", got.decode()):
            tags[name] = found[1]
    for query in ("size=3", "size=3&page=2", "size=2&order=oldest&page=3"):
        got = await server.sent(get(f"/users?{query}", "Connection: close"))
        cursors += re.findall(r'"(?:next|prev)":"([^"]*)"', got.decode())
    assert tags
    assert cursors
    return tags, cursors


KEYED = """
name = "keyed"
[root]
table = "customers"
key = "id"
[root.columns]
id = { name = "customerId", type = "KIND" }
tier = { name = "tier", type = "enum(GOLD,TIN)" }
since = { name = "since", type = "timestamp" }
[list]
order = "since"
fields = ["customerId", "tier"]
filters = ["tier"]
"""

TEXTS = [
    *("a/b", "/a", "a/", "a//b", "a b", "a+b", "100%", "a?b", "a%2Fb", "a#b", "\u00e9\n", "\n", "users", "export"),
    *("exports", "e\u0301", "\ufffd", "\U0001f600", "..", ".", "x" * 200, "%", "%65xport", "0", "a;b", "\x7f"),
]
NUMBERS = [0, 1, -1, 9, 10, 2**63 - 1, -(2**63), 10**18]


def keyed(root: Path, kind: str, ids: Sequence[str | int]) -> Stand:
    """A stand with another view, whose key is text or int."""
    stand = Stand(root, view=parse_view(KEYED.replace("KIND", kind), "keyed.toml"))
    stand.load([])
    stand.lsn += 100
    for place, key in enumerate(ids):
        kafka_key = str(key).encode()
        shard = partition_of(kafka_key, stand.shards)
        origin = Origin(Snapshot.STREAMED, stand.lsn - 50, stand.lsn, now_ms(), stand.lsn)
        row = (key, ["GOLD", "TIN", None][place % 3], place)
        stand.apply(shard, [Change(stand.offsets[shard], origin, 0, kafka_key, key_order_bytes(key), key, row)])
    stand.beat()
    return stand


def stand_of(kind: str, root: Path) -> tuple[Stand, list[str]]:
    """A stand with that kind of key, and ids of users in it."""
    if kind == "uuid":
        users = people(40)
        stand = Stand(root)
        stand.load(users)
        stand.delete(users[3])
        suspect = users[5]
        stand.poison(stand.shard_of(suspect), Scope.PROFILE, suspect)
        return stand, [user.id for user in users[:12]]
    ids = TEXTS if kind == "text" else NUMBERS
    return keyed(root, kind, ids), [str(key) for key in ids]


@pytest.mark.parametrize("kind", ["uuid", "text", "int"])
@pytest.mark.parametrize("seed", seeds(3, at_most=100))
async def test_both_lanes_answer_alike(tmp_path: Path, kind: str, seed: int) -> None:
    rng = random.Random(f"{kind} {seed}")
    stand, ids = stand_of(kind, tmp_path / "data")
    async with both(stand) as servers:
        tags, cursors = await known_of(servers[1], ids)
        drawn = Drawn(rng, ids, tags, cursors, stand.lsn)
        seen = b""
        for _ in range(SCRIPTS):
            seen += await same(servers, drawn.script())
        seen += await same(servers, get("/users", "Kycache-Consistency: strong", "Connection: close"))
        fast = servers[0].counted("lanes")["fast"]
        assert servers[0].counted("bodies").keys() == {"kept", "rendered"}
    assert {int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", seen)} == {200, 304, 400, 404, 503}
    assert fast > SCRIPTS
    stand.close()


STATES = ["nothing", "no beat", "doubt", "cut off", "suspect shard"]


@pytest.mark.parametrize("state", STATES)
async def test_a_view_that_cannot_answer_as_it_should(tmp_path: Path, state: str) -> None:
    """Twice each: what one asking remembers is no reason for another answer."""
    users = people(12)
    stand = Stand(tmp_path / "data")
    if state == "no beat":
        stand.load(users, heartbeat=False)
    elif state != "nothing":
        stand.load(users)
    if state in ("doubt", "cut off"):
        stand.directory.add_doubts((Doubt(SUSPECT if state == "doubt" else CUT_OFF, 0, 5, "why"),))
    elif state == "suspect shard":
        stand.poison(0, Scope.SHARD)
    targets = [*(f"/users/{user.id}" for user in users), "/users", "/users?size=2", "/users/x", "/users?size=x"]
    demands = [[], ["Kycache-Min-LSN: 0/0"], ["Kycache-Min-LSN: FF/0"], ["Kycache-Max-Staleness: 99999"]]
    demands += [["Kycache-Consistency: strong"], ["If-None-Match: *"], ["Kycache-Max-Staleness: x"]]
    async with both(stand) as servers:
        for headers in demands * 2:
            asked = [get(target, *headers, method=method) for target in targets for method in ("GET", "HEAD")]
            got = await same(servers, b"".join(asked) + get("/users", "Connection: close"))
            assert got.count(b"HTTP/1.1 ") == len(asked) + 1
    stand.close()


async def test_a_detail_that_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ROWS_HERE_MAX", 2)
    large = User(1, statuses=["VERIFIED"] * 6)
    stand = Stand(tmp_path / "data")
    stand.load([large, User(2)])
    async with both(stand) as servers:
        for method in ("GET", "HEAD", "GET"):
            for headers in ([], ["If-None-Match: *"], ["Kycache-Min-LSN: FF/0"], ["If-None-Match: x"]):
                asked = get(f"/users/{large.id}", *headers, method=method)
                got = await same(
                    servers, asked * 2 + get(f"/users/{User(2).id}") + get("/users", "Connection: close")
                )
                assert got.count(b"HTTP/1.1 ") == 4
        assert servers[0].counted("lanes").keys() == {"fast"}
    stand.close()


async def test_our_own_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(tmp_path / "data")
    stand.load([User(1)])

    def broken(*_: object) -> None:
        raise ValueError("secret")

    async with both(stand) as servers:
        monkeypatch.setattr(Router, "look_up", broken)
        for method in ("GET", "HEAD"):
            asked = get(f"/users/{User(1).id}", method=method) + get("/users", "Connection: close")
            got = await same(servers, asked)
            assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"500", b"200"]
    stand.close()
