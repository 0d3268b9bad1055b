"""Connections that change lanes: each request is answered once, in order, and plain ones come back."""

import random
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import httpx
import pytest
import trio

from kycache.http.serving import server as server_module
from support.http_stand import ENDS_AT_ONCE, Stand, User
from support.lanes.raw_http import Raw, Server, get, running, undated

ADA = User(1, statuses=["VERIFIED"])
DETAIL = get(f"/users/{ADA.id}")
LIST = get("/users?size=2")
LIVEZ = get("/livez")
LAST = get("/users?size=1", "Connection: close")
POST = b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /users HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
BODY_OF_GET = b"GET /users?size=2 HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(LIVEZ) + LIVEZ
WEBSOCKET = (
    b"GET /users HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    made = Stand(tmp_path / "data")
    made.load([ADA, *(User(n) for n in range(2, 40))])
    return made


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    async with running(stand, replace(ENDS_AT_ONCE, grace_s=0.5)) as server:
        yield server


def statuses(got: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", got)]


async def test_another_route_between_pooled_requests(server: Server) -> None:
    async with server.connected() as raw:
        for _ in range(3):
            for _ in range(5):
                assert (await raw.ask(DETAIL)).status == 200
                assert (await raw.ask(LIST)).status == 200
            assert (await raw.ask(LIVEZ)).status == 200
        assert (await raw.ask(DETAIL)).status == 200
    assert server.counted("lanes") == {"fast": 31, "full": 3}
    assert server.counted("hand_overs") == {"route": 3}


@pytest.mark.parametrize("client_keeps", [True, False])
async def test_a_pool_of_a_real_client(server: Server, client_keeps: bool) -> None:
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1 if client_keeps else 0)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", limits=limits) as client:
        for path in ("/users", "/livez", f"/users/{ADA.id}", "/openapi.json", "/users") * 3:
            assert (await client.get(path)).status_code == 200
    assert server.counted("lanes") == {"fast": 9, "full": 6}
    assert server.counted("hand_overs") == {"route": 6}


MIXED = [
    pytest.param([DETAIL, LIVEZ, DETAIL, LAST], [200] * 4, id="livez"),
    pytest.param([LIST, DETAIL, LIVEZ, LIVEZ, DETAIL, LIVEZ, LIST, LAST], [200] * 8, id="often"),
    pytest.param([DETAIL, POST, DETAIL, LAST], [200, 405, 200, 200], id="body"),
    pytest.param([DETAIL, CHUNKED, LIST, LAST], [200, 405, 200, 200], id="chunks"),
    pytest.param([DETAIL, BODY_OF_GET, DETAIL, LAST], [200] * 4, id="a body that is a request"),
    pytest.param([DETAIL, get("/users/export"), DETAIL, LAST], [200] * 4, id="export"),
    pytest.param([DETAIL, get("/users/export", method="HEAD"), LIST, LAST], [200] * 4, id="HEAD of the export"),
    pytest.param([get("/users/", method="HEAD"), DETAIL, LAST], [404, 200, 200], id="no route"),
    pytest.param([LIVEZ, get("/users", "TE: trailers", "Connection: TE"), LAST], [200] * 3, id="TE"),
    pytest.param([DETAIL, get("/livez", method="HEAD"), get("/users", method="HEAD"), LAST], [200] * 4, id="HEAD"),
    pytest.param([DETAIL, WEBSOCKET], [200, 403], id="websocket"),
    pytest.param([DETAIL, LIVEZ, WEBSOCKET], [200, 200, 403], id="websocket after all"),
    pytest.param([DETAIL, b"GET /livez HTTP/1.0\r\n\r\n"], [200, 200], id="1.0"),
    pytest.param([DETAIL, b"\r\n" + DETAIL], [200, 400], id="an empty line"),
    pytest.param([DETAIL, b"rubbish\r\n\r\n", DETAIL], [200, 400], id="rubbish"),
    pytest.param([LIVEZ, DETAIL, b"GET /users HTTP/1.1\r\nHost: a\n\n", LAST], [200] * 4, id="bare LF"),
    pytest.param([DETAIL, b"GET /users HTTP/1.1\r\n\r\n", DETAIL], [200, 400], id="no host"),
    pytest.param([DETAIL, get("/users", "X: y\r\n folded"), DETAIL, LAST], [200] * 4, id="folded"),
]


@pytest.mark.parametrize(("asked", "expected"), MIXED)
async def test_however_the_bytes_come(
    stand: Stand, server: Server, asked: list[bytes], expected: list[int]
) -> None:
    """In whatever segments: the answers are those of the full lane."""
    whole = b"".join(asked)
    bodies = any(one in asked for one in (POST, CHUNKED, BODY_OF_GET))
    rng = random.Random(len(whole))
    cuts = sorted(rng.sample(range(1, len(whole)), 5))
    ways = {
        "one segment": [whole],
        "one each": asked,
        "byte by byte": [bytes([byte]) for byte in whole],
        "within CRLF": re.findall(rb".*?\r|.+$", whole, re.DOTALL),
        "anywhere": [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)],
    }
    async with running(stand, replace(ENDS_AT_ONCE, fast_lane=False)) as full:
        right = undated(await full.sent(whole))
    assert statuses(right) == expected
    for way, segments in ways.items():
        assert b"".join(segments) == whole
        got = undated(await server.sent(*segments))
        if bodies and way in ("byte by byte", "within CRLF", "anywhere"):
            assert right.startswith(got), way  # answered before its body had come, a request is the last one
            assert len(statuses(got)) >= 2, way
        else:
            assert statuses(got) == expected, way
            assert got == right, way


async def test_the_answer_of_the_last_byte(server: Server) -> None:
    """Nothing is answered before its last byte, and everything upon it."""
    async with server.connected() as raw:
        for asked in (DETAIL, LIVEZ, LIST, DETAIL):
            await raw.send(asked[:-1])
            with trio.move_on_after(0.02):
                pytest.fail(f"answered too early: {await raw.stream.receive_some()!r}")
            await raw.send(asked[-1:])
            assert (await raw.answer()).status == 200


async def test_a_body_that_does_not_come(server: Server) -> None:
    """The answer comes, and nothing that follows is taken for a request."""
    async with server.connected() as raw:
        assert (await raw.ask(DETAIL)).status == 200
        await raw.send(b"POST /users HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + DETAIL)
        assert (await raw.answer()).status == 405
        assert await raw.rest() == b""
    assert server.counted("lanes")["fast"] == 1


async def test_a_body_that_comes_late_is_no_request(server: Server) -> None:
    async with server.connected() as raw:
        assert (await raw.ask(DETAIL)).status == 200
        await raw.send(b"GET /users HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(DETAIL))
        await trio.sleep(0.05)
        await raw.send(DETAIL)
        got = await raw.rest() if (await raw.answer()).header("connection") == "close" else b""
        assert got == b""
    assert server.counted("lanes")["fast"] == 1


async def test_a_request_that_waits_between_others(server: Server) -> None:
    late = get("/users?size=3", "Kycache-Min-LSN: FF/0")
    got = await server.sent(DETAIL + late + LIVEZ + late + LAST)
    assert statuses(got) == [200, 503, 200, 503, 200]
    assert server.counted("lanes") == {"fast": 2, "full": 3}  # what came with the other route is answered there


async def test_what_follows_a_close_is_not_answered(server: Server) -> None:
    for last in (LAST, get("/livez", "Connection: close")):
        for segments in ([DETAIL, last, DETAIL, LIVEZ], [DETAIL + last, DETAIL]):
            assert statuses(await server.sent(*segments)) == [200, 200]
    assert statuses(await server.sent(DETAIL + LAST + LIVEZ)) == [200, 200]


async def h2_answer(raw: Raw, speaker: h2.connection.H2Connection) -> tuple[str, bytes]:
    """Status and body of the next answer."""
    status, body = "", b""
    while True:
        await raw.send(speaker.data_to_send())
        for event in speaker.receive_data(await raw.stream.receive_some()):
            if isinstance(event, h2.events.ResponseReceived):
                status = dict(event.headers)[b":status"].decode()
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            if isinstance(event, h2.events.StreamEnded):
                return status, body


@pytest.mark.parametrize("before", [[], [DETAIL], [DETAIL, LIVEZ]], ids=["first", "after the lane", "after both"])
async def test_http_2_by_prior_knowledge(server: Server, before: list[bytes]) -> None:
    async with server.connected() as raw:
        for asked in before:
            assert (await raw.ask(asked)).status == 200
        speaker = h2.connection.H2Connection()
        speaker.initiate_connection()
        for stream, path in ((1, "/livez"), (3, "/users?size=2"), (5, f"/users/{ADA.id}")):
            fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", path)]
            speaker.send_headers(stream, fields, end_stream=True)
            with trio.fail_after(5):
                status, body = await h2_answer(raw, speaker)
            assert status == "200"
        async with server.connected() as other:
            assert (await other.ask(DETAIL)).body == body


async def test_http_2_by_upgrade(server: Server) -> None:
    """Of another route it is made; a hot path is answered in HTTP/1.1, as RFC 9110 allows."""
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
    async with server.connected() as raw:
        found = await raw.ask(get(f"/users/{ADA.id}", *upgrade))
        assert (found.status, found.header("upgrade")) == (200, None)
        await raw.send(get("/livez", *upgrade))
        assert (await raw.answer()).status == 101
        speaker = h2.connection.H2Connection()
        speaker.initiate_upgrade_connection()
        with trio.fail_after(5):
            assert (await h2_answer(raw, speaker))[0] == "200"
    assert server.counted("lanes") == {"fast": 1, "full": 1}


@pytest.mark.parametrize("full", [[], [2], [1, 3], [4, 5], [0, 1, 2, 3, 4, 5]])
async def test_requests_per_connection(stand: Stand, full: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted over hand-overs; the last answer says that it is the last."""
    monkeypatch.setattr(server_module, "REQUESTS_PER_CONNECTION_MAX", 6)
    asked = [LIVEZ if n in full else DETAIL for n in range(6)]
    for pipelined in (False, True):
        async with running(stand) as server, server.connected() as raw:
            if pipelined:
                await raw.send(b"".join(asked) + DETAIL)
            answers = [await raw.answer() if pipelined else await raw.ask(one) for one in asked]
            assert [a.header("connection") for a in answers] == [None] * 5 + ["close"]
            assert {a.status for a in answers} == {200}
            assert await raw.rest() == b""
            if not pipelined:
                assert server.counted("lanes").get("fast", 0) == 6 - len(full)


async def test_a_client_that_leaves_in_either_lane(server: Server) -> None:
    for asked in ([], [DETAIL], [LIVEZ], [DETAIL, LIVEZ], [LIVEZ, DETAIL[:-3]], [DETAIL, LIVEZ[:-3]], [POST[:-2]]):
        async with server.connected() as raw:
            for sent in asked:
                await raw.send(sent)
                if sent.endswith(b"\r\n\r\n"):
                    assert (await raw.answer()).status == 200
    async with server.connected() as raw:
        assert (await raw.ask(DETAIL)).status == 200
