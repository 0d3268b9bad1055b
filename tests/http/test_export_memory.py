"""Exports of a real `kycache web`: constant memory of its own; a slow reader holds no page of a shard's file."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from support.http_stand import Stand, people
from support.services import GROWTH_BYTES_MAX, own_bytes, started, wait_metric

USERS = 12_000
AT_ONCE = 4
"""As many as `[http] exports` allows: together they hold most."""

CODINGS = ("identity", "gzip", "zstd")

PIECE_BYTES = 64 << 10
WRITES = 60


class Reader:
    """A client that asks for an export over a socket that holds little, and decides itself when to read."""

    def __init__(self, port: int, coding: str = "identity") -> None:
        self.received = 0
        self.tail = b""
        self._socket = socket.socket()
        self._socket.settimeout(60)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", port))
        self._socket.sendall(f"GET /users/export HTTP/1.0\r\nAccept-Encoding: {coding}\r\n\r\n".encode())

    def read(self) -> bool:
        """Take what there is; False at the end."""
        data = self._socket.recv(PIECE_BYTES)
        self.received += len(data)
        self.tail = (self.tail + data)[-200:]
        return bool(data)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def stand(no_settings: Path) -> Iterator[Stand]:
    made = Stand(no_settings / "data")
    made.load(people(USERS))
    yield made
    made.close()


def test_an_export_holds_a_constant_amount_of_memory(stand: Stand, no_settings: Path) -> None:
    del stand  # it is the data directory's
    (no_settings / "kycache.toml").write_text(
        f"[http]\nport = 0\ndrain = 0\nexports = {AT_ONCE}\n", encoding="utf-8"
    )
    with started(no_settings, "web") as web:
        url = str(web.logged("listening")["url"])
        port = int(url.rpartition(":")[2])
        for coding in CODINGS:  # buffers, compressors and the allocator's arenas are had once
            with urlopen(
                Request(f"{url}/users/export", headers={"Accept-Encoding": coding}), timeout=60
            ) as answer:
                assert answer.read()
        before = peak = own_bytes(web.child.pid)
        readers = [Reader(port, coding) for coding in (*CODINGS, "identity")]
        unfinished = readers.copy()
        while unfinished:
            unfinished = [reader for reader in unfinished if reader.read()]
            peak = max(peak, own_bytes(web.child.pid))
        for reader in readers:
            reader.close()
        assert b'{"end":true' in readers[-1].tail
        assert readers[-1].received > 1 << 20
        assert peak - before < GROWTH_BYTES_MAX
        assert web.stop(signal.SIGTERM) == 0


def test_a_reader_who_stands_still_lets_pages_be_used_again(stand: Stand, no_settings: Path) -> None:
    """A writer in another process goes on meanwhile: the files do not grow, and the export ends whole."""
    (no_settings / "kycache.toml").write_text("[http]\nport = 0\ndrain = 0\n", encoding="utf-8")
    users = people(USERS)

    def write() -> int:
        for user in users[:WRITES]:
            stand.put(user)
        return sum(file.stat().st_blocks for file in stand.directory.root.glob("shards/*/gen-*/data.mdb"))

    with started(no_settings, "web") as web:
        url = str(web.logged("listening")["url"])
        reader = Reader(int(url.rpartition(":")[2]))
        assert reader.read()
        wait_metric(url, "kycache_http_exports_running 1.0")
        write()
        before = write()
        assert [write() for _ in range(4)] == [before] * 4
        wait_metric(url, "kycache_http_exports_running 1.0")  # it was not over before
        while reader.read():
            pass
        reader.close()
        assert b'{"end":true' in reader.tail
        assert web.stop(signal.SIGTERM) == 0
