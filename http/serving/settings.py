"""Settings of the HTTP server, and which addresses it may bind."""

import ipaddress
import re
from dataclasses import dataclass

from kycache.model.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """`[http]` of the configuration. Times in seconds."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0 takes a free one."""
    workers: int = 1
    """Processes that share the port."""
    freshness_wait_s: float = 3.0
    """How long a request may wait for the freshness it demands."""
    list_ttl_s: float = 1.0
    """How old a page of the list may be answered to a request that demands nothing; 0 reads each."""
    body_cache_mib: int = 64
    """What each process may keep of details that it rendered; 0 keeps none."""
    fast_lane: bool = True
    """Answer plain requests of the two reads without Hypercorn and Quart."""
    exports: int = 4
    """Exports that run at once in each process."""
    drain_s: float = 0.5
    """How long `/readyz` says 503 before no more connections are taken; a load balancer's check interval."""
    grace_s: float = 10.0
    """How long requests in flight may take once no more connections are taken."""
    cursor_keys: tuple[str, ...] = ()
    """Keys that sign cursors, newest first; empty: kept in the data directory."""
    allow_unauthenticated: bool = False
    """Bind other addresses than loopback although no authentication is configured."""

    @property
    def address(self) -> str:
        """The host as sockets take it: an IPv6 address may be written as in a URL."""
        return self.host[1:-1] if re.fullmatch(r"\[[^][]*:[^][]*\]", self.host) else self.host

    def check(self) -> None:
        """Refuse values that would not work, or would open the data to the network by oversight.

        Raises:
            ConfigurationError: names the setting.
        """
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"`[http] port` is {self.port}", "set it to 0 to 65535")
        if self.workers < 1:
            raise ConfigurationError(f"`[http] workers` is {self.workers}", "set it to 1 or more")
        if self.body_cache_mib < 0:
            raise ConfigurationError(f"`[http] body_cache_mib` is {self.body_cache_mib}", "set it to 0 or more")
        if self.exports < 0:
            raise ConfigurationError(f"`[http] exports` is {self.exports}", "set it to 0 or more")
        for name in ("freshness_wait_s", "list_ttl_s", "drain_s", "grace_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigurationError(f"`[http] {name.removesuffix('_s')}` is negative", "set it to 0 or more")
        check_exposure(self.address, allowed=self.allow_unauthenticated)


def check_exposure(host: str, *, allowed: bool) -> None:
    """Refuse an address other machines can reach, unless that was said to be meant."""
    if not allowed and not _loopback(host):
        raise ConfigurationError(
            f"`[http] host` {host!r} can be reached from other machines, and no authentication is configured",
            "bind 127.0.0.1, or set `[http] allow_unauthenticated` to say that it is meant",
        )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:  # a name: it may resolve to anything, and to another thing later
        return False
