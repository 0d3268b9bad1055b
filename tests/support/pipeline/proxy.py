"""A TCP proxy in front of a Kafka broker that a test stops, cuts, delays and leaves deaf.

After psycopg's `fix_proxy`, with one thing more: a Kafka client goes on with the address that the broker
advertises. The proxy puts its own port in its place in every answer (host and port stand next to each other in
all of them), so that the client keeps using it.
"""

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

HOST = "127.0.0.1"
FRAME_BYTES_MAX = 64 << 20
"""Of one answer: a fetch brings at most what the client asked for, or one larger record."""

Step = Callable[[socket.socket, socket.socket], bool]
"""Pass on what comes next from one to the other; False where nothing comes any more."""


class Proxy:
    """Listens on a port of its own while it is up."""

    def __init__(self, target_port: int, port: int) -> None:
        self.port = port
        self.delay_s = 0.0
        """Before each answer is passed on."""
        self._target = (HOST, target_port)
        self._advertised = HOST.encode() + struct.pack(">i", target_port)
        self._ours = HOST.encode() + struct.pack(">i", port)
        self._hearing = threading.Event()
        self._hearing.set()
        self._listener: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """As a bootstrap server."""
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Accept connections."""
        listener = socket.create_server((HOST, self.port), reuse_port=False)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections, and drop those that there are."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            self._listener.close()
            self._listener = None
        self.cut()

    def cut(self) -> None:
        """Drop every connection, in mid-answer or not; new ones are welcome."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._hearing.set()

    def deafen(self) -> None:
        """Keep connections and accept new ones, but pass nothing on until `hear`."""
        self._hearing.clear()

    def hear(self) -> None:
        """Pass on again."""
        self._hearing.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(self._target, timeout=5)
                broker.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, broker}
            threading.Thread(target=self._forward, args=(client, broker, self._ask), daemon=True).start()
            threading.Thread(target=self._forward, args=(broker, client, self._answer), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, step: Step) -> None:
        try:
            while step(source, target):
                pass
        except OSError:
            pass
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets -= {source, target}
        source.close()  # each thread closes the one it reads

    def _ask(self, client: socket.socket, broker: socket.socket) -> bool:
        data = client.recv(1 << 16)
        self._hearing.wait()
        broker.sendall(data)
        return bool(data)

    def _answer(self, broker: socket.socket, client: socket.socket) -> bool:
        """One whole answer: a length of four bytes, and so many bytes."""
        head = _exactly(broker, 4)
        if len(head) < 4:
            return False
        (size,) = struct.unpack(">i", head)
        assert 0 <= size <= FRAME_BYTES_MAX, size
        body = _exactly(broker, size)
        if len(body) < size:
            return False
        self._hearing.wait()
        if self.delay_s:
            time.sleep(self.delay_s)
        client.sendall(head + body.replace(self._advertised, self._ours))
        return True


def _exactly(source: socket.socket, size: int) -> bytes:
    """So many bytes; fewer where the connection ends."""
    parts, missing = [], size
    while missing:
        part = source.recv(min(missing, 1 << 20))
        if not part:
            break
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
