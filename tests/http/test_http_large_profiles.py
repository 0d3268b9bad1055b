"""A profile with many rows is rendered in a thread, one at a time: nobody else waits, and no byte differs."""

import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest
import trio

from kycache.http.exchange.slow import GIVE_WAY_S
from kycache.http.reads import answers
from kycache.model.profile import Profile
from kycache.model.render import Renderer
from support.http_stand import Stand, User, serving
from support.waiting import until

LARGE = [User(1, statuses=["VERIFIED"] * 6), User(2, statuses=["PENDING"] * 6)]
SMALL = User(3, statuses=["EXPIRED"])

Render = Callable[[Renderer, Profile], bytes]


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    monkeypatch.setattr(answers, "ROWS_HERE_MAX", 5)
    stand = Stand(tmp_path / "data")
    stand.load([*LARGE, SMALL])
    return stand


class Held:
    """Renderings of large profiles, each of which waits to be let go on."""

    def __init__(self, render: Render) -> None:
        self.render = render
        self.begun = 0
        self.switching: list[float] = []
        self.go = Event()

    def body(self, renderer: Renderer, profile: Profile) -> bytes:
        if profile.size > answers.ROWS_HERE_MAX:
            self.begun += 1
            self.switching.append(sys.getswitchinterval())
            assert self.go.wait(10)
        return self.render(renderer, profile)


async def test_others_are_answered_meanwhile(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the second large one has its turn when the first is done."""
    held = Held(Renderer.body)
    monkeypatch.setattr(Renderer, "body", lambda renderer, profile: held.body(renderer, profile))
    before = sys.getswitchinterval()
    found: list[httpx.Response] = []

    async def read(client: httpx.AsyncClient, user: User) -> None:
        found.append(await client.get(f"/users/{user.id}"))

    with trio.fail_after(20):
        async with serving(stand) as client, trio.open_nursery() as nursery:
            for user in LARGE:
                nursery.start_soon(read, client, user)
            await until(lambda: held.begun)
            for _ in range(10):
                assert (await client.get(f"/users/{SMALL.id}")).json()["kycStatus"] == "EXPIRED"
                assert (await client.get("/users")).json()["page"]["total"] == 3
            assert (held.begun, found) == (1, [])
            held.go.set()
    assert held.begun == 2
    assert {(r.status_code, r.json()["userId"], len(r.json()["kyc"])) for r in found} == {
        (200, user.id, 6) for user in LARGE
    }
    assert held.switching == [pytest.approx(GIVE_WAY_S)] * 2
    assert sys.getswitchinterval() == before
    stand.close()


async def test_both_ways_give_the_same(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(client: httpx.AsyncClient) -> list[Any]:
        url = f"/users/{LARGE[0].id}"
        found = await client.get(url)
        more: list[tuple[str, dict[str, str]]] = [
            ("GET", {"If-None-Match": found.headers["ETag"]}),
            ("GET", {"Kycache-Max-Staleness": "0"}),
            ("HEAD", {}),
        ]
        answered = [found] + [await client.request(method, url, headers=headers) for method, headers in more]
        assert [r.status_code for r in answered] == [200, 304, 503, 200]
        return [
            (r.content, sorted((k, v) for k, v in r.headers.items() if k not in ("date", "kycache-as-of")))
            for r in answered
        ]

    async with serving(stand) as client:
        in_a_thread = await asked(client)
        monkeypatch.setattr(answers, "ROWS_HERE_MAX", 500)
        assert await asked(client) == in_a_thread
    stand.close()


async def test_what_fails_in_the_thread_is_a_problem(
    stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> bytes:
        raise RuntimeError("Ada Lovelace")

    async with serving(stand) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Renderer, "body", fail)
            assert (await client.get(f"/users/{LARGE[0].id}")).status_code == 500
        assert (await client.get(f"/users/{LARGE[0].id}")).status_code == 200
    assert "RuntimeError" in caplog.text
    assert "Ada" not in caplog.text
    assert sys.getswitchinterval() > GIVE_WAY_S
    stand.close()
