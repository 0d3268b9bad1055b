"""What a connection may send that Hypercorn's handler fails at: it ends that connection, never the server."""

import re
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import h2.connection
import h2.events
import h2.settings
import hpack
import httpx
import pytest
import trio

from kycache.http.serving import gate, server
from kycache.http.serving.bounded import BoundedListener
from support.http_stand import ENDS_AT_ONCE, Stand, people, serving, until_metric

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, PRIORITY, SETTINGS = 1, 2, 4
INITIAL_WINDOW_SIZE = 4
END_STREAM, END_HEADERS = 1, 4
CHUNK_BYTES = 70_000
"""At most, of 500 rows."""
UPGRADE = b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def http_2(*frames: bytes) -> bytes:
    return PREFACE + frame(SETTINGS, 0, 0) + b"".join(frames)


def head(stream: int, **fields: bytes) -> bytes:
    """A request without a body; its pseudo-headers."""
    pairs = [(f":{name}".encode(), value) for name, value in fields.items()]
    return frame(HEADERS, END_STREAM | END_HEADERS, stream, hpack.Encoder().encode(pairs))


PRIORITIES = [frame(PRIORITY, 0, 2 * n + 1, struct.pack(">IB", 0, 5)) for n in range(1, 3000)]


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    made = Stand(tmp_path / "data")
    made.load(people(1200))
    return made


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(http_2(*PRIORITIES), id="priorities"),
        pytest.param(http_2(head(1, method=b"CONNECT", authority=b"a:1")), id="connect"),
        pytest.param(
            http_2(head(1, method=b"G\xff", scheme=b"http", authority=b"a", path=b"/livez")), id="method"
        ),
        pytest.param(UPGRADE + b"Upgrade: h2c\r\nHTTP2-Settings: AAEA\r\n\r\n", id="settings"),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: a\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Extensions: \xff\r\n\r\n",
            id="websocket",
        ),
    ],
)
async def test_ends_that_connection_only(stand: Stand, sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(stand) as client:
        for _ in range(2):
            async with await connected(client) as stream:
                await stream.send_all(sent)
                with trio.fail_after(5):
                    try:
                        while await stream.receive_some():
                            pass
                    except trio.BrokenResourceError:
                        pass  # closed with input unread
        assert (await client.get("/users")).status_code == 200
    told = [r.getMessage() for r in caplog.records if "a connection failed and was closed" in r.getMessage()]
    assert len(told) == 1  # not once a connection


async def test_a_body_that_comes_after_the_answer(stand: Stand) -> None:
    """A refused POST is answered before its body came; what else goes on over the connection goes on."""
    post = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/users")]
    get = [(":method", "GET"), *post[1:]]
    async with serving(stand) as client:
        async with await connected(client) as stream:
            speaker = h2.connection.H2Connection()
            speaker.initiate_connection()
            speaker.send_headers(1, post)
            assert await answered(stream, speaker) == "405"
            speaker.send_data(1, b"x" * 1000)
            speaker.send_data(1, b"x", end_stream=True)
            speaker.send_headers(3, get, end_stream=True)
            assert await answered(stream, speaker) == "200"
        assert (await client.get("/livez")).status_code == 200


async def test_a_window_that_is_shut_holds_no_export(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel sees a live connection."""
    monkeypatch.setattr(gate, "UNTAKEN_S_MAX", 0.2)
    get = {"method": b"GET", "scheme": b"http", "authority": b"a", "path": b"/users/export"}
    shut = PREFACE + frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))
    async with serving(stand) as client, await connected(client) as stream:
        await stream.send_all(shut + head(1, **get))
        await until_metric(client, 'kycache_http_exports_total{outcome="left"} 1.0')
        assert "kycache_http_exports_running 0.0" in (await client.get("/metrics")).text


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(http_2(), id="preface"),
        pytest.param(
            b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n",
            id="websocket",
        ),
    ],
)
async def test_a_connection_on_which_nothing_moves_ends(
    stand: Stand, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "UNMOVED_S_MAX", 0.1)
    async with serving(stand) as client, await connected(client) as stream:
        await stream.send_all(sent)
        with trio.fail_after(5):
            async for _ in stream:
                pass


async def test_who_reads_slowly_or_waits_is_not_one_of_them(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "UNMOVED_S_MAX", 0.1)
    async with serving(stand, replace(ENDS_AT_ONCE, freshness_wait_s=0.5)) as client:
        bare = trio.socket.socket()
        bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        await bare.connect((client.base_url.host, client.base_url.port))
        async with trio.SocketStream(bare) as stream:
            await stream.send_all(b"GET /users/export HTTP/1.0\r\n\r\n")
            late = await client.get("/users", headers={"Kycache-Min-LSN": "FF/0"})
            assert late.status_code == 503
            got = b"".join([data async for data in stream])
        assert got.splitlines()[-1].startswith(b'{"end":true,"rows":1200,')


@pytest.mark.parametrize(
    "asked", [b"", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", http_2()], ids=["not", "1.1", "2"]
)
async def test_who_left_is_forgotten_at_once(stand: Stand, asked: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the time for idle connections is over: each would hold a descriptor until then."""
    forgotten = trio.Event()
    ended = BoundedListener.ended

    def noticed(listener: BoundedListener) -> None:
        ended(listener)
        forgotten.set()

    monkeypatch.setattr(BoundedListener, "ended", noticed)
    async with serving(stand) as client:
        async with await connected(client) as stream:
            await stream.send_all(asked)
            if asked:
                await stream.receive_some()
        with trio.fail_after(5):
            await forgotten.wait()


async def test_an_export_lies_in_no_memory_while_its_reader_is_slow(tmp_path: Path) -> None:
    """Read in the end, it is the one that HTTP/1.1 gives."""
    stand = Stand(tmp_path / "data")
    stand.load(people(3000))
    get = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/users/export")]
    async with serving(stand) as client, await connected(client) as stream:
        whole = (await client.get("/users/export", headers={"accept-encoding": "identity"})).content
        sent = await exported(client)
        assert sent == len(whole) > 4 * CHUNK_BYTES
        speaker = h2.connection.H2Connection()
        speaker.initiate_connection()
        speaker.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 1000})
        speaker.send_headers(1, get, end_stream=True)
        got = b""
        async for event in events(stream, speaker):
            if isinstance(event, h2.events.DataReceived):
                assert await exported(client) - sent - len(got) < 2 * CHUNK_BYTES
                got += event.data
                speaker.acknowledge_received_data(event.flow_controlled_length, 1)
        assert got == whole


async def exported(client: httpx.AsyncClient) -> float:
    """How many bytes of exports were made so far."""
    return float(re.findall(r"export_bytes_total (\d\S*)", (await client.get("/metrics")).text)[0])


async def connected(client: httpx.AsyncClient) -> trio.SocketStream:
    """A bare connection to the server."""
    return await trio.open_tcp_stream(client.base_url.host, client.base_url.port or 80)


async def events(stream: trio.SocketStream, speaker: h2.connection.H2Connection) -> AsyncIterator[h2.events.Event]:
    """What comes, until an answer is whole."""
    with trio.fail_after(20):
        while True:
            await stream.send_all(speaker.data_to_send())
            for event in speaker.receive_data(await stream.receive_some()):
                yield event
                if isinstance(event, h2.events.StreamEnded):
                    return


async def answered(stream: trio.SocketStream, speaker: h2.connection.H2Connection) -> str:
    """The status of the next answer, once it is whole."""
    status = ""
    async for event in events(stream, speaker):
        if isinstance(event, h2.events.ResponseReceived):
            status = dict(event.headers)[b":status"].decode()
    return status
