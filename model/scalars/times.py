"""Dates and times: what Debezium sends of them, and how they are stored and printed. Pure.

Years beyond 9999 and before 1 exist, so `datetime` is only a short cut. Sources of the odd numbers: DEBEZIUM
lines 25, 26, 36, 37 and 39.
"""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum

from .numbers import whole_number
from .refused import ValueRefused


class TimePrecision(StrEnum):
    """Debezium's `time.precision.mode`: the unit of times without a zone. No event says it.

    `adaptive` follows a column's precision, so readers of before an ALTER of it are wrong by a factor of 1000.
    Debezium's other modes lose values: infinities, `24:00:00`, microseconds, or years outside 1677 to 2262.
    """

    ADAPTIVE = "adaptive"  # milliseconds for 0 to 3 digits, microseconds for others
    MICROSECONDS = "microseconds"


TIME_PROBE = "time_probe"
"""A heartbeat's `timestamp(3)`, always 2000-01-01: in its unit the log has its other times."""

_PROBES = {TimePrecision.ADAPTIVE: 946_684_800_000, TimePrecision.MICROSECONDS: 946_684_800_000_000}


def probe_fits(value: object, mode: TimePrecision) -> bool:
    """A heartbeat's probe, as it came, is of this mode. A table that has none (None) tells nothing."""
    return value is None or value == _PROBES[mode]


MILLISECOND_DIGITS = 3
"""In `adaptive` a column with so many digits or fewer comes in milliseconds."""

INFINITY = 2**63 - 1
MINUS_INFINITY = -(2**63)
DAY_US = 86_400_000_000

_TIMESTAMP_INFINITY = 9223372036825200000
_TIMESTAMP_MINUS_INFINITY = -9223372036832400000
_INFINITIES = frozenset({_TIMESTAMP_INFINITY, _TIMESTAMP_MINUS_INFINITY})
"""One code for each in `microseconds`, whatever the column's precision."""
TIMESTAMP_ODD = _INFINITIES | {infinity // 1000 for infinity in _INFINITIES}
"""Numbers that mean an infinity in `adaptive`, where they come in milliseconds too."""
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


def stored_date(value: object) -> int:
    """Days since 1970-01-01, or an infinity, of the days that Debezium counts. Raises `ValueRefused`."""
    days = whole_number(value)
    if days == _DATE_INFINITY or days in _DATE_SNAPSHOT_INFINITY:
        return INFINITY
    if days == _DATE_MINUS_INFINITY or days in _DATE_SNAPSHOT_MINUS_INFINITY:
        return MINUS_INFINITY
    if not DATE_MIN <= days <= DATE_MAX:
        raise ValueRefused("not a date of Postgres in days since 1970")
    return days


def unit_us(mode: TimePrecision, digits: int | None) -> int:
    """Microseconds in what Debezium counts a column in.

    Args:
        digits: of its seconds, as declared; None: six.
    """
    millis = mode is TimePrecision.ADAPTIVE and digits is not None and digits <= MILLISECOND_DIGITS
    return 1000 if millis else 1


def stored_timestamp(mode: TimePrecision, digits: int | None) -> Callable[[object], int]:
    """What turns a count of Debezium's into microseconds since 1970, or an infinity; it raises `ValueRefused`."""
    unit = unit_us(mode, digits)
    odd = TIMESTAMP_ODD if mode is TimePrecision.ADAPTIVE else _INFINITIES

    def stored(value: object) -> int:
        count = whole_number(value)
        if count in odd:
            return INFINITY if count > 0 else MINUS_INFINITY
        micros = count * unit
        if not TIMESTAMP_MIN <= micros < TIMESTAMP_WRAP:
            raise ValueRefused("timestamp out of Debezium's range: the true value is lost")
        return micros

    return stored


def usual_timestamps(mode: TimePrecision) -> tuple[int, int]:
    """The counts that any column's decoder only multiplies: from the first up to, not including, the second."""
    if mode is TimePrecision.MICROSECONDS:
        return TIMESTAMP_MIN, TIMESTAMP_WRAP
    least = min(map(abs, TIMESTAMP_ODD))  # as microseconds, the years 1677 to 2262
    return 1 - least, least


def stored_time(mode: TimePrecision, digits: int | None) -> Callable[[object], int]:
    """What turns a count of Debezium's into microseconds since midnight; it raises `ValueRefused`."""
    unit = unit_us(mode, digits)

    def stored(value: object) -> int:
        micros = whole_number(value) * unit
        if not 0 <= micros <= DAY_US:  # 24:00:00 is a time of Postgres
            raise ValueRefused("not a time of day")
        return micros

    return stored


_ISO_USUAL = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?Z")
"""What Debezium sends of every time that Python's clock knows too."""
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)

_ISO = re.compile(
    r"([+-]?\d{4,6})-(\d\d)-(\d\d)T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:Z|([+-]\d\d):?(\d\d)?)",
    re.ASCII,
)


def stored_timestamptz(value: object) -> int:
    """Microseconds since 1970 in UTC, or an infinity, of an ISO time. Raises `ValueRefused`."""
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


def print_date(value: object) -> str | None:
    """A stored date as Postgres prints it."""
    if value is None:
        return None
    assert isinstance(value, int)
    if value in (INFINITY, MINUS_INFINITY):
        return "infinity" if value > 0 else "-infinity"
    year, month, day = date_of(value)
    if year > 0:
        return f"{year:04d}-{month:02d}-{day:02d}"
    return f"{1 - year:04d}-{month:02d}-{day:02d} BC"


_PRINTED_DATE = re.compile(r"(\d{4,7})-(\d\d)-(\d\d)( BC)?", re.ASCII)


def is_printed_date(text: str) -> bool:
    """It is a date, in the one form that Postgres prints it in."""
    if text in ("infinity", "-infinity"):
        return True
    match = _PRINTED_DATE.fullmatch(text)
    if match is None:
        return False
    year, month, day = (int(match[i]) for i in (1, 2, 3))
    days = days_of(1 - year if match[4] else year, month, day)
    return DATE_MIN <= days <= DATE_MAX and print_date(days) == text


def print_time(value: object) -> str | None:
    """A stored time of day as Postgres prints it."""
    if value is None:
        return None
    assert isinstance(value, int)
    return _clock(value)


def print_timestamp(value: object, zone: str) -> str | None:
    """A stored timestamp as Postgres prints it, but for a `T` before the time and `zone` after it."""
    if value is None:
        return None
    assert isinstance(value, int)
    if value in (INFINITY, MINUS_INFINITY):
        return "infinity" if value > 0 else "-infinity"
    days, micros = divmod(value, DAY_US)
    year, month, day = date_of(days)
    era = "" if year > 0 else " BC"
    year = year if year > 0 else 1 - year
    return f"{year:04d}-{month:02d}-{day:02d}T{_clock(micros)}{zone}{era}"


def _clock(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    digits = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{hour:02d}:{minute:02d}:{second:02d}{digits}"
