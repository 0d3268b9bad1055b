"""The server as a whole: odd requests, operations, documents, start and stop."""

import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from quart_trio import QuartTrio

from kycache.actors.router import Router
from kycache.http.serving import app as app_module
from kycache.http.serving import server as server_module
from kycache.http.serving.listen import bind
from kycache.http.serving.server import serve
from kycache.http.serving.settings import HttpSettings
from kycache.model.definition import parse_view
from kycache.model.errors import ConfigurationError, Refused
from support.http_stand import ENDS_AT_ONCE, OTHER_VIEW, WAITS_LONG, Stand, User, problem, serving, waiting
from support.waiting import until

ADA = User(1, statuses=["VERIFIED"])


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    made = Stand(tmp_path / "data")
    made.load([ADA, *(User(n) for n in range(2, 40))])
    return made


@asynccontextmanager
async def connected(client: httpx.AsyncClient) -> AsyncIterator[trio.SocketStream]:
    """A bare connection to the server."""
    async with await trio.open_tcp_stream(client.base_url.host, client.base_url.port or 80) as stream:
        yield stream


async def until_closed(stream: trio.SocketStream) -> bytes:
    """All that comes until the server closes."""
    got = b""
    with trio.fail_after(5), suppress(trio.BrokenResourceError):  # a reset: it closed with input unread
        while data := await stream.receive_some():
            got += data
    return got


class TestOddRequests:
    @pytest.mark.parametrize(
        "request_bytes",
        [
            b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"GET /users HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n",
            b"GET ?x=1 HTTP/1.1\r\nHost: a\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http://[::1/livez HTTP/1.1\r\nHost: a\r\n\r\n",
        ],
    )
    async def test_unsafe_to_understand(self, stand: Stand, request_bytes: bytes) -> None:
        smuggled = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
        async with serving(stand) as client, connected(client) as stream:
            await stream.send_all(request_bytes + smuggled)
            got = await until_closed(stream)
        assert got.startswith(b"HTTP/1.1 400 ")
        assert got.count(b"HTTP/1.1 ") == 1
        assert b"urn:kycache:problem:malformed-request" in got
        assert b"connection: close" in got.lower()

    @pytest.mark.parametrize(
        ("request_bytes", "status"),
        [
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", b"400"),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 200_000 + b"\r\n\r\n", b"431"),
            (b"GET /livez HTTP/1.0\r\n\r\n", b"200"),
            (b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
            (b"GET /livez HTTP/1.1\r\nHost: a..b\r\nConnection: close\r\n\r\n", b"200"),
            (b"GET http://a/livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"200"),
            (b"GET http://a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"404"),
            (b"GET //livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", b"404"),
            (
                b"GET /users HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                b"403",
            ),
        ],
    )
    async def test_each_gets_its_answer(self, stand: Stand, request_bytes: bytes, status: bytes) -> None:
        async with serving(stand) as client:
            async with connected(client) as stream:
                await stream.send_all(request_bytes)
                got = await until_closed(stream)
            assert got.split(b" ", 2)[1] == status
            assert (await client.get("/livez")).status_code == 200

    async def test_pipelining(self, stand: Stand) -> None:
        paths = ["/livez", f"/users/{ADA.id}", "/nowhere", "/users?size=0", "/livez"]
        asked = "".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths)
        last = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        async with serving(stand) as client, connected(client) as stream:
            await stream.send_all((asked + last).encode())
            got = await until_closed(stream)
        statuses = re.findall(rb"HTTP/1\.1 (\d+) ", got)
        assert statuses == [b"200", b"200", b"404", b"400", b"200", b"200"]

    async def test_http_2_with_prior_knowledge(self, stand: Stand) -> None:
        async with serving(stand) as client, connected(client) as stream:
            await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0")
            with trio.fail_after(5):
                frame = await stream.receive_some()
            assert frame[3] == 4  # SETTINGS
            assert (await client.get("/livez")).status_code == 200

    async def test_dribbled_headers_end(self, stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(server_module, "IDLE_S_MAX", 0.2)
        async with serving(stand) as client, connected(client) as stream:

            async def dribble() -> None:
                try:
                    while True:
                        await stream.send_all(b"X")
                        await trio.sleep(0.02)
                except trio.BrokenResourceError:
                    pass

            async with trio.open_nursery() as nursery:
                nursery.start_soon(dribble)
                with trio.fail_after(5):
                    try:
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass
                nursery.cancel_scope.cancel()

    async def test_idle_connections_end_also_after_an_answer(
        self, stand: Stand, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_module, "IDLE_S_MAX", 0.2)
        async with serving(stand) as client, connected(client) as silent, connected(client) as served:
            await served.send_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await until_closed(served)).startswith(b"HTTP/1.1 200 ")
            assert await until_closed(silent) == b""

    async def test_a_body_is_not_waited_for(self, stand: Stand) -> None:
        async with serving(stand) as client, connected(client) as stream:
            await stream.send_all(b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nabc")
            assert (await until_closed(stream)).startswith(b"HTTP/1.1 405 ")

    async def test_routes_and_methods(self, stand: Stand) -> None:
        async with serving(stand) as client:
            for path in (
                "/",
                "/users/",
                f"/users/{ADA.id}/",
                "/Users",
                "/static/x",
                "/users/a/b",
                "/users/%2F",
                f"/users%2F{ADA.id}",
            ):
                problem(await client.get(path), 404, "no-such-route")
            for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
                response = await client.request(method, "/users")
                problem(response, 405, "method-not-allowed")
                assert response.headers["allow"] == "GET, HEAD"
            for path in ("/users", f"/users/{ADA.id}", "/livez", "/readyz", "/metrics", "/openapi.json", "/docs"):
                head = await client.head(path)
                assert (head.status_code, head.content) == (200, b"")
                assert (await client.get(path)).headers["content-type"] == head.headers["content-type"]
                problem(await client.get(f"{path}?x=1"), 400, "unknown-parameter", "x")

    async def test_our_own_bug_says_nothing(
        self, stand: Stand, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken(_: Router, text: str) -> None:
            raise ValueError(f"secret {text}")

        monkeypatch.setattr(Router, "user_id", broken)
        async with serving(stand) as client:
            body = problem(await client.get(f"/users/{ADA.id}"), 500, "internal-error")
            assert (await client.get("/users")).status_code == 200
        assert "secret" not in str(body)
        assert "secret" not in caplog.text
        assert ADA.id not in caplog.text
        assert "failed while answering /users/<user_id>: ValueError < broken " in caplog.text


class TestStartAndStop:
    async def test_data_of_another_view(self, stand: Stand) -> None:
        stand.view = parse_view(OTHER_VIEW, "other.toml")
        with pytest.raises(Refused, match="was made with view definition"):
            await serve(stand.router(), ENDS_AT_ONCE, stand.directory)

    async def test_data_of_another_view_that_comes_later(self, tmp_path: Path) -> None:
        stand = Stand(tmp_path / "data", view=parse_view(OTHER_VIEW, "other.toml"))
        async with serving(stand) as client:
            Stand(tmp_path / "data").load([ADA])
            problem(await client.get("/users"), 503, "unreadable")
            problem(await client.get("/users/1"), 503, "unreadable")
            assert (await client.get("/readyz")).status_code == 503
            assert "kycache_http_requests_total" in (await client.get("/metrics")).text

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "192.0.2.1", "example.org", ""])
    def test_loopback_only(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match=r"set `\[http\] allow_unauthenticated`"):
            HttpSettings(host=host).check()
        HttpSettings(host=host, allow_unauthenticated=True).check()

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
    def test_loopback(self, host: str) -> None:
        HttpSettings(host=host).check()

    def test_an_ipv6_address_may_be_written_as_in_a_url(self) -> None:
        with bind(HttpSettings(host="[::1]", port=0)) as listener:
            assert listener.getsockname()[0] == "::1"
        for wrong in ("[127.0.0.1]", "[]", "[::1", "[[::1]]", "[::1]:80"):
            with pytest.raises(ConfigurationError):
                bind(HttpSettings(host=wrong, port=0))

    @pytest.mark.parametrize(
        "settings", [{"port": -1}, {"port": 65536}, {"workers": 0}, {"grace_s": -1.0}, {"drain_s": float("nan")}]
    )
    def test_settings_are_checked(self, settings: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError, match=r"`\[http\] "):
            replace(HttpSettings(), **settings).check()

    def test_port_in_use(self) -> None:
        with bind(HttpSettings(port=0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"port {port} on 127.0.0.1 is in use; stop the process"):
                bind(HttpSettings(port=port))

    def test_foreign_address(self) -> None:
        with pytest.raises(ConfigurationError, match="is not an address of this machine"):
            bind(HttpSettings(host="192.0.2.1", port=0, allow_unauthenticated=True))

    async def test_a_socket_handed_in_obeys_the_same_rule(self, stand: Stand) -> None:
        open_to_all = socket.create_server(("0.0.0.0", 0))
        with open_to_all, pytest.raises(ConfigurationError, match="allow_unauthenticated"):
            await serve(stand.router(), ENDS_AT_ONCE, stand.directory, listener=open_to_all)

    async def test_what_is_in_flight_is_answered(self, stand: Stand) -> None:
        answers: list[httpx.Response] = []
        stopped = trio.Event()

        async def run(task_status: "trio.TaskStatus[tuple[str, trio.CancelScope]]") -> None:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    url: str = await nursery.start(partial(serve, stand.router(), settings, stand.directory))
                    task_status.started((url, scope))
            stopped.set()

        async def ask(client: httpx.AsyncClient) -> None:
            answers.append(await client.get("/users", headers={"Kycache-Min-LSN": f"0/{stand.lsn + 1:X}"}))

        settings = replace(WAITS_LONG, drain_s=0.3, grace_s=5.0)
        async with trio.open_nursery() as nursery:
            url, scope = await nursery.start(run)
            async with httpx.AsyncClient(base_url=url, verify=False) as client:
                nursery.start_soon(ask, client)
                await waiting(client, 1)
                scope.cancel()
                await drained(client)
                await refuses(httpx.URL(url).port or 80)
                assert not stopped.is_set()
                stand.beat()
                with trio.fail_after(2):
                    await stopped.wait()
        assert answers[0].status_code == 200

    async def test_the_grace_ends(self, stand: Stand) -> None:
        async with serving(stand, replace(WAITS_LONG, grace_s=0.1)) as client:
            stuck = await trio.open_tcp_stream(client.base_url.host, client.base_url.port or 80)
            await stuck.send_all(b"GET /users HTTP/1.1\r\nHost: a\r\nKycache-Min-LSN: FF/0\r\n\r\n")
            await waiting(client, 1)
            began = trio.current_time()
        assert trio.current_time() - began < 2
        await stuck.aclose()


async def drained(client: httpx.AsyncClient) -> None:
    """Until `/readyz` says so."""

    async def said() -> bool:
        return (await client.get("/readyz")).status_code == 503

    await until(said)


async def refuses(port: int) -> None:
    """Until no connection is taken."""
    with trio.fail_after(5), suppress(OSError):
        while True:
            await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()


def test_modules_hold_no_application() -> None:
    assert not [name for name, value in vars(app_module).items() if isinstance(value, QuartTrio)]
