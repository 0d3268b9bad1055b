"""TCP ports on the loopback interface: which are free, and a clear word where one is not."""

import random
import socket

from kycache.model.errors import Refused

HOST = "127.0.0.1"
HTTP_PORT_DEFAULT = 8080
CHOSEN_FROM = range(15_000, 32_000)
"""Below what systems give to outgoing connections (Linux from 32768, others from 49152): such a connection could
take a server's port between its choice and its use, or while the server is started again."""


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose former connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
        return True


def is_listening(port: int, timeout_s: float = 0.5) -> bool:
    """Whether someone accepts connections on `port`."""
    try:
        with socket.create_connection((HOST, port), timeout_s):
            return True
    except OSError:
        return False


def free_ports(count: int) -> list[int]:
    """`count` different ports that are free now, at random, so that two demos at once hardly ever agree.

    Raises:
        Refused: nearly all are taken.
    """
    ports = [port for port in random.sample(CHOSEN_FROM, 50 + 10 * count) if is_free(port)]
    if len(ports) < count:
        raise Refused(f"there are no {count} free ports from {CHOSEN_FROM[0]} to {CHOSEN_FROM[-1]}", "free some")
    return ports[:count]


def claim(port: int, what: str, remedy: str) -> int:
    """`port`, when it is free.

    Raises:
        Refused: someone listens there already.
    """
    if not is_free(port):
        raise Refused(f"port {port} for {what} is taken by another process", remedy)
    return port


def http_port(wanted: int | None) -> int:
    """The port for HTTP: the one asked for, else the default one, else any that is free.

    Raises:
        Refused: the one asked for is taken.
    """
    if wanted:
        return claim(wanted, "HTTP", "stop that process, or give another --port")
    return HTTP_PORT_DEFAULT if is_free(HTTP_PORT_DEFAULT) else free_ports(1)[0]
