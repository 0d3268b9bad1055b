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
=========== ============================================================================

NULL is None in each. Printing follows DESIGN section 7: as Postgres prints a value, with `T` for the
blank. Years beyond 9999 and before 1 exist, so `datetime` is only a short cut. Sources of the odd numbers:
DEBEZIUM lines 25, 26, 36, 37.
"""

import re
from binascii import a2b_hex
from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import Enum

import msgspec

from .json_text import compact
from .view import ColumnType, Kind

Value = bytes | str | int | bool | None

INFINITY = 2**63 - 1
MINUS_INFINITY = -(2**63)

PLACEHOLDER = "__debezium_unavailable_value"
"""Debezium's default for an unchanged TOAST column (DEBEZIUM 23); a setting of the connector."""

_TIMESTAMP_INFINITY = 9223372036825200000
_TIMESTAMP_MINUS_INFINITY = -9223372036832400000
TIMESTAMP_ODD = frozenset(
    value // unit for value in (_TIMESTAMP_INFINITY, _TIMESTAMP_MINUS_INFINITY) for unit in (1, 1000)
)
"""Numbers that mean an infinity. One converter setting writes them in milliseconds too."""
_DATE_INFINITY = -2147472692
_DATE_MINUS_INFINITY = -2147472691
_DATE_SNAPSHOT_INFINITY = frozenset(range(-622191235, -622191232))
_DATE_SNAPSHOT_MINUS_INFINITY = frozenset(range(-625821273, -625821270))
"""In a snapshot infinite dates pass through java.sql.Date; a day either way for the JVM's time zone (seen)."""
DATE_MAX = 2145042905
"""5874897-12-31, the last day Postgres has."""
DATE_MIN = -2440588
"""4714-11-24 BC, the first day Postgres has."""
_TIMESTAMP_MAX = 9224318016000000000
"""294277-01-01, where Postgres's own timestamps end; Debezium saturates well before."""
TIMESTAMP_WRAP = 9223371331200000000
"""294247-01-01: from here on Debezium's microseconds may have wrapped (DEBEZIUM 36)."""
TIMESTAMP_MIN = -210866803200000000
"""4714-11-24 BC, Postgres's first instant; less is a wrapped value."""
USER_KEY_BYTES_MAX = 400
"""A user id's bytes: with the order column before it, it must fit an LMDB key (511 bytes)."""

INT_MIN = -(2**63)
INT_MAX = 2**63 - 1
INTEGER = r"(0|-?[1-9][0-9]{0,18})"
"""An integer as Postgres prints it: one way to write each, or one user would have two, and a filter two values."""
_INTEGER = re.compile(INTEGER)
DAY_US = 86_400_000_000


class Absent(Enum):
    """Why a row image says nothing about a column."""

    MISSING = "missing"  # not in the image: never added there, or dropped since
    UNAVAILABLE = "unavailable"  # unchanged TOAST value, not in the WAL


class ValueRefused(ValueError):
    """A value that its declared type cannot hold; the text has no value in it, so it may be logged."""


Decoder = Callable[[object], Value]


def decoder(kind: ColumnType) -> Decoder:
    """What turns one JSON value of Debezium's into the stored form.

    The decoder raises `ValueRefused` for what the type cannot hold. It is not asked about NULL.
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
            return _int
        case Kind.ENUM:
            labels = frozenset(kind.labels)
            return lambda value: _label(labels, value)
        case Kind.DATE:
            return _date
        case Kind.TIMESTAMP:
            unit = 1000 if kind.precision is not None and kind.precision <= 3 else 1
            return lambda value: _timestamp(unit, value)
        case Kind.TIMESTAMPTZ:
            return _timestamptz
        case Kind.NUMERIC:
            return lambda value: _numeric(kind.scale, value)


def id_decoder(kind: ColumnType) -> Decoder:
    """What turns an id into the stored form of the users' key, be it a number sent as text or the reverse.

    Whether it was written as the ids of users are, its printed form tells.
    """
    decode = decoder(kind)

    def number(value: object) -> Value:
        return integer(value) if isinstance(value, str) else _int(value)

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


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not INT_MIN <= value <= INT_MAX:
        raise ValueRefused("not a 64-bit integer")
    return value


def integer(text: str) -> int:
    """The 64-bit integer that `text` writes as Postgres prints it. Raises `ValueRefused`."""
    if not _INTEGER.fullmatch(text):
        raise ValueRefused("not an integer as Postgres prints it")
    return _int(int(text))


def _label(labels: frozenset[str], value: object) -> str:
    if not isinstance(value, str) or value not in labels:
        raise ValueRefused("not a declared label of the enum")
    return value


def _date(value: object) -> int:
    days = _int(value)
    if days == _DATE_INFINITY or days in _DATE_SNAPSHOT_INFINITY:
        return INFINITY
    if days == _DATE_MINUS_INFINITY or days in _DATE_SNAPSHOT_MINUS_INFINITY:
        return MINUS_INFINITY
    if not DATE_MIN <= days <= DATE_MAX:
        raise ValueRefused("not a date of Postgres in days since 1970")
    return days


def _timestamp(unit_us: int, value: object) -> int:
    count = _int(value)
    if count in TIMESTAMP_ODD:
        return INFINITY if count > 0 else MINUS_INFINITY
    micros = count * unit_us
    if not TIMESTAMP_MIN <= micros < TIMESTAMP_WRAP:
        raise ValueRefused("timestamp out of Debezium's range: the true value is lost")
    return micros


_ISO_USUAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z")
"""What Debezium sends of every time that Python's clock knows too."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)

_ISO = re.compile(
    r"([+-]?\d{4,6})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:Z|([+-]\d\d):?(\d\d)?)",
    re.ASCII,
)


def _timestamptz(value: object) -> int:
    if value == "infinity":
        return INFINITY
    if value == "-infinity":
        return MINUS_INFINITY
    if not isinstance(value, str):
        raise ValueRefused("not an ISO time with zone")
    if _ISO_USUAL.fullmatch(value):
        try:
            return (datetime.fromisoformat(value[:-1]) - _EPOCH) // _MICROSECOND
        except ValueError:
            pass  # no time of the calendar, or none of Python's
    match = _ISO.fullmatch(value)
    if match is None:
        raise ValueRefused("not an ISO time with zone")
    year, month, day, hour, minute = (int(match[i]) for i in range(1, 6))
    if not (1 <= month <= 12 and 1 <= day <= _month_days(year, month) and hour < 24 and minute < 60):
        raise ValueRefused("not a time of the calendar")
    micros = days_of(year, month, day) * DAY_US + (hour * 60 + minute) * 60_000_000
    micros += int(match[6] or 0) * 1_000_000 + int((match[7] or "").ljust(6, "0")[:6])
    if match[8]:
        offset = int(match[8]) * 60 + int(match[8][0] + (match[9] or "0"))
        micros -= offset * 60_000_000
    if not TIMESTAMP_MIN <= micros < _TIMESTAMP_MAX:
        raise ValueRefused("not a time of Postgres")
    return micros


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


def days_of(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 of a date in the proleptic Gregorian calendar; year 0 is 1 BC.

    Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", days_from_civil.
    """
    year -= month <= 2
    era, of_era = divmod(year, 400)
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    return era * 146097 + of_era * 365 + of_era // 4 - of_era // 100 + of_year - 719468


def date_of(days: int) -> tuple[int, int, int]:
    """The inverse of `days_of` (civil_from_days)."""
    era, of_era_days = divmod(days + 719468, 146097)
    of_era = (of_era_days - of_era_days // 1460 + of_era_days // 36524 - of_era_days // 146096) // 365
    of_year = of_era_days - (365 * of_era + of_era // 4 - of_era // 100)
    shifted = (5 * of_year + 2) // 153
    month = shifted + (3 if shifted < 10 else -9)
    return of_era + era * 400 + (month <= 2), month, of_year - (153 * shifted + 2) // 5 + 1


def _month_days(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


Printer = Callable[[Value], object]


def printer(kind: ColumnType) -> Printer:
    """What turns a stored value into what JSON shows. None goes in and out as None."""
    match kind.kind:
        case Kind.UUID:
            return _print_uuid
        case Kind.DATE:
            return _print_date
        case Kind.TIMESTAMP:
            return lambda value: _print_time(value, "")
        case Kind.TIMESTAMPTZ:
            return lambda value: _print_time(value, "Z")
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


def _print_json(value: Value) -> msgspec.Raw | None:
    assert value is None or isinstance(value, str)
    return None if value is None else msgspec.Raw(value.encode())


def _print_date(value: Value) -> str | None:
    if value is None:
        return None
    assert isinstance(value, int)
    if value in (INFINITY, MINUS_INFINITY):
        return "infinity" if value > 0 else "-infinity"
    year, month, day = date_of(value)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}"
    return f"{1 - year:04d}-{month:02d}-{day:02d} BC"


def _print_time(value: Value, zone: str) -> str | None:
    if value is None:
        return None
    assert isinstance(value, int)
    if value in (INFINITY, MINUS_INFINITY):
        return "infinity" if value > 0 else "-infinity"
    days, micros = divmod(value, DAY_US)
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    year, month, day = date_of(days)
    digits = f".{fraction:06d}".rstrip("0") if fraction else ""
    era = "" if year > 0 else " BC"
    year = year if year > 0 else 1 - year
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{digits}{zone}{era}"


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
