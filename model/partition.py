"""Which partition, and so which shard, a Kafka key belongs to.

Kafka's default partitioner: murmur2 (seed 0x9747b28c) of the key's bytes, sign bit cleared, modulo the
partition count. Written out because `http` and `model` must not load a Kafka client to route a read;
a test holds it equal to kafka-python's.
"""

import re
from enum import StrEnum
from struct import Struct

import msgspec

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF
_WORD = Struct("<I")


class KeyForm(StrEnum):
    """How the connector writes the user id into the Kafka key (DEBEZIUM 31)."""

    PLAIN = "plain"  # ada
    QUOTED = "quoted"  # "ada", a JSON string
    JSON = "json"  # {"user_id":"ada"}, the bare key struct


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit murmur2 of `data`, unsigned."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for (k,) in _WORD.iter_unpack(data[:whole]):
        k = (k * _M) & _MASK
        k ^= k >> 24
        k = (k * _M) & _MASK
        h = ((h * _M) & _MASK) ^ k
    rest = data[whole:]
    if rest:
        h ^= int.from_bytes(rest, "little")
        h = (h * _M) & _MASK
    h ^= h >> 13
    h = (h * _M) & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes, count: int) -> int:
    """The partition of a Kafka key among `count` partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % count


def key_bytes(form: KeyForm, column: str, user_id: str, numeric: bool = False) -> bytes:
    """The Kafka key the connector writes for a user: what the partition is computed from.

    Args:
        form: how the connector writes keys.
        column: the root table's key column (only the `json` form shows it).
        user_id: the id as text.
        numeric: the key column is an integer, so JSON writes it without quotes.
    """
    if form is KeyForm.PLAIN or (numeric and form is KeyForm.QUOTED):
        return user_id.encode()
    value: str | int = int(user_id) if numeric else user_id
    made = msgspec.json.encode(value if form is KeyForm.QUOTED else {column: value})
    return _AS_CONNECT_ESCAPES.sub(_escape, made) if _ODD_CHARACTER.search(made) else made


_ODD_CHARACTER = re.compile(rb"\\u|[\xf0-\xf4]")
_AS_CONNECT_ESCAPES = re.compile(rb"\\u[0-9a-f]{4}|\\.|[\xf0-\xf4]...", re.DOTALL)


def _escape(match: re.Match[bytes]) -> bytes:
    """Control characters, and those beyond U+FFFF, as Kafka Connect's JSON converter escapes them (4.3, seen)."""
    found = match[0]
    if found.startswith(b"\\u"):
        return b"\\u" + found[2:].upper()
    if found.startswith(b"\\"):
        return found
    halves = found.decode().encode("utf-16-be")
    return b"\\u%02X%02X\\u%02X%02X" % tuple(halves)
