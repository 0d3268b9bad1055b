"""What of a libpq connection string Debezium can be told. Pure: its parts in, words out.

Debezium speaks TCP through pgjdbc. It has libpq's names for TLS, and nothing for most of the rest: what changes
how one connects is carried or refused, never dropped.
"""

import re
from collections.abc import Iterator, Mapping

_CARRIED = ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword")
"""Paths are of files on the machine of Kafka Connect."""

_PLACE = frozenset({"host", "hostaddr", "port", "user", "password", "dbname"})

_OURS = frozenset(
    {"application_name", "fallback_application_name", "client_encoding", "connect_timeout", "tcp_user_timeout"}
    | {"keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "sslcompression", "sslsni"}
    | {"target_session_attrs", "load_balance_hosts"}
)
"""About the session of whoever connects, or about which of several servers: nothing that Debezium must know."""

_DEFAULTS = {
    "gssencmode": frozenset({"disable", "prefer"}),
    "channel_binding": frozenset({"disable", "prefer"}),
    "sslnegotiation": frozenset({"postgres"}),
    "options": frozenset({""}),
}
"""Values that ask for no more than Debezium does anyway."""

_HOST = re.compile(r"[a-zA-Z0-9_.-]*")
"""What Debezium takes for a host."""


def tls_of(parts: Mapping[str, object]) -> dict[str, str]:
    """The parameters of TLS, by libpq's names."""
    return {name: str(parts[name]) for name in _CARRIED if parts.get(name)}


def uncarried_by_debezium(parts: Mapping[str, object]) -> tuple[str, ...]:
    """What keeps Debezium from connecting as a connection string says, in words; empty where nothing does."""
    return tuple(_uncarried(parts))


def _uncarried(parts: Mapping[str, object]) -> Iterator[str]:
    host = str(parts.get("host") or "")
    if host.startswith(("/", "@")):
        yield f"its host {host} is the folder of a socket, and Debezium connects by TCP only"
    elif ":" in host:
        yield f"its host {host} is an IPv6 address, which Debezium refuses: give a name that resolves to it"
    elif not _HOST.fullmatch(host):
        yield f"its host {host} has other characters than letters, digits, dots, hyphens and underscores"
    if parts.get("hostaddr") and parts.get("hostaddr") != host:
        yield "it has a hostaddr beside the host: give the address as host"
    if parts.get("sslrootcert") == "system":
        yield "sslrootcert=system is libpq's own word: name the certificates' file on Kafka Connect's machine"
    for name in sorted(parts.keys() - {*_CARRIED, *_PLACE, *_OURS}):
        if str(parts[name]) not in _DEFAULTS.get(name, ()):
            yield f"Debezium has no setting for {name}"
