"""What a connection may send that Hypercorn's handler fails at: it ends that connection, never the server."""

import struct
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import hpack
import pytest
import trio
from http_stand import Stand, User, serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, PRIORITY, SETTINGS = 1, 2, 4
END_STREAM, END_HEADERS = 1, 4
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
    made.load([User(n) for n in range(1, 5)])
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
            async with await trio.open_tcp_stream(client.base_url.host, client.base_url.port or 80) as stream:
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
        async with await trio.open_tcp_stream(client.base_url.host, client.base_url.port or 80) as stream:
            speaker = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="ascii"))
            speaker.initiate_connection()
            speaker.send_headers(1, post)
            assert await answered(stream, speaker) == "405"
            speaker.send_data(1, b"x" * 1000)
            speaker.send_data(1, b"x", end_stream=True)
            speaker.send_headers(3, get, end_stream=True)
            assert await answered(stream, speaker) == "200"
        assert (await client.get("/livez")).status_code == 200


async def answered(stream: trio.SocketStream, speaker: h2.connection.H2Connection) -> str:
    """The status of the next answer, once it is whole."""
    status = ""
    with trio.fail_after(5):
        while True:
            await stream.send_all(speaker.data_to_send())
            for event in speaker.receive_data(await stream.receive_some()):
                if isinstance(event, h2.events.ResponseReceived):
                    status = dict(event.headers)[":status"]
                elif isinstance(event, h2.events.StreamEnded):
                    return status
