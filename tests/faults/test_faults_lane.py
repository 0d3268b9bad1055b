"""FAULTS 22, 23, 24 and 28 in the fast lane: smuggling, slow heads and readers, clients that leave, the end."""

import random
import re
import signal
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from kycache.http.reads import answers
from kycache.http.serving import server as server_module
from kycache.http.serving.bounded import BoundedListener
from kycache.http.serving.limits import IDLE_S_MAX
from kycache.model.change import Change, Item
from kycache.model.values import Value
from support.faults import seeds
from support.http_stand import ENDS_AT_ONCE, WAITS_LONG, Stand, User, people
from support.lanes.raw_http import Server, get, running
from support.services import own_bytes, started
from support.waiting import until, wait_until

ADA = User(1, statuses=["VERIFIED"])
DETAIL = get(f"/users/{ADA.id}")
LAST = get(f"/users/{ADA.id}", "Connection: close")
PAGE = get("/users?size=500")
LATE = get("/users", "Kycache-Min-LSN: FF/0")
WAIT_S = 60.0
IDLE_S = 0.2
END_S_MAX = 0.6
"""After no more connections are taken, an idle one is closed."""

SLOW_READERS = 20
READER_BYTES_MAX = 512 * 1024
"""Of memory that a client may hold by not reading: what is gathered at once, twice, and a page."""

PAGES_BETWEEN_MAX = 30
"""Pages that one client's pipelined requests may get while another waits for its turn; 370 are in hand."""

CLIENTS = 4


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    made = Stand(tmp_path / "data")
    made.load([ADA, *people(1000)])
    return made


@pytest.fixture
async def server(stand: Stand) -> AsyncIterator[Server]:
    async with running(stand, replace(ENDS_AT_ONCE, grace_s=1.0)) as server:
        yield server


def statuses(got: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+) ", got)]


def framed(*lines: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join((method + b" /users?size=1 HTTP/1.1", b"Host: a", *lines, b"", b""))


SMUGGLED = get("/users/smuggled")
"""Where it is taken for a request there is one answer more, or a 400 that names the id."""

LENGTH = b"Content-Length: %d" % len(SMUGGLED)
CHUNK = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)

SMUGGLING = {
    "CL.0": framed(LENGTH) + SMUGGLED,
    "CL.0, HEAD": framed(LENGTH, method=b"HEAD") + SMUGGLED,
    "CL twice": framed(b"Content-Length: 0", LENGTH) + SMUGGLED,
    "CL twice, the other way": framed(LENGTH, b"Content-Length: 0") + SMUGGLED,
    "CL list": framed(b"Content-Length: 0, %d" % len(SMUGGLED)) + SMUGGLED,
    "CL with a sign": framed(b"Content-Length: +%d" % len(SMUGGLED)) + SMUGGLED,
    "CL with a blank before the colon": framed(b"Content-Length : %d" % len(SMUGGLED)) + SMUGGLED,
    "CL folded": framed(b"X: y\r\n Content-Length: 0", LENGTH) + SMUGGLED,
    "CL.TE": framed(LENGTH, b"Transfer-Encoding: chunked") + b"0\r\n\r\n" + SMUGGLED,
    "TE.CL": framed(b"Transfer-Encoding: chunked", b"Content-Length: 4") + CHUNK,
    "TE": framed(b"Transfer-Encoding: chunked") + CHUNK,
    "TE in capitals": framed(b"TRANSFER-ENCODING:\tChunked") + CHUNK,
    "TE unknown": framed(b"Transfer-Encoding: xchunked") + CHUNK,
    "TE twice": framed(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity") + CHUNK,
    "TE with a blank before the colon": framed(b"Transfer-Encoding : chunked") + CHUNK,
    "TE after a bare LF": framed(b"X: y\nTransfer-Encoding: chunked") + CHUNK,
    "TE after a bare CR": framed(b"X: y\rTransfer-Encoding: chunked") + SMUGGLED,
    "TE folded": framed(b"Transfer-Encoding:\r\n chunked") + CHUNK,
    "TE after a NUL": framed(b"X: \x00\r\nTransfer-Encoding: chunked") + CHUNK,
    "POST": framed(LENGTH, method=b"POST") + SMUGGLED,
    "Expect": framed(b"Expect: 100-continue", LENGTH) + SMUGGLED,
    "Upgrade with a body": framed(b"Upgrade: h2c", b"HTTP2-Settings: AAEA", LENGTH) + SMUGGLED,
}


@pytest.mark.parametrize("kind", SMUGGLING)
@pytest.mark.parametrize("before", [b"", DETAIL], ids=["first", "second"])
async def test_nothing_is_smuggled(server: Server, kind: str, before: bytes) -> None:
    """What some part on the way may take for a body is never answered as a request, in one segment or in two."""
    sent = before + SMUGGLING[kind]
    at = sent.index(b"\r\n\r\n", len(before)) + 4
    for segments in ([sent], [sent[:at], sent[at:]], [sent[: at - 2], sent[at - 2 :]]):
        async with server.connected() as raw:
            with suppress(trio.BrokenResourceError):
                for segment in segments:
                    await raw.send(segment)
                    await trio.sleep(0.01)
                await raw.send(LAST)
            found = statuses(await raw.rest())
        found = found[1:] if before else found
        if kind == "TE after a bare CR":
            assert found == [400]
        if not found or found[0] in (400, 501):
            assert len(found) <= 1  # refused, and closed: sometimes before the refusal is sent (Hypercorn 0.18)
        assert len(found) <= (3 if 100 in found else 2)
    async with server.connected() as raw:
        smuggled = await raw.ask(SMUGGLED)
        assert smuggled.status == 400
    of_each = 2 if before else 1  # the first, and the last
    assert server.counted("lanes")["fast"] <= 3 * of_each + 1


async def test_a_dribbled_head_ends(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the idle time after it began, however many bytes come; others are served meanwhile."""
    monkeypatch.setattr(server_module, "IDLE_S_MAX", IDLE_S)

    async def dribble(server: Server, before: bytes) -> None:
        async with server.connected() as raw:
            if before:
                assert (await raw.ask(before)).status == 200
            began = trio.current_time()
            with suppress(trio.BrokenResourceError), trio.fail_after(WAIT_S):
                await raw.send(b"GET /users HTTP/1.1\r\nX: ")
                while trio.current_time() - began < WAIT_S:
                    await raw.send(b"x")
                    await trio.sleep(0.01)
            assert trio.current_time() - began >= IDLE_S

    async with running(stand) as server:
        async with trio.open_nursery() as nursery:
            for before in (b"", DETAIL, get("/livez"), get("/users")):
                nursery.start_soon(dribble, server, before)
            async with server.connected() as live:
                for _ in range(20):
                    assert (await live.ask(DETAIL)).status == 200
                    await trio.sleep(0.01)
        assert server.counted("lanes")["fast"] >= 22


async def test_idle_connections_end(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent ones, those that had an answer in either lane, and those that came back; in use they stay."""
    monkeypatch.setattr(server_module, "IDLE_S_MAX", IDLE_S)
    livez = get("/livez")

    async def idle(server: Server, asked: list[bytes]) -> None:
        async with server.connected() as raw:
            for one in asked:
                assert (await raw.ask(one)).status == 200
            with trio.fail_after(WAIT_S):
                assert await raw.rest() == b""

    async with running(stand) as server, trio.open_nursery() as nursery:
        for asked in ([], [DETAIL], [livez], [DETAIL, livez], [livez, DETAIL]):
            nursery.start_soon(idle, server, asked)
        async with server.connected() as live:
            began = trio.current_time()
            while trio.current_time() - began < 3 * IDLE_S:
                assert (await live.ask(DETAIL)).status == 200
                await trio.sleep(IDLE_S / 10)


async def test_a_head_in_slow_segments_is_answered(stand: Stand) -> None:
    async with running(stand) as server, server.connected() as raw:
        for segment in re.findall(rb".{1,9}", DETAIL, re.DOTALL):
            await raw.send(segment)
            await trio.sleep(0.01)
        assert (await raw.answer()).status == 200
        assert server.counted("lanes") == {"fast": 1}


async def test_a_request_that_waits_blocks_no_other(stand: Stand) -> None:
    """And what is pipelined after it has its answer after it, what was before it at once."""
    async with running(stand, WAITS_LONG) as server, server.connected() as waits, server.connected() as live:
        late = get("/users?size=1", f"Kycache-Min-LSN: 0/{stand.lsn + 100:X}")
        await waits.send(DETAIL + late + DETAIL)
        assert (await waits.answer()).status == 200
        await until(lambda: server.gauge("freshness_waiting") == 1)
        for _ in range(20):
            assert (await live.ask(DETAIL)).status == 200
        assert server.gauge("freshness_waiting") == 1
        stand.beat()
        assert [(await waits.answer()).status for _ in range(2)] == [200, 200]
        assert server.counted("lanes") == {"fast": 23}


@pytest.mark.parametrize("after", [b"", DETAIL], ids=["alone", "with one more"])
@pytest.mark.parametrize("reset", [True, False])
async def test_who_leaves_waits_no_longer(stand: Stand, after: bytes, reset: bool) -> None:
    async with running(stand, WAITS_LONG) as server:
        async with server.connected() as raw:
            await raw.send(LATE + after)
            await until(lambda: server.gauge("freshness_waiting") == 1)
            if reset:
                raw.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if after and not reset:
            return  # what it sent is not read yet, so that its end is not known
        with trio.fail_after(WAITS_LONG.freshness_wait_s / 2):
            await until(lambda: server.gauge("freshness_waiting") == 0)


def rows_of(stand: Stand, user: User, rows: int) -> None:
    """Give a user so many KYC records."""
    shard = stand.shard_of(user)
    origin = stand._streamed(None)
    columns = stand.view.tables[1].columns
    items: list[Item] = []
    for place in range(rows):
        key = place.to_bytes(16, "big")
        given: dict[str, Value] = {"kyc_id": key, "status": "VERIFIED", "updated_at": place}
        row = tuple(given.get(column.name) for column in columns)
        offset = stand.offsets[shard] + place
        items.append(Change(offset, origin, 1, user.id.encode(), user.key, key, row))
    stand.apply(shard, items)


@pytest.mark.parametrize("fast_lane", [True, False])
@pytest.mark.parametrize("asked", [get("/livez") * 3, get("/livez") + PAGE, get("/users/export") * 2])
async def test_who_resets_a_pipeline_is_forgotten(
    stand: Stand, asked: bytes, fast_lane: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hypercorn's reader waits for the end of an answer that cannot be sent."""
    forgotten = 0
    ended = BoundedListener.ended

    def noticed(listener: BoundedListener) -> None:
        nonlocal forgotten
        ended(listener)
        forgotten += 1

    monkeypatch.setattr(BoundedListener, "ended", noticed)
    async with running(stand, replace(ENDS_AT_ONCE, fast_lane=fast_lane)) as server:
        for _ in range(20):
            async with server.connected() as raw:
                raw.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                await raw.send(asked)
        with trio.fail_after(IDLE_S_MAX / 2):
            await until(lambda: forgotten == 20)


async def test_a_profile_of_2000_rows_blocks_no_other(stand: Stand) -> None:
    large = User(2)
    stand.put(large)
    rows_of(stand, large, 2000)
    assert answers.ROWS_HERE_MAX < 2000
    asked = get(f"/users/{large.id}")
    live_answers = 0
    async with running(stand) as server, trio.open_nursery() as nursery:
        done = trio.Event()

        async def slow() -> None:
            async with server.connected() as raw:
                await raw.send(asked * 5)
                bodies = [(await raw.answer()).body for _ in range(5)]
            assert {body.count(b'"kycId"') for body in bodies} == {2000}
            done.set()

        async with server.connected() as live:
            nursery.start_soon(slow)
            while not done.is_set():
                assert (await live.ask(DETAIL)).status == 200
                live_answers += 1
        assert server.counted("lanes")["fast"] == live_answers + 5
    assert live_answers > 5


async def test_one_who_pipelines_starves_nobody(stand: Stand) -> None:
    """Sixteen kilobytes are 370 requests for 500 rows each: others have their turn between any few of them."""
    async with running(stand) as server, trio.open_nursery() as nursery:

        async def greedy() -> None:
            async with server.connected() as raw:
                nursery.start_soon(raw.send, PAGE * 1500)
                while await raw.stream.receive_some():
                    pass

        nursery.start_soon(greedy)
        async with server.connected() as live:
            reads, most = 0, 0
            while reads < 1000:
                assert (await live.ask(DETAIL)).status == 200
                before, reads = reads, server.counted("list_pages").get("read", 0)
                most = max(most, reads - before)
        assert most < PAGES_BETWEEN_MAX
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("drain_s", [0.0, 0.2])
async def test_idle_connections_end_with_the_server(stand: Stand, drain_s: float) -> None:
    """Silent, used, with a piece of a head, or back from the other lane."""
    befores = [b"", DETAIL, get("/livez"), b"GET /us", DETAIL + b"GET /users HTTP/1.1\r\n"]
    async with trio.open_nursery() as clients:
        ended_s: list[float] = []

        async def wait(raw_stack: "Idle") -> None:
            assert await raw_stack.rest() == b""
            ended_s.append(trio.current_time())

        idle: list[Idle] = []
        async with running(stand, replace(ENDS_AT_ONCE, drain_s=drain_s, grace_s=10.0)) as server:
            for before in befores:
                one = Idle(server.port)
                await one.ask(before)
                idle.append(one)
            for one in idle:
                clients.start_soon(wait, one)
            began = trio.current_time()
        assert trio.current_time() - began < drain_s + END_S_MAX + 1.0
    assert max(ended_s) - began < drain_s + END_S_MAX
    for one in idle:
        one.socket.close()


class Idle:
    """A connection that outlives its server."""

    def __init__(self, port: int) -> None:
        self.socket = trio.socket.socket()
        self._address = ("127.0.0.1", port)

    async def ask(self, sent: bytes) -> None:
        """Send what may be a request and more, and read its answer."""
        await self.socket.connect(self._address)
        if sent:
            await self.socket.send(sent)
        got = b""
        while b"\r\n\r\n" in sent and not got.endswith(b"}"):
            got += await self.socket.recv(1 << 16)

    async def rest(self) -> bytes:
        """What comes until the end."""
        with trio.fail_after(WAIT_S):
            try:
                return await self.socket.recv(1 << 16)
            except ConnectionResetError:
                return b""


def configure(folder: Path, **http: float) -> Stand:
    """A data directory and its configuration, for a process of its own."""
    stand = Stand(folder / "data")
    stand.load([ADA, *people(1000)])
    lines = "".join(f"{name} = {value}\n" for name, value in {"port": 0, **http}.items())
    (folder / "kycache.toml").write_text(f"[http]\n{lines}", encoding="utf-8")
    return stand


def plain(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)


def answered(client: socket.socket) -> None:
    """Ask for a user, and take the answer."""
    client.sendall(DETAIL)
    got = b""
    while b"\r\n\r\n{" not in got or not got.endswith(b"}"):
        got += client.recv(1 << 16)
    assert got.startswith(b"HTTP/1.1 200 ")


def test_slow_readers_hold_little(no_settings: Path) -> None:
    """FAULTS 22: clients that pipeline large pages and read nothing; others are served, memory is bounded."""
    stand = configure(no_settings, drain=0, list_ttl=0)
    with started(no_settings, "web") as web, ExitStack() as held:
        port = int(str(web.logged("listening")["url"]).rpartition(":")[2])
        live = held.enter_context(plain(port))
        answered(live)
        before = own_bytes(web.child.pid)
        slow = []
        for _ in range(SLOW_READERS):
            client = held.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.setblocking(False)
            slow.append(client)
        most = 0
        for _ in range(30):
            for client in slow:
                with suppress(BlockingIOError):
                    client.send(PAGE * 400)
            answered(live)
            most = max(most, own_bytes(web.child.pid) - before)
        assert most < SLOW_READERS * READER_BYTES_MAX
        held.pop_all().close()
        with plain(port) as late:
            answered(late)
        assert web.stop(signal.SIGTERM) == 0
    stand.close()


@pytest.mark.parametrize("seed", seeds(2, at_most=50))
def test_clients_of_the_lane_that_leave_leave_nothing(no_settings: Path, seed: int) -> None:
    """FAULTS 24: no memory and no descriptor, whenever they leave, by FIN or RST."""
    rng = random.Random(seed)
    stand = configure(no_settings, drain=0, list_ttl=0, freshness_wait=0.05)
    large = PAGE * 40
    with started(no_settings, "web") as web:
        port = int(str(web.logged("listening")["url"]).rpartition(":")[2])
        descriptors = Path(f"/proc/{web.child.pid}/fd")

        def leave(times: int) -> None:
            for _ in range(times):
                with plain(port) as client:
                    if rng.random() < 0.5:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    sent = rng.choice(
                        [DETAIL, PAGE, large, LATE, LATE + large, large + LATE, get("/livez") + PAGE]
                    )
                    client.sendall(sent[: rng.choice([len(sent), rng.randrange(len(sent))])])
                    for _ in range(rng.randrange(3)):
                        client.settimeout(0.05)
                        with suppress(TimeoutError):
                            client.recv(rng.randrange(1, 1 << 16))

        leave(60)
        with plain(port) as client:
            answered(client)
            open_, memory = len(list(descriptors.iterdir())), own_bytes(web.child.pid)
            leave(120)
            wait_until(lambda: len(list(descriptors.iterdir())) <= open_, "the descriptors are closed")
            answered(client)
        assert own_bytes(web.child.pid) - memory < SLOW_READERS * READER_BYTES_MAX
        assert web.stop(signal.SIGTERM) == 0
    stand.close()


class Kept:
    """Clients that ask over connections which they keep, several requests at once, until the server ends them."""

    def __init__(self, port: int) -> None:
        self.answers = 0
        self.torn: list[bytes] = []
        self._port = port
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _ask(self) -> None:
        with plain(self._port) as client:
            while True:
                try:
                    client.sendall(DETAIL + PAGE + DETAIL)
                    if not all(self._whole(client) for _ in range(3)):
                        return
                except OSError:
                    return

    def _whole(self, client: socket.socket) -> bool:
        """Whether another answer came; one that is cut is kept."""
        got = b""
        while b"\r\n\r\n" not in got:
            data = client.recv(1)
            if not data:
                if got:
                    self.torn.append(got)
                return False
            got += data
        length = int(re.findall(rb"content-length: (\d+)", got)[0])
        while length:
            data = client.recv(length)
            if not data:
                self.torn.append(got)
                return False
            length -= len(data)
        self.answers += 1
        return b"connection: close" not in got


def test_sigterm_under_load_of_kept_connections(no_settings: Path) -> None:
    """FAULTS 28: an answer that has begun is whole, and the process ends at once."""
    stand = configure(no_settings, drain=0.2, grace=10)
    with started(no_settings, "web") as web:
        port = int(str(web.logged("listening")["url"]).rpartition(":")[2])
        load = Kept(port)
        wait_until(lambda: load.answers > 200, "some answers")
        assert web.stop(signal.SIGTERM) == 0
        load.join()
    assert load.torn == []
    stand.close()
