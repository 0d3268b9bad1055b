"""The listening socket: bound before anything else starts, so that a port in use is known at once."""

import errno
import socket

from kycache.model.errors import ConfigurationError

from .settings import HttpSettings, check_exposure

BACKLOG = 1024
"""Connections the kernel may hold before they are accepted: a burst of clients that reconnect together."""

UNACKNOWLEDGED_MS_MAX = 120_000
"""After so long without any progress of what was sent to it, a client counts as gone. Hypercorn's send waits
without an end, and shielded from cancellation: only the kernel can end it. Longer than a reader at 1 KB/s on
loopback needs until its window opens again (64 KB)."""

UNSENT_BYTES_MAX = 128 * 1024
"""What the kernel holds of an answer beyond what is on its way: two chunks of an export. Its own limit is
megabytes a connection; with this one, whoever sends to a slow reader waits."""

_WHY = {
    errno.EADDRINUSE: ("is in use", "stop the process that holds it, or set `[http] port`"),
    errno.EACCES: ("needs more rights", "set `[http] port` to one above 1023"),
    errno.EADDRNOTAVAIL: ("is not an address of this machine", "set `[http] host`"),
}


def bind(settings: HttpSettings) -> socket.socket:
    """A listening socket; the caller closes it.

    Raises:
        ConfigurationError: the address cannot be had; says which, why, and what next.
    """
    settings.check()
    where = f"port {settings.port} on {settings.host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.address, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        problem = f"`[http] host` {settings.host!r}: {error.strerror}"
        raise ConfigurationError(problem, "set `[http] host`") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # accepted sockets inherit them
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        other = (f"cannot be bound: {error.strerror}", "set `[http] host` and `port`")
        why, remedy = _WHY.get(error.errno or 0, other)
        raise ConfigurationError(f"{where} {why}", remedy) from None
    listener.setblocking(False)
    return listener


def url_of(listener: socket.socket) -> str:
    """The address clients use."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"


def check_listener(listener: socket.socket, settings: HttpSettings) -> None:
    """A socket that was handed in is held to the same rule as one bound here."""
    if listener.family != socket.AF_UNIX:
        check_exposure(listener.getsockname()[0], allowed=settings.allow_unauthenticated)
