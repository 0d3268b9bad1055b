"""Column values: what Debezium sends, what a row stores, and what an answer prints.

Stored forms are small and ordered where an order is needed:

=========== ============================================================================
uuid        16 bytes
text, enum  str
bool, int   bool, int
date        days since 1970-01-01 (proleptic Gregorian), or an infinity
timestamp   microseconds since 1970-01-01T00:00:00, or an infinity
timestamptz the same, in UTC
numeric     str, as Postgres prints it
json        str, the document's own text without the blanks between its tokens
time        microseconds since midnight
float4, 8   str, as Postgres prints it
bytea       bytes
=========== ============================================================================

NULL is None in each. Printing follows DESIGN section 7: as Postgres prints a value, with `T` for the
blank.
"""

import re
from binascii import a2b_base64, a2b_hex, b2a_base64
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from enum import Enum

import msgspec

from kycache.model.scalars.json_text import compact
from kycache.model.scalars.numbers import float4_text, float8_text, whole_number
from kycache.model.scalars.refused import ValueRefused
from kycache.model.scalars.times import (
    TimePrecision,
    print_date,
    print_time,
    print_timestamp,
    stored_date,
    stored_time,
    stored_timestamp,
    stored_timestamptz,
)

from .view import ColumnType, Kind

Value = bytes | str | int | bool | None

PLACEHOLDER = "__debezium_unavailable_value"
"""Debezium's default for an unchanged TOAST column (DEBEZIUM 23); a setting of the connector."""

BYTEA_PLACEHOLDER = b2a_base64(PLACEHOLDER.encode(), newline=False).decode()
"""The same for a `bytea`, which comes in base64."""

USER_KEY_BYTES_MAX = 400
"""A user id's bytes: with the order column before it, it must fit an LMDB key (511 bytes)."""

INTEGER = r"(0|-?[1-9][0-9]{0,18})"
"""An integer as Postgres prints it: one way to write each, or one user would have two, and a filter two values."""
_INTEGER = re.compile(INTEGER)


class Absent(Enum):
    """Why a row image says nothing about a column."""

    MISSING = "missing"  # not in the image: never added there, or dropped since
    UNAVAILABLE = "unavailable"  # unchanged TOAST value, not in the WAL


Decoder = Callable[[object], Value]


def decoder(kind: ColumnType, times: TimePrecision = TimePrecision.MICROSECONDS) -> Decoder:
    """What turns one JSON value of Debezium's into the stored form.

    The decoder raises `ValueRefused` for what the type cannot hold. It is not asked about NULL.

    Args:
        times: the mode of the log that the value comes from.
    """
    match kind.kind:
        case Kind.UUID:
            return _uuid
        case Kind.TEXT:
            return _text
        case Kind.JSON:
            return _json
        case Kind.BOOL:
            return _bool
        case Kind.INT:
            return whole_number
        case Kind.FLOAT4:
            return float4_text
        case Kind.FLOAT8:
            return float8_text
        case Kind.BYTEA:
            return _bytes
        case Kind.ENUM:
            labels = frozenset(kind.labels)
            return lambda value: _label(labels, value)
        case Kind.DATE:
            return stored_date
        case Kind.TIME:
            return stored_time(times, kind.precision)
        case Kind.TIMESTAMP:
            return stored_timestamp(times, kind.precision)
        case Kind.TIMESTAMPTZ:
            return stored_timestamptz
        case Kind.NUMERIC:
            return lambda value: _numeric(kind.scale, value)


def id_decoder(kind: ColumnType) -> Decoder:
    """What turns an id into the stored form of the users' key, be it a number sent as text or the reverse.

    Whether it was written as the ids of users are, its printed form tells.
    """
    decode = decoder(kind)

    def number(value: object) -> Value:
        return integer(value) if isinstance(value, str) else whole_number(value)

    def text(value: object) -> Value:
        return _text(str(value) if type(value) is int else value)

    return {Kind.INT: number, Kind.TEXT: text, Kind.UUID: uuid_bytes}.get(kind.kind, decode)


def uuid_bytes(value: object) -> bytes:
    """The 16 bytes of a hyphenated uuid in any case."""
    if isinstance(value, str) and len(value) == 36 and value[8::5][:4] == "----":
        try:
            made = a2b_hex(value.replace("-", ""))
        except ValueError:
            made = b""
        if len(made) == 16:  # or there was another hyphen
            return made
    raise ValueRefused("not a uuid")


def _uuid(value: object) -> bytes:
    """As PostgreSQL prints it: another text of a text column is another value, and must not become this one."""
    made = uuid_bytes(value)
    if isinstance(value, str) and value != value.lower():
        raise ValueRefused("not a uuid in lower case")
    return made


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueRefused("not a string")
    return value


def _json(value: object) -> str:
    """Embedded as it is in answers, so it must be JSON, and in lines of an export, so it must be one line."""
    document = compact(_text(value))
    if document is None:
        raise ValueRefused("not a JSON document")
    return document


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueRefused("not a boolean")
    return value


def _bytes(value: object) -> bytes:
    encoded = _text(value)
    try:
        return a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise ValueRefused("not base64: leave binary.handling.mode of the connector at bytes") from None


def integer(text: str) -> int:
    """The 64-bit integer that `text` writes as Postgres prints it. Raises `ValueRefused`."""
    if not _INTEGER.fullmatch(text):
        raise ValueRefused("not an integer as Postgres prints it")
    return whole_number(int(text))


def _label(labels: frozenset[str], value: object) -> str:
    if not isinstance(value, str) or value not in labels:
        raise ValueRefused("not a declared label of the enum")
    return value


_DECIMAL = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,5})?", re.ASCII)
"""Postgres's numeric has at most 131,072 digits before the point: five of an exponent say them all."""
_SPECIAL = {
    "NAN": "NaN",
    "NaN": "NaN",
    "POSITIVE_INFINITY": "Infinity",
    "NEGATIVE_INFINITY": "-Infinity",
}


def _numeric(scale: int | None, value: object) -> str:
    if isinstance(value, str) and value in _SPECIAL:
        return _SPECIAL[value]
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueRefused("not a decimal string: set decimal.handling.mode=string in the connector")
    try:
        text = f"{Decimal(value):f}" if "e" in value.lower() else value
    except InvalidOperation:
        raise ValueRefused("not a decimal") from None
    if scale is None:
        return text
    whole, _, fraction = text.partition(".")
    if scale < 0:
        # Debezium takes a scale of -2 for one of 2046, and sends as many zeros (seen).
        if not (set(fraction) <= {"0"} and (set(whole[scale:]) <= {"0"} or whole in ("0", "-0"))):
            raise ValueRefused("decimal of another scale: mend the view")
        return whole
    if len(fraction) != scale:
        # Base64 of `precise` mode may look like digits, but it never has the declared scale.
        raise ValueRefused("decimal of another scale: set decimal.handling.mode=string, or mend the view")
    return text


Printer = Callable[[Value], object]


def printer(kind: ColumnType) -> Printer:
    """What turns a stored value into what JSON shows. None goes in and out as None."""
    match kind.kind:
        case Kind.UUID:
            return _print_uuid
        case Kind.DATE:
            return print_date
        case Kind.TIME:
            return print_time
        case Kind.TIMESTAMP:
            return lambda value: print_timestamp(value, "")
        case Kind.TIMESTAMPTZ:
            return lambda value: print_timestamp(value, "Z")
        case Kind.BYTEA:
            return _print_bytes
        case Kind.INT if kind.as_text:
            return lambda value: None if value is None else str(value)
        case Kind.JSON:
            return _print_json
        case _:
            return lambda value: value


def _print_uuid(value: Value) -> str | None:
    if value is None:
        return None
    assert isinstance(value, bytes)
    h = value.hex()
    return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"


def _print_bytes(value: Value) -> str | None:
    if value is None:
        return None
    assert isinstance(value, bytes)
    return f"\\x{value.hex()}"


def _print_json(value: Value) -> msgspec.Raw | None:
    assert value is None or isinstance(value, str)
    return None if value is None else msgspec.Raw(value.encode())


def key_order_bytes(value: Value) -> bytes:
    """A key's bytes, sorted as Postgres sorts the key: uuid bytewise, text `COLLATE "C"`, int by value."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, int):
        return (value + 2**63).to_bytes(8, "big")
    assert isinstance(value, str)
    return value.encode()


def key_of_order_bytes(kind: ColumnType, key: bytes) -> Value:
    """The inverse of `key_order_bytes`, for a key of this type."""
    match kind.kind:
        case Kind.UUID:
            return key
        case Kind.INT:
            return int.from_bytes(key, "big") - 2**63
        case _:
            return key.decode()
