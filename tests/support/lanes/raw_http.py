"""HTTP/1.1 written and read as bytes: what no client library would send, and every byte of what comes back."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import NamedTuple

import trio

from kycache.http.exchange.counts import Counts, Tally
from kycache.http.serving.server import serve
from kycache.http.serving.settings import HttpSettings
from support.http_stand import ENDS_AT_ONCE, Stand

ANSWER_S = 20.0
"""Many times what any answer takes."""

CUT_BYTES = 4096
"""What a connection reads at once."""


class Server(NamedTuple):
    """A server in this process, and what it counted."""

    port: int
    counts: Counts

    def counted(self, counter: str) -> dict[str, int]:
        """A counter with outcomes: those that are not 0."""
        for family in self.counts.tally.collect():
            if family.name == f"kycache_http_{counter}":
                return {s.labels["outcome"]: int(s.value) for s in family.samples if s.value}
        raise KeyError(counter)

    def gauge(self, name: str) -> int:
        """A gauge."""
        families = self.counts.tally.collect()
        return int(next(f for f in families if f.name == f"kycache_http_{name}").samples[0].value)

    @asynccontextmanager
    async def connected(self) -> AsyncIterator["Raw"]:
        """A connection of its own."""
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Raw(stream)

    async def sent(self, *segments: bytes) -> bytes:
        """All that a connection gets for these bytes, each segment sent by itself, until the server closes it."""
        async with self.connected() as raw:
            with suppress(trio.BrokenResourceError):  # refused before it was all sent
                for segment in segments:
                    await raw.send(segment)
                    await trio.lowlevel.checkpoint()
            return await raw.rest()


@asynccontextmanager
async def running(stand: Stand, settings: HttpSettings = ENDS_AT_ONCE) -> AsyncIterator[Server]:
    """The server over a stand."""
    router = stand.router()
    counts = Tally().row(0)
    try:
        async with trio.open_nursery() as nursery:
            url: str = await nursery.start(partial(serve, router, settings, stand.directory, counts=counts))
            yield Server(int(url.rpartition(":")[2]), counts)
            nursery.cancel_scope.cancel()
    finally:
        router.close()


class Answered(NamedTuple):
    """An answer as it came."""

    status: int
    lines: tuple[bytes, ...]
    """The headers, in order."""
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, which is there once at most."""
        found = [line for line in self.lines if line.lower().startswith(name.lower().encode() + b":")]
        assert len(found) <= 1
        return found[0].partition(b":")[2].strip().decode("latin1") if found else None


class Raw:
    """A connection that sends bytes, and takes answers apart."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._got = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, *, head: bool = False) -> Answered:
        """The next answer, of one with a length."""
        with trio.fail_after(ANSWER_S):
            top = await self._until(b"\r\n\r\n")
            first, *lines = top.split(b"\r\n")
            answered = Answered(int(first.split(b" ")[1]), tuple(lines), b"")
            if head or answered.status in (101, 304):
                return answered
            if answered.header("transfer-encoding") == "chunked":
                return answered._replace(body=await self._chunks())
            return answered._replace(body=await self._exactly(int(answered.header("content-length") or 0)))

    async def ask(self, data: bytes) -> Answered:
        """Send a request, and take its answer."""
        await self.send(data)
        return await self.answer(head=data.startswith(b"HEAD"))

    async def rest(self) -> bytes:
        """All that comes until the server closes."""
        got = [self._got]
        with trio.fail_after(ANSWER_S), suppress(trio.BrokenResourceError):  # closed with input unread
            while data := await self.stream.receive_some():
                got.append(bytes(data))
        self._got = b""
        return b"".join(got)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self._until(b"\r\n"), 16):
            body += await self._exactly(size)
            await self._exactly(2)
        await self._exactly(2)
        return body

    async def _until(self, mark: bytes) -> bytes:
        while mark not in self._got:
            await self._more()
        found, _, self._got = self._got.partition(mark)
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._got) < size:
            await self._more()
        found, self._got = self._got[:size], self._got[size:]
        return found

    async def _more(self) -> None:
        data = await self.stream.receive_some(CUT_BYTES)
        if not data:
            raise EOFError(f"the server closed; it had sent {self._got[:200]!r}")
        self._got += data


def get(target: str | bytes, *headers: str | bytes, method: str = "GET") -> bytes:
    """A plain request."""
    lines = [f"{method} ".encode() + _bytes(target) + b" HTTP/1.1", b"Host: a", *map(_bytes, headers), b"", b""]
    return b"\r\n".join(lines)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin1")


def undated(got: bytes) -> bytes:
    """Answers without their Date."""
    return re.sub(rb"\r\ndate: [^\r]*", b"\r\ndate: then", got)
