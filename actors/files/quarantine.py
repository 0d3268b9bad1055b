"""Quarantine: records that could not be applied, kept whole under their offset (DESIGN 6.8)."""

import lmdb
import msgspec

from kycache.model.change import Poison

from .environment import Databases

QUARANTINE_PAGE = 500
"""Records of a quarantine read at once; each may be megabytes, most are hundreds of bytes."""


class Quarantined(msgspec.Struct, array_like=True, frozen=True):
    """A record that could not be applied, whole."""

    offset: int
    timestamp_ms: int
    kafka_key: bytes | None
    kafka_value: bytes | None
    reason: str
    scope: str
    user: bytes | None
    table: int | None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Quarantined).decode


def keep(txn: "lmdb.Transaction[bytes]", databases: Databases, poison: Poison) -> None:
    """Keep a record that could not be applied."""
    record = Quarantined(
        poison.offset,
        poison.timestamp_ms,
        poison.kafka_key,
        poison.kafka_value,
        poison.reason,
        poison.scope.value,
        poison.user,
        poison.table,
    )
    txn.put(_key(poison.offset), _encode(record), db=databases.quarantine)


def find(txn: "lmdb.Transaction[bytes]", databases: Databases, offset: int) -> Quarantined | None:
    """The record of an offset, None where it is not in quarantine."""
    data = txn.get(_key(offset), db=databases.quarantine)
    return None if data is None else _decode(data)


def latest_of(txn: "lmdb.Transaction[bytes]", databases: Databases, user: bytes) -> int | None:
    """The greatest offset of a user's records in quarantine. Reads those behind it."""
    with txn.cursor(db=databases.quarantine) as cursor:
        if cursor.last():
            for data in cursor.iterprev(keys=False):
                record = _decode(data)
                if record.user == user:
                    return record.offset
    return None


def remove(txn: "lmdb.Transaction[bytes]", databases: Databases, offset: int) -> None:
    """Take a record out."""
    txn.delete(_key(offset), db=databases.quarantine)


def read_quarantine(
    txn: "lmdb.Transaction[bytes]", databases: Databases, first: int = 0, limit: int = QUARANTINE_PAGE
) -> list[Quarantined]:
    """Up to `limit` records in quarantine from offset `first` on."""
    found: list[Quarantined] = []
    with txn.cursor(db=databases.quarantine) as cursor:
        if cursor.set_range(_key(first)):
            for _, data in cursor:
                if len(found) == limit:
                    break
                found.append(_decode(data))
    return found


def kept_offsets(txn: "lmdb.Transaction[bytes]", databases: Databases) -> set[int]:
    """The offsets of all records in quarantine."""
    with txn.cursor(db=databases.quarantine) as cursor:
        return {int.from_bytes(key, "big") for key in cursor.iternext(keys=True, values=False)}


def _key(offset: int) -> bytes:
    return offset.to_bytes(8, "big")
