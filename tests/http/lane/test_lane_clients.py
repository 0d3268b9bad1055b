"""Which lane answers the first request of real clients, byte for byte as they send it."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import trio

from support.http_stand import Stand, User
from support.lanes.raw_http import Server, running

ADA = User(1, statuses=["VERIFIED"])


class Sent(NamedTuple):
    """What a client sends, and the lane that answers it."""

    client: str
    lane: str
    lines: str
    """Each ends with CRLF; the target is the list's."""

    @property
    def request(self) -> bytes:
        lines = [line.strip() for line in self.lines.strip().splitlines()]
        return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


# Captured on 2026-11-30 with what was installed: curl, httpx, requests, urllib, Go, Java.
# The browsers, nginx and HAProxy as their sources and documents have it: they were not at hand.
CLIENTS = [
    Sent(
        "curl 7.88",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: 127.0.0.1:36761
        User-Agent: curl/7.88.1
        Accept: */*""",
    ),
    Sent(
        "curl --http2",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: 127.0.0.1:41151
        User-Agent: curl/7.88.1
        Accept: */*
        Connection: Upgrade, HTTP2-Settings
        Upgrade: h2c
        HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA""",
    ),
    Sent(
        "curl --http1.0",
        "full",
        """GET /users?size=5 HTTP/1.0
        Host: 127.0.0.1:36761
        User-Agent: curl/7.88.1
        Accept: */*""",
    ),
    Sent(
        "httpx 0.28",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: 127.0.0.1:41831
        Accept: */*
        Accept-Encoding: gzip, deflate
        Connection: keep-alive
        User-Agent: python-httpx/0.28.1""",
    ),
    Sent(
        "requests 2.34",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: 127.0.0.1:46811
        User-Agent: python-requests/2.34.2
        Accept-Encoding: gzip, deflate, zstd
        Accept: */*
        Connection: keep-alive""",
    ),
    Sent(
        "urllib of Python 3.11",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Accept-Encoding: identity
        Host: 127.0.0.1:42797
        User-Agent: Python-urllib/3.11
        Connection: close""",
    ),
    Sent(
        "Go 1.26 net/http",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: 127.0.0.1:39433
        User-Agent: Go-http-client/1.1
        Accept-Encoding: gzip""",
    ),
    Sent(
        "Java 17 HttpClient",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Connection: Upgrade, HTTP2-Settings
        Content-Length: 0
        Host: 127.0.0.1:37559
        HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA
        Upgrade: h2c
        User-Agent: Java-http-client/17.0.15""",
    ),
    Sent(
        "Chrome",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: localhost:8080
        Connection: keep-alive
        Cache-Control: max-age=0
        sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24", "Google Chrome";v="140"
        sec-ch-ua-mobile: ?0
        sec-ch-ua-platform: "Linux"
        Upgrade-Insecure-Requests: 1
        User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
        Sec-Fetch-Site: none
        Sec-Fetch-Mode: navigate
        Sec-Fetch-User: ?1
        Sec-Fetch-Dest: document
        Accept-Encoding: gzip, deflate, br, zstd
        Accept-Language: en-GB,en;q=0.9
        Cookie: a=b""",
    ),
    Sent(
        "Firefox",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: localhost:8080
        User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0
        Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
        Accept-Language: en-GB,en;q=0.5
        Accept-Encoding: gzip, deflate, br, zstd
        Connection: keep-alive
        Upgrade-Insecure-Requests: 1
        Sec-Fetch-Dest: document
        Sec-Fetch-Mode: navigate
        Sec-Fetch-Site: none
        Sec-Fetch-User: ?1
        Priority: u=0, i""",
    ),
    Sent(
        "nginx, proxy_http_version 1.0 (its default before 1.29.7)",
        "full",
        """GET /users?size=5 HTTP/1.0
        Host: kycache
        Connection: close
        User-Agent: curl/7.88.1
        Accept: */*""",
    ),
    Sent(
        "nginx, proxy_http_version 1.1 and an empty Connection",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Host: kycache
        X-Real-IP: 192.0.2.1
        X-Forwarded-For: 192.0.2.1
        X-Forwarded-Proto: https
        User-Agent: curl/7.88.1
        Accept: */*""",
    ),
    Sent(
        "nginx, set up for WebSockets",
        "fast",
        """GET /users?size=5 HTTP/1.1
        Connection: upgrade
        Host: kycache
        User-Agent: curl/7.88.1
        Accept: */*""",
    ),
    Sent(
        "HAProxy",
        "fast",
        """GET /users?size=5 HTTP/1.1
        host: example.org
        user-agent: curl/7.88.1
        accept: */*
        x-forwarded-for: 192.0.2.1
        x-forwarded-proto: https""",
    ),
    Sent(
        "Perl LWP",
        "full",
        """GET /users?size=5 HTTP/1.1
        TE: deflate,gzip;q=0.3
        Connection: TE, close
        Host: 127.0.0.1:8080
        User-Agent: libwww-perl/6.77""",
    ),
]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    stand = Stand(tmp_path / "data")
    stand.load([ADA])
    async with running(stand) as server:
        yield server
    stand.close()


@pytest.mark.parametrize("sent", CLIENTS, ids=[sent.client for sent in CLIENTS])
async def test_the_lane_of_each_client(server: Server, sent: Sent) -> None:
    async with server.connected() as raw:
        assert (await raw.ask(sent.request)).status == 200
    assert server.counted("lanes") == {sent.lane: 1}


REAL = {
    "curl": ["curl", "--silent", "--fail"],
    "curl --http2": ["curl", "--silent", "--fail", "--http2"],
    "urllib": [
        sys.executable,
        "-c",
        "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())",
    ],
}


@pytest.mark.parametrize("client", [name for name, command in REAL.items() if shutil.which(command[0])])
async def test_a_real_client(server: Server, client: str) -> None:
    """Those that are on this machine."""
    ask = partial(subprocess.run, capture_output=True, text=True, check=True, timeout=60)
    done = await trio.to_thread.run_sync(ask, [*REAL[client], f"http://127.0.0.1:{server.port}/users/{ADA.id}"])
    assert f'"userId":"{ADA.id}"' in done.stdout
    assert server.counted("lanes") == {"fast": 1}


async def test_real_httpx(server: Server) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        first = await client.get(f"/users/{ADA.id}")
        again = await client.get(f"/users/{ADA.id}", headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code) == (200, 304)
    assert server.counted("lanes") == {"fast": 2}
