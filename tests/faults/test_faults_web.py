"""FAULTS 23, 24 and 28 on a real `kycache web`: a flood of clients, clients that leave, SIGTERM under load."""

import http.client
import json
import random
import signal
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from kycache.http.serving.bounded import CONNECTIONS_SHARE
from kycache.model.lsn import format_lsn
from support.faults import seeds
from support.http_stand import Stand, people
from support.services import GROWTH_BYTES_MAX, own_bytes, started, wait_metric

WAIT_S = 60.0
USERS = 2_000
LEAVERS = 300
WAITERS = 20
CLIENTS = 4
GRACE_S = 5.0
DESCRIPTORS = 200

PATHS = ("/users?size=500", "/users/export", "/users/export?order=oldest", "/users", "/metrics")


def configure(folder: Path, **http: float) -> Stand:
    """A data directory and its configuration."""
    stand = Stand(folder / "data")
    stand.load(people(USERS))
    lines = "".join(f"{name} = {value}\n" for name, value in {"port": 0, **http}.items())
    (folder / "kycache.toml").write_text(f"[http]\n{lines}", encoding="utf-8")
    return stand


def test_more_connections_than_descriptors(no_settings: Path) -> None:
    """FAULTS 23: who is connected is served, files can still be opened, and others get in when one ends."""
    stand = configure(no_settings, drain=0)
    with started(no_settings, "web", descriptors=DESCRIPTORS) as web, ExitStack() as idle:
        url = str(web.logged("listening")["url"])
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with closing(http.client.HTTPConnection(*address, timeout=WAIT_S)) as live:

            def served(client: http.client.HTTPConnection) -> int:
                client.request("GET", "/users")
                with client.getresponse() as answer:
                    answer.read()
                    return answer.status

            assert served(live) == 200
            for _ in range(2 * DESCRIPTORS):
                idle.enter_context(socket.create_connection(address, timeout=WAIT_S))
            most = int(DESCRIPTORS * CONNECTIONS_SHARE)
            web.logged(f"{most} connections are open; more wait until one ends: raise `ulimit -n`")
            for _ in range(20):
                assert served(live) == 200
                assert len(list(Path(f"/proc/{web.child.pid}/fd").iterdir())) < 0.9 * DESCRIPTORS
            idle.close()
            with closing(http.client.HTTPConnection(*address, timeout=WAIT_S)) as late:
                assert served(late) == 200
        assert web.stop(signal.SIGTERM) == 0
    stand.close()


@pytest.mark.parametrize("seed", seeds(2, at_most=50))
def test_clients_that_leave_leave_nothing(no_settings: Path, seed: int) -> None:
    """FAULTS 24: no memory, no descriptor, no place among the exports."""
    rng = random.Random(seed)
    stand = configure(no_settings, drain=0)
    with started(no_settings, "web") as web:
        url = str(web.logged("listening")["url"])
        port = int(url.rpartition(":")[2])
        descriptors = Path(f"/proc/{web.child.pid}/fd")

        def leave(times: int) -> None:
            for _ in range(times):
                with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as client:
                    if rng.random() < 0.5:
                        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # ends by RST
                    client.sendall(f"GET {rng.choice(PATHS)} HTTP/1.0\r\n\r\n".encode())
                    for _ in range(rng.randrange(4)):
                        client.recv(rng.randrange(1, 1 << 16))
            wait_metric(url, "kycache_http_exports_running 0.0")

        leave(LEAVERS // 3)  # what is had once
        memory, open_ = own_bytes(web.child.pid), len(list(descriptors.iterdir()))
        leave(LEAVERS)
        deadline = time.monotonic() + WAIT_S
        while len(list(descriptors.iterdir())) > open_:
            assert time.monotonic() < deadline, "a descriptor stays open"
            time.sleep(0.02)
        assert own_bytes(web.child.pid) - memory < GROWTH_BYTES_MAX
        with urlopen(f"{url}/users/export", timeout=WAIT_S) as answer:
            assert json.loads(answer.read().splitlines()[-1])["rows"] == USERS
        assert web.stop(signal.SIGTERM) == 0
    stand.close()


class Load:
    """Clients that ask one thing after the other until nobody takes their connections any more."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.cut_off: list[str] = []
        self._port = port
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()

    def _ask(self) -> None:
        with suppress(OSError):  # not taken any more, or closed before it was heard
            while True:
                with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=WAIT_S)) as connection:
                    connection.request("GET", "/users?size=500")
                    answer = connection.getresponse()
                    try:
                        answer.read()
                        self.answered += 1
                    except (http.client.IncompleteRead, OSError) as error:
                        self.cut_off.append(repr(error))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load(no_settings: Path, workers: int) -> None:
    """FAULTS 28: what is in flight is answered, whole; no more is taken; exit 0 within the grace."""
    stand = configure(no_settings, drain=0.3, grace=GRACE_S, freshness_wait=30, workers=workers)
    token = format_lsn(stand.lsn + 100)  # of the next beat
    statuses: list[int] = []

    def wait_fresh(url: str) -> None:
        request = Request(f"{url}/users", headers={"Kycache-Min-LSN": token})
        try:
            with urlopen(request, timeout=WAIT_S) as answer:
                answer.read()
                statuses.append(answer.status)
        except HTTPError as error:
            with error:
                statuses.append(error.code)
        except OSError:
            statuses.append(0)

    with started(no_settings, "web") as web:
        url = str(web.logged("listening")["url"])
        for _ in range(workers - 1):
            web.logged("listening")
        waiters = [threading.Thread(target=wait_fresh, args=[url]) for _ in range(WAITERS)]
        for waiter in waiters:
            waiter.start()
        wait_metric(url, f"kycache_http_freshness_waiting {WAITERS}.0")
        load = Load(int(url.rpartition(":")[2]))
        while load.answered < 20:
            time.sleep(0.01)
        web.child.send_signal(signal.SIGTERM)
        began = time.monotonic()
        load.join()
        assert statuses == []  # they wait still, and the process waits for them
        assert web.child.poll() is None
        stand.beat()
        assert web.child.wait(WAIT_S) == 0
        assert time.monotonic() - began < GRACE_S
        for waiter in waiters:
            waiter.join(WAIT_S)
    assert statuses == [200] * WAITERS
    assert load.cut_off == []
    stand.close()
