"""The two reads, by a real client against the real server over real shards."""

import random
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from kycache.actors.files.environment import Environments
from kycache.actors.router import Router
from kycache.http.exchange.demands import format_instant
from kycache.model.change import Change, Origin, Scope, Snapshot
from kycache.model.definition import parse_view
from kycache.model.errors import Refused
from kycache.model.lsn import format_lsn
from kycache.model.partition import KeyForm, partition_of
from kycache.model.render import etag
from kycache.model.scalars.times import INFINITY, MINUS_INFINITY
from support.http_stand import REGIONS, SNAPSHOT_LSN, Stand, User, now_ms, people, problem, serving

TEXT_IDS = """
name = "text"
[root]
table = "users"
key = "id"
[root.columns]
id = { name = "id", type = "text" }
since = { name = "since", type = "timestamp" }
[list]
order = "since"
fields = ["id"]
filters = []
"""

ORIGIN = Origin(Snapshot.STREAMED, 1, SNAPSHOT_LSN + 1, 1, 1)


def expected(users: list[User], *, newest: bool = True, **filters: str) -> list[dict[str, Any]]:
    """What SQL says: ORDER BY created_at DESC, user_id DESC (NULL first, as Postgres sorts), or its reverse."""
    kept = [
        u
        for u in users
        if filters.get("kycStatus") in (None, u.status) and filters.get("region") in (None, u.region)
    ]
    kept.sort(key=lambda u: (u.created_us is None, u.created_us or 0, u.key), reverse=newest)
    return [u.row() for u in kept]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "data")


@pytest.fixture
def users(stand: Stand) -> list[User]:
    made = people(230)
    stand.load(made)
    return made


async def follow(client: httpx.AsyncClient, url: str | None, link: str) -> list[list[dict[str, Any]]]:
    """The pages from `url` on, by cursor."""
    pages = []
    while url is not None:
        body = (await client.get(url)).raise_for_status().json()
        pages.append(body["data"])
        cursor = body["page"][link]
        url = None if cursor is None else f"/users?cursor={cursor}"
    return pages


class TestList:
    async def test_defaults(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            response = await client.get("/users")
        body = response.json()
        assert response.status_code == 200
        assert list(body) == ["data", "page", "asOf"]
        assert list(body["page"]) == ["size", "number", "total", "next", "prev"]
        assert body["data"] == expected(users)[:50]
        assert {k: body["page"][k] for k in ("size", "number", "total", "prev")} == {
            "size": 50,
            "number": 1,
            "total": 230,
            "prev": None,
        }
        assert response.headers["content-type"] == "application/json"
        assert response.headers["cache-control"] == "private, max-age=1"
        assert response.headers["kycache-as-of"] == body["asOf"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", body["asOf"])
        assert response.headers["kycache-served-by"] == "view"
        assert response.headers["kycache-watermark"] == format_lsn(stand.lsn)
        assert "kycache-suspect" not in response.headers
        assert response.headers["link"] == f'</users?cursor={body["page"]["next"]}>; rel="next"'
        assert b", " not in response.content
        assert b'": ' not in response.content

    @pytest.mark.parametrize(
        "filters", [{}, {"kycStatus": "VERIFIED"}, {"kycStatus": "NONE", "region": "EMEA"}, {"region": "é & ü"}]
    )
    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_pages_and_walks(
        self, stand: Stand, users: list[User], filters: dict[str, str], order: str
    ) -> None:
        want = expected(users, newest=order == "newest", **filters)
        size = 7
        parameters = {"size": str(size), "order": order, **filters}
        async with serving(stand) as client:
            for number in range(1, len(want) // size + 2):
                body = (await client.get("/users", params={**parameters, "page": str(number)})).json()
                assert body["data"] == want[(number - 1) * size : number * size]
                assert body["page"]["total"] == len(want)
                assert body["page"]["number"] == number
            first = str(httpx.URL("/users", params=parameters))
            pages = await follow(client, first, "next")
            assert [row for page in pages for row in page] == want
            last = str(httpx.URL("/users", params={**parameters, "page": str(-(-len(want) // size))}))
            backwards = await follow(client, last, "prev")
            assert backwards[::-1] == pages

    async def test_links_stop_at_the_ends_and_not_before(self, stand: Stand, users: list[User]) -> None:
        """One row behind a page, or in front of it, is still a page."""
        want, count = expected(users), len(users)
        async with serving(stand) as client:
            almost = (await client.get(f"/users?size={count - 1}")).json()
            behind = (await client.get(f"/users?cursor={almost['page']['next']}")).json()
            assert (almost["page"]["prev"], behind["data"], behind["page"]["next"]) == (None, want[-1:], None)
            front = (await client.get(f"/users?cursor={behind['page']['prev']}")).json()
            assert (front["data"], front["page"]["prev"]) == (want[:-1], None)
            first = (await client.get("/users?size=1")).json()
            rest = (await client.get(f"/users?cursor={first['page']['next']}")).json()
            one = (await client.get(f"/users?cursor={rest['page']['prev']}")).json()
            assert (one["data"], one["page"]["prev"]) == (want[:1], None)
            whole = (await client.get(f"/users?size={count}")).json()["page"]
            assert (whole["next"], whole["prev"]) == (None, None)

    async def test_past_the_end(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            body = (await client.get("/users?size=50&page=99")).json()
            assert (body["data"], body["page"]["number"], body["page"]["next"]) == ([], 99, None)
            last = (await client.get(f"/users?cursor={body['page']['prev']}")).json()
            assert last["data"] == expected(users)[200:]
            assert last["page"]["number"] is None
            assert last["page"]["next"] is None
            front = await follow(client, f"/users?cursor={body['page']['prev']}", "prev")
            assert [row for page in front[::-1] for row in page] == expected(users)
            small = (await client.get("/users?size=500&page=2")).json()["page"]["prev"]
            assert (await client.get(f"/users?cursor={small}")).json()["data"] == expected(users)
            far = await client.get("/users?size=500&page=" + "9" * 15)
            assert (far.status_code, far.json()["data"]) == (200, [])

    async def test_nothing_matches(self, stand: Stand, users: list[User]) -> None:
        del users
        async with serving(stand) as client:
            for text in ("nowhere", "x" * 1024, "%00"):
                response = await client.get(f"/users?region={text}&page=3")
                body = response.json()
                assert response.status_code == 200
                assert body["data"] == []
                assert (body["page"]["total"], body["page"]["next"], body["page"]["prev"]) == (0, None, None)
                assert "link" not in response.headers

    async def test_beside_a_cursor(self, stand: Stand, users: list[User]) -> None:
        del users
        async with serving(stand) as client:
            first = await client.get("/users?size=5&order=oldest&kycStatus=NONE")
            cursor = first.json()["page"]["next"]
            same = await client.get(f"/users?cursor={cursor}&size=5&order=oldest&kycStatus=NONE")
            assert same.status_code == 200
            assert same.json()["page"]["size"] == 5
            for wrong, name in [
                ("size=6", "size"),
                ("order=newest", "order"),
                ("kycStatus=VERIFIED", "kycStatus"),
                ("region=EMEA", "region"),
                ("page=2", "page"),
            ]:
                response = await client.get(f"/users?cursor={cursor}&{wrong}")
                problem(response, 400, "conflicting-parameters", name)
            problem(await client.get(f"/users?cursor={cursor[:-1]}"), 400, "invalid-cursor", "cursor")
            problem(await client.get("/users?size=501"), 400, "invalid-parameter", "size")
            problem(await client.get("/users?limit=1"), 400, "unknown-parameter", "limit")

    async def test_cursors_survive_a_restart(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            cursor = (await client.get("/users?size=30")).json()["page"]["next"]
        async with serving(stand) as client:
            assert (await client.get(f"/users?cursor={cursor}")).json()["data"] == expected(users)[30:60]

    @pytest.mark.parametrize(("seed", "query"), list(enumerate(["", "order=oldest", "kycStatus=NONE"])))
    async def test_rows_that_move_while_a_client_pages(
        self, stand: Stand, users: list[User], seed: int, query: str
    ) -> None:
        """A random walk on and back: no row that did not itself change place is skipped or doubled.

        `behind` is how many of those rows stand in front of the page, `ahead` how many by its end.
        """
        rng = random.Random(seed)
        movers, still = users[:60], users[60:]
        filters = dict([query.split("=")] if query and "order" not in query else [])
        rows = expected(still, newest="order" not in query, **filters)
        place = {row["userId"]: number for number, row in enumerate(rows)}
        async with serving(stand) as client:
            body = (await client.get(f"/users?size=7&{query}")).json()
            behind, ahead = 0, sum(row["userId"] in place for row in body["data"])
            for step in range(45):
                back = body["page"]["next"] is None or (step < 30 and rng.random() < 0.4)
                if body["page"]["prev" if back else "next"] is None:
                    back = not back
                cursor = body["page"]["prev" if back else "next"]
                assert cursor is not None
                self.move(stand, rng, movers)
                body = (await client.get(f"/users?cursor={cursor}")).json()
                seen = [place[row["userId"]] for row in body["data"] if row["userId"] in place]
                if back:
                    behind, ahead = behind - len(seen), behind
                else:
                    behind, ahead = ahead, ahead + len(seen)
                assert seen == list(range(behind, ahead))
                assert body["page"]["next"] is not None or ahead == len(rows)
                assert body["page"]["prev"] is not None or behind == 0

    def move(self, stand: Stand, rng: random.Random, movers: list[User]) -> None:
        """Some rows elsewhere: to places of their own and to shared ones, in and out of filters, away and back."""
        for mover in rng.sample(movers, 2):
            mover.created_us = rng.choice([0, 1, rng.randrange(10**15), INFINITY, MINUS_INFINITY, None])
            mover.region = rng.choice(REGIONS)
            stand.delete(mover) if rng.random() < 0.3 else stand.put(mover)

    async def test_a_cursor_whose_rows_are_all_gone(self, stand: Stand) -> None:
        users = [User(n, created_us=n) for n in range(1, 13)]
        stand.load(users)
        async with serving(stand) as client:
            first = (await client.get("/users?size=8")).json()["page"]["next"]
            second = (await client.get(f"/users?cursor={first}")).json()["page"]["prev"]
            for user in users[:4]:  # the oldest: all of the second page
                stand.delete(user)
            empty = (await client.get(f"/users?cursor={first}")).json()
            assert (empty["data"], empty["page"]["next"], empty["page"]["total"]) == ([], None, 8)
            last = (await client.get(f"/users?cursor={empty['page']['prev']}")).json()
            assert len(last["data"]) == 8
            for user in users[4:]:
                stand.delete(user)
            stand.put(users[0])
            ahead = (await client.get(f"/users?cursor={second}")).json()
            assert (ahead["data"], ahead["page"]["prev"]) == ([], None)
            onward = await client.get(f"/users?cursor={ahead['page']['next']}")
            assert [row["userId"] for row in onward.json()["data"]] == [users[0].id]

    async def test_least_fresh_shard(self, stand: Stand, users: list[User]) -> None:
        del users
        base = now_ms() + 60_000
        for shard, behind_ms in ((1, 3_000), (0, 1_000), (2, 2_000)):
            stand.beat([shard], ts_ms=base - behind_ms)
        lsn = stand.lsn - 200
        async with serving(stand) as client:
            answer = await client.get("/users")
            assert answer.headers["kycache-watermark"] == format_lsn(lsn)
            assert answer.headers["kycache-as-of"] == answer.json()["asOf"] == format_instant(base - 3_000)


class TestDetail:
    async def test_found(self, stand: Stand, users: list[User]) -> None:
        user = users[3]
        async with serving(stand) as client:
            response = await client.get(f"/users/{user.id.upper()}")
            head = await client.head(f"/users/{user.id}")
        assert response.status_code == 200
        assert response.json()["userId"] == user.id
        assert response.json()["kycStatus"] == user.status
        assert response.headers["etag"] == etag(response.content)
        assert response.headers["cache-control"] == "private, no-cache"
        assert response.headers["content-type"] == "application/json"
        assert response.headers["kycache-watermark"] == format_lsn(stand.lsn)
        assert "kycache-as-of" in response.headers
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == response.headers["etag"]
        assert head.headers["content-length"] == str(len(response.content))

    async def test_conditional(self, stand: Stand, users: list[User]) -> None:
        user = users[3]
        async with serving(stand) as client:
            full = await client.get(f"/users/{user.id}")
            tag = full.headers["etag"]
            for value in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                response = await client.get(f"/users/{user.id}", headers={"If-None-Match": value})
                assert (response.status_code, response.content) == (304, b"")
                without = {"content-type", "content-length", "date"}
                assert {k: v for k, v in response.headers.items() if k not in without} == {
                    k: v for k, v in full.headers.items() if k not in without
                }
                assert "content-type" not in response.headers
                assert "content-length" not in response.headers
            response = await client.get(f"/users/{user.id}", headers={"If-None-Match": '"x"'})
            assert response.status_code == 200
            user.last = "Byron"
            stand.put(user)
            changed = await client.get(f"/users/{user.id}", headers={"If-None-Match": tag})
            assert changed.json()["lastName"] == "Byron"

    async def test_absent(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            response = await client.get(f"/users/{User(77).id}", headers={"If-None-Match": "*"})
            body = problem(response, 404, "no-such-user")
            assert User(77).id not in str(body)
            assert response.headers["kycache-watermark"] == format_lsn(stand.lsn)
            assert "kycache-as-of" in response.headers
            stand.delete(users[0])
            problem(await client.get(f"/users/{users[0].id}"), 404, "no-such-user")

    @pytest.mark.parametrize(
        "text", ["x", "0" * 32, "%ff", "00000000-0000-0000-0000-00000000000g", "a" * 5000, "%00", "٣"]
    )
    async def test_not_an_id(self, stand: Stand, users: list[User], text: str) -> None:
        del users
        async with serving(stand) as client:
            problem(await client.get(f"/users/{text}"), 400, "invalid-id", "userId")

    async def test_a_text_id_may_be_any_text(self, tmp_path: Path) -> None:
        """A slash too: it comes as `%2F`, and routes are looked at when that is decoded."""
        stand = Stand(tmp_path / "text", view=parse_view(TEXT_IDS, "text.toml"))
        stand.load([])
        ids = [
            "a/b",
            "/a",
            "a/",
            "a//b",
            "a b",
            "a+b",
            "100%",
            "a?b",
            "a%2Fb",
            "é\n",
            "users",
            "e\u0301",
            "\ufffd",
        ]
        for key in ids:
            shard = partition_of(key.encode(), stand.shards)
            stand.apply(
                shard, [Change(stand.offsets[shard], ORIGIN, 0, key.encode(), key.encode(), key, (key, 0))]
            )
        async with serving(stand) as client:
            for key in ids:
                response = await client.get(f"/users/{quote(key, safe='')}")
                assert (response.status_code, response.json()["id"]) == (200, key)
            problem(await client.get("/users/a/c"), 404, "no-such-user")
            for no_text in ("%FF", "%ED%A0%80", "a%C3"):  # a lenient decoder makes U+FFFD of it, which is an id
                problem(await client.get(f"/users/{no_text}"), 400, "invalid-id", "id")
            problem(await client.get("/users/"), 404, "no-such-route")
            assert (await client.get("/users/export")).headers["content-type"] == "application/x-ndjson"
        stand.close()

    @pytest.mark.parametrize("form", KeyForm)
    def test_nobody_is_absent_by_a_wrong_setting(self, stand: Stand, users: list[User], form: KeyForm) -> None:
        """The partition follows from the Kafka key's form: by another one each user would be a 404."""
        router = Router(stand.directory, stand.environments, stand.view, stand.limits, form)
        assert router.shard_count == stand.shards
        for user in users:
            found = router.user_id(user.id)
            assert found is not None
            if form is KeyForm.PLAIN:
                with router.snapshot(router.shard_of(found)) as snapshot:
                    assert snapshot.profile(found.key) is not None
            else:
                with pytest.raises(Refused, match="`\\[kafka\\] key`"):
                    router.commit_id(router.shard_of(found))
        router.close()

    async def test_parameters_are_refused(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            problem(await client.get(f"/users/{users[0].id}?x=1"), 400, "unknown-parameter", "x")

    async def test_suspect(self, stand: Stand, users: list[User]) -> None:
        user, other = users[0], next(u for u in users if stand.shard_of(u) != stand.shard_of(users[0]))
        stand.poison(stand.shard_of(user), Scope.PROFILE, user)
        absent = User(4711)
        stand.poison(stand.shard_of(absent), Scope.PROFILE, absent)
        async with serving(stand) as client:

            async def suspect(path: str) -> str | None:
                found: str | None = (await client.get(path)).headers.get("kycache-suspect")
                return found

            assert await suspect(f"/users/{user.id}") == "true"
            assert await suspect(f"/users/{absent.id}") == "true"
            assert await suspect(f"/users/{other.id}") is None
            marked = []
            for number in range(1, len(users) // 10 + 1):
                page = await client.get(f"/users?size=10&page={number}")
                if any(entry["userId"] == user.id for entry in page.json()["data"]):
                    marked.append(number)
                assert page.headers.get("kycache-suspect") == ("true" if number in marked else None)
            assert len(marked) == 1
            assert await suspect("/users/export") == "true"
            stand.poison(stand.shard_of(user), Scope.SHARD)
            assert await suspect("/users") == "true"
            assert await suspect(f"/users/{other.id}") is None
            stand.poison(stand.shard_of(user), Scope.DIRECTORY)
            assert await suspect(f"/users/{other.id}") == "true"


class TestNotReady:
    async def test_nothing_ingested(self, stand: Stand) -> None:
        async with serving(stand) as client:
            for path in ("/users", f"/users/{User(1).id}"):
                response = await client.get(path)
                problem(response, 503, "not-ready")
                assert response.headers["retry-after"] == "1"
                assert response.headers["kycache-watermark"] == "0/0"
                assert "kycache-as-of" not in response.headers

    async def test_one_shard_not_bootstrapped(self, stand: Stand) -> None:
        stand.create()
        user = User(1)
        shard = stand.shard_of(user)
        stand.beat([shard])  # nothing of a whole snapshot came
        async with serving(stand) as client:
            problem(await client.get("/users"), 503, "not-ready")
            response = await client.get(f"/users/{user.id}", headers={"Kycache-Min-LSN": format_lsn(stand.lsn)})
            problem(response, 503, "not-ready")
            assert response.headers["kycache-watermark"] == "0/0"

    async def test_a_damaged_file(self, stand: Stand, users: list[User]) -> None:
        shard = stand.shard_of(users[0])
        other = next(u for u in users if stand.shard_of(u) != shard)
        generation = stand.directory.shard(shard).current()
        assert generation is not None
        stand.close()
        (generation / "data.mdb").write_bytes(b"\0" * 100)
        stand.environments = Environments(readonly=True, map_size=1 << 28)
        async with serving(stand) as client:
            response = await client.get(f"/users/{users[0].id}")
            body = problem(response, 503, "unreadable")
            assert "data.mdb" not in str(body)
            assert response.headers["retry-after"] == "1"
            problem(await client.get("/users"), 503, "unreadable")
            assert (await client.get(f"/users/{other.id}")).status_code == 200
            ready, strict = await client.get("/readyz"), await client.get("/readyz?strict=1")
            assert (ready.status_code, strict.status_code) == (200, 503)  # the others serve
            assert [s["state"] for s in ready.json()["shards"]].count("halted") == 1
        for number in range(stand.shards):
            current = stand.directory.shard(number).current()
            assert current is not None
            (current / "data.mdb").write_bytes(b"\0" * 100)
        stand.environments = Environments(readonly=True, map_size=1 << 28)
        async with serving(stand) as client:
            assert (await client.get("/readyz")).status_code == 503  # none can serve
