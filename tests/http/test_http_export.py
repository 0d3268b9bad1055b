"""The export: whole or recognizably not, in constant memory, however slowly it is read and however it ends."""

import gzip
import json
import random
import socket
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.lowlevel
from backports import zstd

import kycache.model.view
from kycache.actors.rules.freshness import Freshness, freshness
from kycache.http.exchange.problems import Kind, Problem
from kycache.http.reads import exports as exports_module
from kycache.http.reads.codings import CODINGS, choose
from kycache.http.reads.cursors import Cursor
from kycache.model.change import Scope
from kycache.model.definition import parse_view
from kycache.model.lsn import format_lsn, parse_lsn
from support.faults import seeds
from support.http_stand import ENDS_AT_ONCE, WAITS_LONG, Stand, User, people, problem, serving, until_metric

ROWS = 20
"""Rows of a chunk here."""

PLAIN = {"Accept-Encoding": "identity"}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports_module, "CHUNK_ROWS", ROWS)
    monkeypatch.setattr("kycache.http.reads.answers.CHUNK_ROWS", ROWS)
    monkeypatch.setattr("kycache.http.serving.listen.UNSENT_BYTES_MAX", 4096)


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path / "data")


@pytest.fixture
def users(stand: Stand) -> list[User]:
    made = people(230)
    stand.load(made)
    return made


def ordered(users: list[User], *, newest: bool = True) -> list[User]:
    return sorted(users, key=lambda u: (u.created_us is None, u.created_us or 0, u.key), reverse=newest)


def parsed(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def rows_of(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "userId" in line]


def end_of(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The last line of a whole export, checked against the others."""
    end = lines[-1]
    assert list(end) == ["end", "rows", "watermark"]
    assert end["end"] is True
    assert end["rows"] == len(rows_of(lines))
    assert not [line for line in lines[:-1] if "end" in line]
    return end


@asynccontextmanager
async def unread(client: httpx.AsyncClient, path: str = "/users/export") -> AsyncIterator[trio.SocketStream]:
    """A client that asks for an export, whose socket holds little, and who decides himself when to read."""
    bare = trio.socket.socket()
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    await bare.connect((client.base_url.host, client.base_url.port))
    async with trio.SocketStream(bare) as stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\n\r\n".encode())  # 1.0: the body comes without framing
        yield stream


async def lines_of(stream: trio.SocketStream) -> AsyncGenerator[dict[str, Any], None]:
    """The lines of an export, as they come."""
    got, body = b"", False
    async for data in stream:
        got += data
        if not body:
            head, found, rest = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"[: len(head)])
            body, got = bool(found), rest if found else got
        while body and b"\n" in got:
            line, _, got = got.partition(b"\n")
            yield json.loads(line)


class TestWhole:
    async def test_lines(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            response = await client.get("/users/export", headers=PLAIN)
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.headers["cache-control"] == "no-store"
        assert "Accept-Encoding" in response.headers["vary"]
        assert "content-encoding" not in response.headers
        assert response.headers["kycache-watermark"] == format_lsn(stand.lsn)
        assert response.headers["kycache-served-by"] == "view"
        assert "kycache-as-of" in response.headers
        lines = parsed(response.text)
        assert rows_of(lines) == [u.row() for u in ordered(users)]
        mark = format_lsn(stand.lsn)
        assert end_of(lines)["watermark"] == {"from": mark, "to": mark}
        cursors = [number for number, line in enumerate(lines) if list(line) == ["cursor"]]
        assert cursors == [*range(ROWS, len(lines) - 2, ROWS + 1), len(lines) - 2]

    async def test_line_breaks_within_a_json_column_begin_no_line(self, tmp_path: Path) -> None:
        """PostgreSQL keeps the blanks of a `json` value; between its tokens they mean nothing."""
        toml = (Path(kycache.model.view.__file__).parent / "kyc.toml").read_text(encoding="utf-8")
        view = parse_view(toml.replace('"firstName", type = "text"', '"firstName", type = "json"'), "json.toml")
        stand = Stand(tmp_path / "json", view=view)
        stand.load([User(n, first='{"a":\r\n [1,\n\t"x\\n"]\r}\n') for n in range(3)])
        async with serving(stand) as client:
            lines = parsed((await client.get("/users/export", headers=PLAIN)).text)
        assert [row["firstName"] for row in rows_of(lines)] == [{"a": [1, "x\n"]}] * 3
        end_of(lines)

    async def test_filters_and_order_are_those_of_the_list(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            for query, kept in [
                ("order=oldest", users),
                ("kycStatus=NONE", [u for u in users if u.status == "NONE"]),
                ("region=EMEA&kycStatus=NONE", [u for u in users if u.region == "EMEA" and u.status == "NONE"]),
                ("region=nowhere", []),
            ]:
                lines = parsed((await client.get(f"/users/export?{query}")).text)
                assert rows_of(lines) == [u.row() for u in ordered(kept, newest="oldest" not in query)]
                end_of(lines)
            for query, slug, name in [
                ("size=5", "unknown-parameter", "size"),
                ("page=1", "unknown-parameter", "page"),
                ("order=up", "invalid-parameter", "order"),
                ("region=", "empty-parameter", "region"),
                ("cursor=x", "invalid-cursor", "cursor"),
            ]:
                problem(await client.get(f"/users/export?{query}"), 400, slug, name)

    async def test_every_cursor_goes_on_behind_it(self, stand: Stand, users: list[User]) -> None:
        async with serving(stand) as client:
            lines = parsed((await client.get("/users/export?order=oldest&region=EMEA")).text)
            want = rows_of(lines)
            for number, line in enumerate(lines):
                if "cursor" in line:
                    rest = parsed((await client.get("/users/export", params=line)).text)
                    assert rows_of(lines[:number]) + rows_of(rest) == want
                    end_of(rest)
            cursor = next(line["cursor"] for line in lines if "cursor" in line)
            response = await client.get(f"/users/export?cursor={cursor}&order=newest")
            problem(response, 400, "conflicting-parameters", "order")
            response = await client.get(f"/users/export?cursor={cursor}&region=APAC")
            problem(response, 400, "conflicting-parameters", "region")
            listed = (await client.get(f"/users?cursor={cursor}")).json()["data"]
            assert listed == want[ROWS : 2 * ROWS]
            back = (await client.get("/users?page=2&size=5")).json()["page"]["prev"]
            problem(await client.get(f"/users/export?cursor={back}"), 400, "invalid-cursor", "cursor")
            assert (await client.get(f"/users/{users[0].id}")).status_code == 200

    @pytest.mark.parametrize("coding", ["gzip", "zstd"])
    async def test_compressed(self, stand: Stand, users: list[User], coding: str) -> None:
        asked = {"Accept-Encoding": coding}
        async with serving(stand) as client, client.stream("GET", "/users/export", headers=asked) as response:
            assert response.headers["content-encoding"] == coding
            raw = b"".join([piece async for piece in response.aiter_raw()])
        text = gzip.decompress(raw) if coding == "gzip" else zstd.decompress(raw)
        lines = parsed(text.decode())
        assert rows_of(lines) == [u.row() for u in ordered(users)]
        assert len(raw) < len(text) / 2
        end_of(lines)

    async def test_head_starts_none(self, stand: Stand, users: list[User]) -> None:
        del users
        async with serving(stand, replace(ENDS_AT_ONCE, exports=0)) as client:
            head = await client.head("/users/export", headers={"Accept-Encoding": "zstd"})
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-type"] == "application/x-ndjson"
            assert head.headers["content-encoding"] == "zstd"
            assert "content-length" not in head.headers

    async def test_demands_hold_at_its_start(self, stand: Stand, users: list[User]) -> None:
        lsn = stand.put(users[0])
        async with serving(stand) as client:
            response = await client.get("/users/export", headers={"Kycache-Min-LSN": format_lsn(lsn)})
            problem(response, 503, "not-fresh-enough")
            stand.beat()
            response = await client.get("/users/export", headers={"Kycache-Min-LSN": format_lsn(lsn)})
            assert response.status_code == 200
            response = await client.get("/users/export", headers={"Kycache-Max-Staleness": "x"})
            problem(response, 400, "invalid-header", "Kycache-Max-Staleness")

    async def test_nothing_ingested(self, tmp_path: Path) -> None:
        async with serving(Stand(tmp_path / "none")) as client:
            problem(await client.get("/users/export"), 503, "not-ready")


class TestWhileItRuns:
    @pytest.mark.parametrize("order", ["newest", "oldest"])
    async def test_rows_that_did_not_move_come_once(self, stand: Stand, users: list[User], order: str) -> None:
        """Writes between chunks, and the client cut off and going on at a random chunk."""
        rng = random.Random(order)
        movers, still = users[:80], users[80:]
        seen: list[str] = []
        cursor: str | None = None
        whole = False
        async with serving(stand) as client:
            while not whole:
                path = f"/users/export?order={order}" if cursor is None else f"/users/export?cursor={cursor}"
                stop = rng.choice([1, 3, 100])
                rows: list[str] = []
                async with unread(client, path) as stream, aclosing(lines_of(stream)) as lines:
                    async for line in lines:
                        if "cursor" in line:
                            cursor = line["cursor"]
                            seen += rows
                            rows = []
                            for mover in rng.sample(movers, 5):
                                mover.created_us = rng.choice([None, rng.randrange(10**15)])
                                stand.delete(mover) if rng.random() < 0.3 else stand.put(mover)
                            stand.beat()
                            stop -= 1
                            if not stop:
                                break
                        elif "end" in line:
                            first, last = (parse_lsn(line["watermark"][name]) for name in ("from", "to"))
                            assert first is not None
                            assert last is not None
                            assert first <= last <= stand.lsn
                            whole = True
                        else:
                            rows.append(line["userId"])
        kept = {u.id for u in still}
        assert [i for i in seen if i in kept] == [u.id for u in ordered(still, newest=order == "newest")]

    async def test_a_reader_who_stops_keeps_nothing(self, stand: Stand) -> None:
        """A writer that goes on uses the pages of its earlier commits again: the files do not grow."""
        users = people(700, seed=3)
        stand.load(users)

        def write() -> int:
            for user in users[:60]:
                stand.put(user)
            return sum(f.stat().st_blocks for f in stand.directory.root.glob("shards/*/gen-*/data.mdb"))

        async with serving(stand) as client, unread(client):
            await until_metric(client, "kycache_http_exports_running 1.0")
            write()
            before = write()
            assert [write() for _ in range(4)] == [before] * 4
            assert "kycache_http_exports_running 1.0\n" in (await client.get("/metrics")).text

    async def test_so_many_at_once(self, stand: Stand) -> None:
        stand.load(people(700, seed=3))
        async with serving(stand, replace(ENDS_AT_ONCE, exports=1)) as client:
            async with unread(client):
                await until_metric(client, "kycache_http_exports_running 1.0")
                response = await client.get("/users/export")
                problem(response, 503, "too-many-exports")
                assert response.headers["retry-after"] == "1"
                assert response.headers["kycache-watermark"] == "0/0"  # no 503 covers what may have been asked
                assert (await client.get("/users")).status_code == 200
            # the client went away (row 24): its place is free, and its work is not done
            await until_metric(client, "kycache_http_exports_running 0.0")
            text = (await client.get("/metrics")).text
            assert 'kycache_http_exports_total{outcome="left"} 1.0\n' in text
            assert 'kycache_http_exports_total{outcome="refused"} 1.0\n' in text
            end_of(parsed((await client.get("/users/export")).text))
            text = (await client.get("/metrics")).text
            assert 'kycache_http_exports_total{outcome="whole"} 1.0\n' in text

    @pytest.mark.parametrize("seed", seeds(20))
    async def test_a_client_that_leaves_at_any_moment(self, stand: Stand, seed: int) -> None:
        stand.load(people(120, seed=3))
        rng = random.Random(seed)
        async with serving(stand, replace(ENDS_AT_ONCE, exports=1)) as client:
            for _ in range(5):
                async with unread(client) as stream:
                    for _ in range(rng.randrange(4)):
                        await trio.lowlevel.checkpoint()
                    if rng.random() < 0.5:
                        await stream.receive_some(rng.randrange(1, 3000))
            await until_metric(client, "kycache_http_exports_running 0.0")
            end_of(parsed((await client.get("/users/export")).text))

    @pytest.mark.parametrize("why", ["gone", "suspect", "a user is suspect", "older"])
    async def test_cut_off(self, stand: Stand, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """What would make the headers untrue ends the stream without its end: no last line, no last chunk."""
        users = people(700, seed=3)
        stand.load(users)
        last = ordered(users)[-1]

        def older(*args: Any, **kwargs: Any) -> Freshness:
            return freshness(*args, **kwargs)._replace(watermark=1)

        def spoil() -> None:
            if why == "gone":
                (stand.directory.shard(1).path / "CURRENT").unlink()
            elif why == "suspect":
                stand.poison(1, Scope.SHARD)
            elif why == "a user is suspect":
                stand.poison(stand.shard_of(last), Scope.PROFILE, last)
            else:
                monkeypatch.setattr("kycache.http.reads.answers.freshness", older)

        lines: list[str] = []
        async with serving(stand) as client:
            with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012
                async with client.stream("GET", "/users/export", headers=PLAIN) as response:
                    async for line in response.aiter_lines():
                        lines.append(line)
                        if len(lines) == 1:
                            spoil()
            await until_metric(client, 'kycache_http_exports_total{outcome="cut_off"} 1.0')
            await until_metric(client, "kycache_http_exports_running 0.0")
        assert len(lines) > ROWS
        assert "end" not in json.loads(lines[-1])

    async def test_cut_off_over_http_2(self, stand: Stand) -> None:
        """There the stream ends, rather than stay open for ever; the last line is missing all the same."""
        stand.load(people(700, seed=3))
        lines: list[str] = []
        async with (
            serving(stand) as plain,
            httpx.AsyncClient(base_url=plain.base_url, http1=False, http2=True, verify=False) as client,
        ):
            with trio.fail_after(5):
                async with client.stream("GET", "/users/export", headers=PLAIN) as response:
                    assert response.http_version == "HTTP/2"
                    async for line in response.aiter_lines():
                        lines.append(line)
                        if len(lines) == 1:
                            (stand.directory.shard(1).path / "CURRENT").unlink()
            await until_metric(plain, 'kycache_http_exports_total{outcome="cut_off"} 1.0')
        assert len(lines) > ROWS
        assert "end" not in json.loads(lines[-1])

    async def test_the_server_ends_although_a_reader_stopped(self, stand: Stand) -> None:
        stand.load(people(700, seed=3))
        async with AsyncExitStack() as reader:
            async with serving(stand, replace(WAITS_LONG, grace_s=0.1)) as client:
                await reader.enter_async_context(unread(client))
                await until_metric(client, "kycache_http_exports_running 1.0")
                began = trio.current_time()
            assert trio.current_time() - began < 2


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
def test_all_that_was_sent_can_be_decoded(coding: str) -> None:
    """Up to the last cursor, wherever the stream is cut off behind it."""
    fresh = Freshness(0, 1, False, True)
    rows = [(b"%d" % n, b'{"userId":"%d"}' % n) for n in range(ROWS)]

    def gone(place: Cursor) -> exports_module.Chunk:
        raise Problem(Kind.UNREADABLE, f"nothing behind {place.edge!r}")

    walk = exports_module.Walk(gone, lambda place: repr(place.edge))
    place = Cursor(True, ROWS, (), None)
    pieces = exports_module.Export(walk, place, exports_module.Chunk(rows, fresh), CODINGS[coding]()).pieces()
    sent = next(pieces)
    with pytest.raises(exports_module.CutOff):
        next(pieces)
    if coding == "gzip":
        sent = zlib.decompressobj(wbits=31).decompress(sent)
    elif coding == "zstd":
        sent = zstd.ZstdDecompressor().decompress(sent)
    lines = parsed(sent.decode())
    assert [row["userId"] for row in rows_of(lines)] == [str(n) for n in range(ROWS)]
    assert lines[-1] == {"cursor": repr(rows[-1][0])}


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        ([], "identity"),
        (["gzip"], "gzip"),
        (["gzip, zstd"], "zstd"),
        (["zstd;q=0.5, gzip"], "gzip"),
        (["gzip;q=0"], "identity"),
        (["*"], "zstd"),
        (["*;q=0.5, zstd;q=0"], "gzip"),
        (["br", "GZIP ; q=0.8"], "gzip"),
        (["gzip;q=x"], "identity"),
        (["identity;q=1, gzip;q=0.5"], "identity"),
        ([""], "identity"),
    ],
)
def test_the_coding_a_client_takes(header: list[str], coding: str) -> None:
    assert choose(header) == coding
