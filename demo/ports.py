"""TCP ports on the loopback interface: which are free, and a clear word where one is not."""

import socket

from kycache.model.errors import Refused

HOST = "127.0.0.1"
HTTP_PORT_DEFAULT = 8080


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
    """`count` different ports that are free now; held open together while chosen, so none comes twice."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind((HOST, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()


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
