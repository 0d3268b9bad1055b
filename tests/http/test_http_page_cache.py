"""Pages that are answered again: what may be, what may not, and that they are bounded."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import httpx
import pytest
import trio

from kycache.actors.reader import ShardSnapshot
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Freshness
from kycache.http.exchange.demands import Truth
from kycache.http.reads import page_cache
from kycache.http.reads.cursors import Cursor
from kycache.http.reads.page_cache import Page, PageCache
from kycache.http.serving.settings import HttpSettings
from kycache.model.change import Scope
from kycache.model.lsn import format_lsn, parse_lsn
from support.http_stand import ENDS_AT_ONCE, Stand, User, now_ms, people, serving, waiting

FOR_EVER = replace(ENDS_AT_ONCE, list_ttl_s=1e6)
ALWAYS_LOOKS = replace(ENDS_AT_ONCE, list_ttl_s=1e-9)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "data")


@pytest.fixture
def users(stand: Stand) -> list[User]:
    made = people(40)
    stand.load(made)
    return made


async def pages(client: httpx.AsyncClient) -> dict[str, int]:
    """How many pages came from where, so far."""
    text = (await client.get("/metrics")).text
    prefix = 'kycache_http_list_pages_total{outcome="'
    lines = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    return {line.split('"')[0]: int(float(line.rpartition(" ")[2])) for line in lines}


async def test_answered_again_as_it_was_read(stand: Stand, users: list[User]) -> None:
    async with serving(stand, FOR_EVER) as client:
        first = await client.get("/users?size=5&order=newest")
        stand.delete(users[0])
        stand.beat()
        again = await client.get("/users?order=newest&size=5&page=1")
        other = await client.get("/users?size=6")
        assert again.content == first.content
        assert {**again.headers, "date": ""} == {**first.headers, "date": ""}
        assert other.json()["page"]["total"] == 39
        assert other.headers["kycache-watermark"] > first.headers["kycache-watermark"]
        assert await pages(client) == {"read": 2, "cached": 1, "unchanged": 0}
        cursor = first.json()["page"]["next"]
        one, two = [await client.get(f"/users?cursor={cursor}{beside}") for beside in ("", "&size=5")]
        assert one.content == two.content
        assert (await pages(client))["read"] == 3


async def test_old_but_unchanged(stand: Stand, users: list[User]) -> None:
    async with serving(stand, ALWAYS_LOOKS) as client:
        for _ in range(3):
            assert (await client.get("/users")).status_code == 200
        stand.delete(users[0])
        assert (await client.get("/users")).json()["page"]["total"] == 39
        assert await pages(client) == {"read": 2, "cached": 0, "unchanged": 2}
        (stand.directory.shard(0).path / "CURRENT").unlink()
        assert (await client.get("/users")).status_code == 503


async def test_never_across_an_own_write(stand: Stand, users: list[User]) -> None:
    async with serving(stand, FOR_EVER) as client:
        first = await client.get("/users")
        stand.delete(users[0])
        lsn = {"Kycache-Min-LSN": format_lsn(stand.beat())}
        assert (await client.get(f"/users/{users[1].id}", headers={})).status_code == 200
        assert (await client.get("/users")).content == first.content
        demanded = await client.get("/users", headers=lsn)
        assert demanded.json()["page"]["total"] == 39
        assert demanded.headers["cache-control"] == "private, no-cache"
        assert (await client.get("/users", headers=lsn)).content == demanded.content
        # who asked anywhere sees it everywhere, in later requests without a demand too
        size = await client.get("/users?size=3")
        stand.delete(users[1])
        later = {"Kycache-Min-LSN": format_lsn(stand.beat())}
        assert (await client.get("/users?size=3")).content == size.content
        assert (await client.get(f"/users/{users[1].id}", headers=later)).status_code == 404
        assert (await client.get("/users?size=3")).json()["page"]["total"] == 38
        # and goes on seeing it, although another asks for less
        kept = await client.get("/users?size=4")
        stand.delete(users[2])
        latest = {"Kycache-Min-LSN": format_lsn(stand.beat())}
        for demand in (latest, {"Kycache-Min-LSN": "0/1"}):
            assert (await client.get(f"/users/{users[2].id}", headers=demand)).status_code == 404
        assert (await client.get("/users?size=4")).json()["page"]["total"] == kept.json()["page"]["total"] - 1


async def test_an_own_write_costs_a_page_one_read(stand: Stand, users: list[User]) -> None:
    """Not one a request until every other shard has heard of something newer."""
    async with serving(stand, FOR_EVER) as client:
        for number in range(3):
            users[0].first = f"Ada {number}"
            lsn = {"Kycache-Min-LSN": format_lsn(stand.put(users[0]))}
            for _ in range(2):
                assert (await client.get(f"/users/{users[0].id}", headers=lsn)).status_code == 200
                for order in ("newest", "oldest"):
                    rows = (await client.get(f"/users?size=500&order={order}")).json()["data"]
                    assert f"Ada {number}" in [row["firstName"] for row in rows]
        assert await pages(client) == {"read": 6, "cached": 6, "unchanged": 0}


async def test_who_names_an_lsn_gets_a_kept_page_that_covers_it(stand: Stand, users: list[User]) -> None:
    """Whatever later one another client was granted."""
    async with serving(stand, FOR_EVER) as client:
        first = await client.get("/users")
        covered = {"Kycache-Min-LSN": first.headers["kycache-watermark"]}
        stand.delete(users[0])
        later = {"Kycache-Min-LSN": format_lsn(stand.lsn)}
        assert (await client.get(f"/users/{users[0].id}", headers=later)).status_code == 404
        assert (await client.get("/users", headers=covered)).content == first.content
        assert (await client.get("/users")).json()["page"]["total"] == 39
        assert await pages(client) == {"read": 2, "cached": 1, "unchanged": 0}


async def test_all_who_wait_for_a_page_are_answered_by_one_read(stand: Stand, users: list[User]) -> None:
    del users
    answers: list[httpx.Response] = []

    async def ask(client: httpx.AsyncClient, lsn: int) -> None:
        answers.append(await client.get("/users", headers={"Kycache-Min-LSN": format_lsn(lsn)}))

    async with serving(stand, replace(FOR_EVER, freshness_wait_s=10.0)) as client:
        async with trio.open_nursery() as nursery:
            for more in range(1, 21):
                nursery.start_soon(ask, client, stand.lsn + more)
            await waiting(client, 20)
            stand.beat()
        assert [answer.status_code for answer in answers] == [200] * 20
        assert await pages(client) == {"read": 1, "cached": 19, "unchanged": 0}


async def test_a_commit_while_a_page_is_read(
    stand: Stand, users: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came after the page's transactions began: the page counts as older, not as what a read would give."""
    take = Router.all_snapshots

    @contextmanager
    def taken(router: Router) -> Iterator[list[ShardSnapshot]]:
        with take(router) as snapshots:
            stand.delete(users.pop())
            yield snapshots

    async with serving(stand, ALWAYS_LOOKS) as client:
        monkeypatch.setattr(Router, "all_snapshots", taken)
        assert (await client.get("/users")).json()["page"]["total"] == 40
        monkeypatch.undo()
        assert (await client.get("/users")).json()["page"]["total"] == 39


async def test_never_staler_than_asked(stand: Stand, users: list[User]) -> None:
    del users
    async with serving(stand, FOR_EVER) as client:
        stand.beat(ts_ms=now_ms() + 1)
        old = await client.get("/users", headers={"Kycache-Max-Staleness": "30"})
        assert old.status_code == 200
        asked = now_ms() - datetime.fromisoformat(old.json()["asOf"]).timestamp() * 1000
        stand.beat(ts_ms=now_ms() + 60_000)
        fresh = await client.get("/users", headers={"Kycache-Max-Staleness": "0"})
        assert fresh.status_code == 200
        assert fresh.json()["asOf"] > old.json()["asOf"]
        assert asked < 30_000
        assert (await client.get("/users")).content == fresh.content


async def test_not_when_the_view_came_under_suspicion(stand: Stand, users: list[User]) -> None:
    async with serving(stand, FOR_EVER) as client:
        assert "kycache-suspect" not in (await client.get("/users")).headers
        stand.poison(stand.shard_of(users[0]), Scope.DIRECTORY)
        assert (await client.get("/users")).headers["kycache-suspect"] == "true"


async def test_off(stand: Stand, users: list[User]) -> None:
    async with serving(stand, ENDS_AT_ONCE) as client:
        await client.get("/users")
        stand.delete(users[0])
        assert (await client.get("/users")).json()["page"]["total"] == 39
        assert await pages(client) == {"read": 2, "cached": 0, "unchanged": 0}
        assert "kycache_http_list_cache_bytes 0.0\n" in (await client.get("/metrics")).text


async def test_no_answer_is_older_than_asked(stand: Stand, users: list[User]) -> None:
    """Whatever is asked of list, detail or export while writes run, whatever is kept.

    Each 200 meets its demand, and holds every write that its watermark covers; where it named no LSN, also every
    write that an earlier request asked for.
    """
    rng = random.Random(7)
    written: list[tuple[int, User, int]] = []
    granted = 0
    async with serving(stand, replace(FOR_EVER, freshness_wait_s=0.0)) as client:
        for number in range(150):
            for user in rng.sample(users, rng.randrange(3)):
                user.first = str(number)
                written.append((stand.put(user, ts_ms=now_ms() - rng.randrange(1500)), user, number))
            if rng.random() < 0.6:
                stand.beat(rng.sample(range(3), rng.randrange(1, 4)), ts_ms=now_ms() - rng.randrange(300))
            user = rng.choice(users)
            path = rng.choice(["/users?size=500", "/users?order=oldest", "/users/export", f"/users/{user.id}"])
            demands = {}
            lsn = max(1, stand.lsn - rng.choice([0, 100, 300, 900]))
            seconds = rng.choice([0.2, 0.5, 2.0])
            if rng.random() < 0.4:
                demands["Kycache-Min-LSN"] = format_lsn(lsn)
            if rng.random() < 0.3:
                demands["Kycache-Max-Staleness"] = str(seconds)
            asked = now_ms()
            answer = await client.get(path, headers={**demands, "Accept-Encoding": "identity"})
            watermark = parse_lsn(answer.headers["kycache-watermark"])
            as_of = datetime.fromisoformat(answer.headers["kycache-as-of"]).timestamp() * 1000
            assert watermark is not None
            if answer.status_code == 503:
                late = "Kycache-Min-LSN" in demands and watermark < lsn
                old = (
                    "Kycache-Max-Staleness" in demands and now_ms() + 1 - as_of > (seconds - 0.1) * 1000
                )  # whole ms
                assert late or old
                continue
            assert answer.status_code == 200
            if "Kycache-Min-LSN" in demands:
                assert watermark >= lsn
                granted = max(granted, lsn)
            if "Kycache-Max-Staleness" in demands:
                assert asked - as_of <= (seconds - 0.1) * 1000 + 1
            if "export" in path:
                rows = [row for row in map(json.loads, answer.text.splitlines()) if "userId" in row]
            else:
                rows = [answer.json()] if user.id in path else answer.json()["data"]
            held = {row["userId"]: row["firstName"] for row in rows}
            holds = watermark if "Kycache-Min-LSN" in demands else max(watermark, granted)
            due = {w.id: n for at, w, n in written if at <= holds}
            for key, number_due in due.items():
                if key in held:
                    assert held[key] is not None
                    assert int(held[key]) >= number_due
        kept = await pages(client)
        assert kept["cached"] > 5
        assert kept["read"] > 10


class TestBounds:
    def page(self, size: int) -> Page:
        return Page(b"x" * size, (), Truth.of(Freshness(0, 1, False, True)), b"", b"", (), (), 0)

    def key(self, number: int) -> tuple[Cursor, int]:
        return Cursor(True, 50, (None,), None), number

    def test_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(page_cache, "PAGES_MAX", 3)
        cache = PageCache(1.0)
        for number in range(5):
            cache.put(self.key(number), self.page(1))
            assert cache.get(self.key(0)) is not None  # used again: it stays
        assert [number for number in range(5) if cache.get(self.key(number))] == [0, 3, 4]

    def test_bytes(self) -> None:
        sizes: list[int] = []
        cache = PageCache(1.0, sizes.append)
        for number in range(2000):
            cache.put(self.key(number), self.page(75_000))
            assert sum(sizes) <= page_cache.BYTES_MAX
        cache.put(self.key(1999), self.page(10))
        kept = [n for n in range(2000) if cache.get(self.key(n))]
        assert kept[-1] == 1999
        assert len(kept) == page_cache.BYTES_MAX // (75_000 + page_cache._OVERHEAD_BYTES)

    def test_bytes_of_what_was_asked_count_too(self) -> None:
        """Pages of values that nobody has are small, and their keys are not."""
        sizes: list[int] = []
        cache = PageCache(1.0, sizes.append)
        cache.put((Cursor(True, 50, ("x" * 1000, None, "y" * 1000), None), 1), self.page(100))
        assert sizes[0] > 2_100 + page_cache._OVERHEAD_BYTES

    def test_age(self) -> None:
        clock = [0.0]
        cache = PageCache(1.0, now_s=lambda: clock[0])
        cache.put(self.key(1), self.page(1))
        for at, young in [(0.9, True), (1.0, False), (5.0, False)]:
            clock[0] = at
            found = cache.get(self.key(1))
            assert found is not None
            assert found[1] is young
        cache.unchanged(self.key(1), 7)
        assert cache.get(self.key(1)) == (self.page(1)._replace(granted=7), True)

    def test_none_is_kept_where_it_is_off(self) -> None:
        cache = PageCache(0.0)
        cache.put(self.key(1), self.page(1))
        assert cache.get(self.key(1)) is None
        assert HttpSettings().list_ttl_s == 1.0
