"""How fresh an answer is asked to be: waits and refusals. (That none is older than asked: with the page cache.)"""

from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from kycache.actors.reader import ShardSnapshot
from kycache.actors.router import Router
from kycache.actors.rules.reports import Doubt
from kycache.http.exchange.counts import Tally
from kycache.http.exchange.demands import Wait, format_instant
from kycache.http.exchange.problems import Kind, Problem
from kycache.http.exchange.watch import Watch
from kycache.model.lsn import format_lsn
from support.http_stand import WAITS_LONG, Stand, User, now_ms, people, problem, serving, waiting


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "data")


@pytest.fixture
def users(stand: Stand) -> list[User]:
    made = people(230)
    stand.load(made)
    return made


class TestDemands:
    async def asked(self, client: httpx.AsyncClient, path: str, **demands: str) -> httpx.Response:
        return await client.get(path, headers={f"Kycache-{k.replace('_', '-')}": v for k, v in demands.items()})

    async def test_already_there(self, stand: Stand, users: list[User]) -> None:
        lsn = stand.put(users[0])
        async with serving(stand) as client:
            response = await self.asked(
                client, f"/users/{users[0].id}", Min_LSN=format_lsn(lsn), Max_Staleness="5"
            )
            assert response.status_code == 200
            problem(await self.asked(client, "/users", Min_LSN=format_lsn(lsn)), 503, "not-fresh-enough")
            stand.beat()
            response = await self.asked(client, "/users", Min_LSN=format_lsn(lsn))
            assert response.status_code == 200
            assert response.headers["cache-control"] == "private, no-cache"
            assert "Kycache-Min-LSN" in response.headers["vary"]

    async def test_own_write_is_waited_for(self, stand: Stand, users: list[User]) -> None:
        user = users[0]
        token = format_lsn(stand.lsn + 1)
        answers: dict[str, httpx.Response] = {}

        async def ask(client: httpx.AsyncClient, path: str) -> None:
            answers[path] = await self.asked(client, path, Min_LSN=token)

        async with serving(stand, WAITS_LONG) as client:
            async with trio.open_nursery() as nursery:
                for path in ("/users", f"/users/{user.id}"):
                    nursery.start_soon(ask, client, path)
                await waiting(client, 2)
                user.first = "Written"
                stand.put(user)
                await waiting(client, 1)
                assert list(answers) == [f"/users/{user.id}"]
                stand.beat()
            assert answers[f"/users/{user.id}"].json()["firstName"] == "Written"
            assert answers["/users"].status_code == 200
            scraped = (await client.get("/metrics")).text
        assert 'kycache_http_freshness_waits_total{outcome="reached"} 2.0' in scraped

    async def test_who_waits_reads_nothing_until_all_shards_are_there(
        self, stand: Stand, users: list[User], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        take, taken = Router.all_snapshots, []

        def counted(router: Router) -> AbstractContextManager[list[ShardSnapshot]]:
            taken.append(router)
            return take(router)

        monkeypatch.setattr(Router, "all_snapshots", counted)
        lsn = format_lsn(stand.lsn + 100)
        answers: list[int] = []

        async def ask(client: httpx.AsyncClient, path: str) -> None:
            answers.append((await self.asked(client, path, Min_LSN=lsn)).status_code)

        first = next(user for user in users if stand.shard_of(user) == 0)
        async with serving(stand, WAITS_LONG) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask, client, "/users")
                await waiting(client, 20)
                nursery.start_soon(ask, client, f"/users/{first.id}")
                await waiting(client, 21)
                stand.beat([0, 1])
                await waiting(client, 20)  # so the shards were looked at
                assert (len(taken), answers) == (20, [200])
                stand.beat([2])
            assert answers == [200] * 21
            assert len(taken) == 40

    async def test_a_look_thinks_only_of_who_waits_for_a_shard_that_committed(
        self, stand: Stand, users: list[User], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Thousands may wait, and a look comes every few milliseconds."""
        del users
        told: list[int] = []
        tell = Watch._tell

        def counted(watch: Watch, seen: Any, group: Any, now: float) -> None:
            told.append(len(group))
            tell(watch, seen, group, now)

        monkeypatch.setattr(Watch, "_tell", counted)
        router = stand.router()
        assert router.shard_count == stand.shards
        watch = Watch(router, Tally().row(0))
        refusal = Problem(Kind.NOT_FRESH, "").answer()
        met: list[bool] = []

        async def wait(shards: tuple[int, ...]) -> None:
            met.append(await watch.reached(Wait(shards, stand.lsn + 100, None, refusal), trio.current_time() + 5))

        async with trio.open_nursery() as nursery:
            for shards in ((0,), (1,), (1,), (0, 1, 2)):
                nursery.start_soon(wait, shards)
            await trio.testing.wait_all_tasks_blocked()
            watch._look()
            assert sorted(told) == [1, 1, 2]  # nothing was seen before
            watch._look()
            assert len(told) == 3
            stand.beat([1])
            watch._look()
            assert sorted(told[3:]) == [1, 2]
            await trio.testing.wait_all_tasks_blocked()
            assert met == [True, True]
            nursery.cancel_scope.cancel()
        assert not watch._waiters
        router.close()

    async def test_not_reached(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            for path in ("/users", f"/users/{users[0].id}", f"/users/{User(77).id}"):
                response = await self.asked(client, path, Min_LSN="FF/0")
                problem(response, 503, "not-fresh-enough")
                assert response.headers["kycache-watermark"] == format_lsn(stand.lsn)
                assert response.headers["retry-after"] == "1"
                response = await self.asked(client, path, Max_Staleness="0")
                problem(response, 503, "not-fresh-enough")
            scraped = (await client.get("/metrics")).text
        assert 'kycache_http_freshness_waits_total{outcome="refused"} 6.0' in scraped
        assert "kycache_http_freshness_waiting 0.0" in scraped

    async def test_no_demand_is_met_behind_a_truncate_that_no_shard_was_told_of(
        self, stand: Stand, users: list[User]
    ) -> None:
        """Whatever the watermark says: the rows that went are still there. Without a demand they are labelled."""
        stand.directory.add_doubts((Doubt("stale", 1, 7, "a truncate", stand.lsn),))
        async with serving(stand, WAITS_LONG) as client:
            for path in ("/users", "/users/export", f"/users/{users[0].id}"):
                for demand in ({"Min_LSN": "0/1"}, {"Max_Staleness": "60"}):
                    with trio.fail_after(5):  # at once: no wait helps
                        response = await self.asked(client, path, **demand)
                    problem(response, 503, "not-fresh-enough")
                    assert response.headers["kycache-watermark"] == "0/0"
                    assert response.headers["kycache-suspect"] == "true"
                answer = await client.get(path)
                assert (answer.status_code, answer.headers["kycache-suspect"]) == (200, "true")

    async def test_staleness_is_waited_for(self, stand: Stand) -> None:
        stand.load([User(1)], ts_ms=now_ms() - 60_000)
        answers: list[httpx.Response] = []

        async def ask(client: httpx.AsyncClient) -> None:
            answers.append(await self.asked(client, "/users", Max_Staleness="5.5"))

        async with serving(stand) as client:
            response = await self.asked(client, f"/users/{User(1).id}", Max_Staleness="59")
            problem(response, 503, "not-fresh-enough")
            response = await self.asked(client, f"/users/{User(1).id}", Max_Staleness="90")
            assert response.status_code == 200
        async with serving(stand, WAITS_LONG) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, client)
                await waiting(client, 1)
                stand.beat([0, 1])
                await waiting(client, 1)
                stand.beat([2])
            assert answers[0].status_code == 200

    async def test_a_source_whose_clock_leaps_ahead_is_not_fresher_than_it_is(self, stand: Stand) -> None:
        """Nobody can tell how old such a commit is: it is in, and the answer says the last time that is known."""
        stand.believed_s = 0.0
        loaded_ms = now_ms() - 60_000
        stand.load([User(1)], ts_ms=loaded_ms)
        lsn = stand.put(User(1, first="Augusta"), ts_ms=now_ms() + 3_600_000)
        stand.beat(ts_ms=now_ms() + 3_600_000)
        async with serving(stand) as client:
            path = f"/users/{User(1).id}"
            response = await client.get(path)
            assert response.json()["firstName"] == "Augusta"
            assert response.headers["kycache-as-of"] == format_instant(loaded_ms)
            problem(await self.asked(client, path, Max_Staleness="30"), 503, "not-fresh-enough")
            assert (await self.asked(client, path, Min_LSN=format_lsn(lsn))).status_code == 200
            stand.beat()  # it keeps its time again
            assert (await self.asked(client, path, Max_Staleness="30")).status_code == 200

    async def test_a_source_whose_clock_was_never_right(self, stand: Stand) -> None:
        """No answer says 1970: its age is not known."""
        stand.believed_s = 0.0
        stand.load([User(1)], ts_ms=now_ms() + 3_600_000)
        async with serving(stand) as client:
            response = await client.get(f"/users/{User(1).id}")
            assert response.status_code == 200
            assert "kycache-as-of" not in response.headers
            assert response.headers["kycache-freshness"] == "kafka"
            asked = await self.asked(client, f"/users/{User(1).id}", Max_Staleness="30")
            problem(asked, 503, "freshness-unknown", "Kycache-Max-Staleness")

    async def test_without_heartbeat(self, stand: Stand) -> None:
        users = people(60)
        stand.load(users, heartbeat=False)
        lsn = 0
        for shard in range(stand.shards):
            lsn = stand.put(next(u for u in users if stand.shard_of(u) == shard))
        async with serving(stand) as client:
            listed = await client.get("/users")
            detail = await client.get(f"/users/{users[0].id}")
            assert listed.json()["asOf"] is None
            for response in (listed, detail):
                assert response.headers["kycache-freshness"] == "kafka"
                assert "kycache-as-of" not in response.headers
                assert "kycache-watermark" in response.headers
            for path in ("/users", f"/users/{users[0].id}"):
                response = await self.asked(client, path, Max_Staleness="99999")
                problem(response, 503, "freshness-unknown", "Kycache-Max-Staleness")
            response = await self.asked(client, f"/users/{users[0].id}", Min_LSN="0/1")
            assert response.status_code == 200
            assert lsn > 1
            assert (await client.get("/readyz")).json()["shards"][0]["stalenessSeconds"] is None

    async def test_a_client_that_leaves_is_no_longer_waited_for(self, stand: Stand, users: list[User]) -> None:
        del users
        async with serving(stand, WAITS_LONG) as client:
            with trio.CancelScope() as leaving:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(partial(self.asked, client, "/users", Min_LSN="FF/0"))
                    await waiting(client, 1)
                    leaving.cancel()
            await waiting(client, 0)

    async def test_a_misspelt_demand_is_refused(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            for path in ("/users", "/users/export", f"/users/{users[0].id}"):
                response = await self.asked(client, path, Max_Stalness="1")
                body = problem(response, 400, "unknown-header", "Kycache-Max-Stalness")
                assert "Kycache-Max-Staleness" in body["detail"]
            assert (await client.get("/users", headers={"kycache-max-staleness": "60"})).status_code == 200

    async def test_strong_is_refused(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            for path in ("/users", f"/users/{users[0].id}"):
                response = await self.asked(client, path, Consistency="strong")
                problem(response, 503, "source-not-configured", "Kycache-Consistency")
                assert response.headers["kycache-watermark"] == format_lsn(stand.lsn)
                problem(
                    await self.asked(client, path, Consistency="weak"),
                    400,
                    "invalid-header",
                    "Kycache-Consistency",
                )
                problem(await self.asked(client, path, Min_LSN=""), 400, "invalid-header", "Kycache-Min-LSN")
            twice = [("Kycache-Max-Staleness", "1"), ("kycache-max-staleness", "1")]
            problem(await client.get("/users", headers=twice), 400, "invalid-header", "Kycache-Max-Staleness")
