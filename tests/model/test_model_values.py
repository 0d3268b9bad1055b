"""Values: from Debezium's JSON to storage to what clients read (DEBEZIUM 25, 26, 27, 36, 37)."""

import json
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2 as kafka_murmur2

from kycache.model.lsn import format_lsn, parse_lsn, parse_sequence
from kycache.model.partition import KeyForm, key_bytes, murmur2, partition_of
from kycache.model.scalars.numbers import INT_MAX, INT_MIN
from kycache.model.scalars.refused import ValueRefused
from kycache.model.scalars.times import TimePrecision, date_of, days_of
from kycache.model.values import (
    decoder,
    key_of_order_bytes,
    key_order_bytes,
    printer,
)
from kycache.model.view import ColumnType, Kind

TIMESTAMP = ColumnType(Kind.TIMESTAMP)
TIMESTAMPTZ = ColumnType(Kind.TIMESTAMPTZ)
DATE = ColumnType(Kind.DATE)
NUMERIC = ColumnType(Kind.NUMERIC)
MONEY = ColumnType(Kind.NUMERIC, precision=18, scale=4)


@pytest.mark.parametrize(
    ("kind", "sent", "shown"),
    [
        (TIMESTAMP, 1795334905559847, "2026-11-22T08:08:25.559847"),
        (TIMESTAMP, 1795334905500000, "2026-11-22T08:08:25.5"),
        (TIMESTAMP, 1795334905000000, "2026-11-22T08:08:25"),
        (TIMESTAMP, -1, "1969-12-31T23:59:59.999999"),
        (TIMESTAMP, 9223372036825200000, "infinity"),
        (TIMESTAMP, -9223372036832400000, "-infinity"),
        (TIMESTAMP, -63524131200000000, "0044-01-01T00:00:00 BC"),
        (TIMESTAMP, 253402300800000000, "10000-01-01T00:00:00"),
        (ColumnType(Kind.TIMESTAMP, precision=3), 1795334905559000, "2026-11-22T08:08:25.559"),
        (TIMESTAMP, 9223372036825200, "2262-04-11T23:47:16.8252"),  # in `adaptive` an infinity
        (ColumnType(Kind.TIMESTAMP, precision=0), -210866803200000000, "4714-11-24T00:00:00 BC"),
        (ColumnType(Kind.TIMESTAMP, precision=3), 9223371244799999000, "294246-12-31T23:59:59.999"),
        (ColumnType(Kind.TIME), 0, "00:00:00"),
        (ColumnType(Kind.TIME), 45296700000, "12:34:56.7"),
        (ColumnType(Kind.TIME, precision=0), 86400000000, "24:00:00"),
        (ColumnType(Kind.BYTEA), "", "\\x"),
        (ColumnType(Kind.BYTEA), "AP8Q", "\\x00ff10"),
        (ColumnType(Kind.INT, as_text=True), 1234567890123456789, "1234567890123456789"),
        (ColumnType(Kind.FLOAT8), 0.1, "0.1"),
        (ColumnType(Kind.FLOAT8), 1, "1"),
        (ColumnType(Kind.FLOAT8), "NaN", "NaN"),
        (ColumnType(Kind.FLOAT4), "-Infinity", "-Infinity"),
        (TIMESTAMPTZ, "2026-11-22T08:08:25.559847Z", "2026-11-22T08:08:25.559847Z"),
        (TIMESTAMPTZ, "2026-11-22T08:08:25.120000Z", "2026-11-22T08:08:25.12Z"),
        (TIMESTAMPTZ, "2026-11-22T08:08:25Z", "2026-11-22T08:08:25Z"),
        (TIMESTAMPTZ, "2026-11-22T10:08:25+02:00", "2026-11-22T08:08:25Z"),
        (TIMESTAMPTZ, "+10000-01-01T00:00:00.000000Z", "10000-01-01T00:00:00Z"),
        (TIMESTAMPTZ, "-0043-03-15T12:00:00.000000Z", "0044-03-15T12:00:00Z BC"),
        (TIMESTAMPTZ, "0000-02-29T00:00:00.000000Z", "0001-02-29T00:00:00Z BC"),
        (TIMESTAMPTZ, "infinity", "infinity"),
        (TIMESTAMPTZ, "-infinity", "-infinity"),
        (DATE, 0, "1970-01-01"),
        (DATE, -56270, "1815-12-10"),
        (DATE, -2147472692, "infinity"),
        (DATE, -2147472691, "-infinity"),
        (DATE, -622191234, "infinity"),
        (DATE, -625821272, "-infinity"),
        (DATE, 2145042905, "5874897-12-31"),
        (DATE, -719163, "0001-12-31 BC"),
        (MONEY, "1234.5678", "1234.5678"),
        (MONEY, "-5.0000", "-5.0000"),
        (MONEY, "NAN", "NaN"),
        (NUMERIC, "POSITIVE_INFINITY", "Infinity"),
        (NUMERIC, "NEGATIVE_INFINITY", "-Infinity"),
        (NUMERIC, "1E-8", "0.00000001"),
        (ColumnType(Kind.TEXT), "G ", "G "),
        (ColumnType(Kind.BOOL), True, True),
        (ColumnType(Kind.INT), -(2**63), -(2**63)),
        (ColumnType(Kind.ENUM, ("A", "B")), "B", "B"),
    ],
)
def test_sent_and_shown(kind: ColumnType, sent: object, shown: object) -> None:
    assert printer(kind)(decoder(kind)(sent)) == shown


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        (TIMESTAMP, "2026-11-22T08:08:25Z"),
        (TIMESTAMP, 1.5),
        (TIMESTAMP, True),
        (TIMESTAMP, -9223372036853775810),  # 294276-12-31, wrapped (DEBEZIUM 36)
        (TIMESTAMP, 2**63),
        (TIMESTAMPTZ, 1795334905559847),
        (TIMESTAMPTZ, "2026-11-22"),
        (TIMESTAMPTZ, "2026-02-30T00:00:00Z"),
        (TIMESTAMPTZ, "2026-11-22T24:00:00Z"),
        (DATE, "2026-11-22"),
        (DATE, 2145042906),
        (MONEY, 1234.5678),
        (MONEY, "AAAAAAC8YU4="),  # decimal.handling.mode=precise
        (MONEY, "1234"),  # base64 may look like digits, but has no scale
        (MONEY, "1.2.3"),
        (NUMERIC, "1e999999999"),
        (ColumnType(Kind.TEXT), 5),
        (ColumnType(Kind.BOOL), "true"),
        (ColumnType(Kind.INT), 2**63),
        (ColumnType(Kind.INT), -(2**63) - 1),
        (ColumnType(Kind.INT), True),
        (ColumnType(Kind.INT), "5"),
        (ColumnType(Kind.UUID), "0000000a000040008000000000000001"),
        (ColumnType(Kind.UUID), "0000000A-0000-4000-8000-000000000001"),  # PostgreSQL prints lower case
        (ColumnType(Kind.UUID), "zzzzzzzz-0000-4000-8000-000000000001"),
        (ColumnType(Kind.UUID), None),
        (ColumnType(Kind.ENUM, ("A", "B")), "C"),
        (ColumnType(Kind.ENUM, ("A", "B")), ["A"]),
        (ColumnType(Kind.TIMESTAMP, precision=3), -9223372036854775616),  # 294247-01-10, wrapped (seen)
        (ColumnType(Kind.TIMESTAMP, precision=3), 9223372036854775807),  # saturated (seen)
        (ColumnType(Kind.TIME), 86400000001),
        (ColumnType(Kind.TIME), -1),
        (ColumnType(Kind.TIME), "10:00:00"),
        (ColumnType(Kind.BYTEA), "AP8"),
        (ColumnType(Kind.BYTEA), "00ff10!"),
        (ColumnType(Kind.FLOAT8), "0.1"),
        (ColumnType(Kind.FLOAT8), True),
        (ColumnType(Kind.FLOAT8), 10**400),
        (ColumnType(Kind.FLOAT4), 1e39),
    ],
)
def test_refused_without_naming_the_value(kind: ColumnType, sent: object) -> None:
    with pytest.raises(ValueRefused) as raised:
        decoder(kind)(sent)
    assert str(sent) not in str(raised.value)


@pytest.mark.parametrize(
    ("digits", "sent", "shown"),
    [
        (3, 1795334905559, "2026-11-22T08:08:25.559"),
        (0, 9223372036825200, "infinity"),
        (3, -9223372036832400, "-infinity"),
        (3, 9223371244800000, "294247-01-01T00:00:00"),
        (4, 1795334905559800, "2026-11-22T08:08:25.5598"),
        (None, 1795334905559847, "2026-11-22T08:08:25.559847"),
        (None, 9223372036825200000, "infinity"),
    ],
)
def test_a_log_in_adaptive_mode(digits: int | None, sent: int, shown: str) -> None:
    kind = ColumnType(Kind.TIMESTAMP, precision=digits)
    assert printer(kind)(decoder(kind, TimePrecision.ADAPTIVE)(sent)) == shown


@pytest.mark.parametrize(("digits", "sent"), [(3, 86_400_000), (0, 86_400_000), (6, 86_400_000_000)])
def test_times_of_day_in_adaptive_mode(digits: int, sent: int) -> None:
    kind = ColumnType(Kind.TIME, precision=digits)
    decode = decoder(kind, TimePrecision.ADAPTIVE)
    assert printer(kind)(decode(sent)) == "24:00:00"
    with pytest.raises(ValueRefused):
        decode(sent + 1)


@given(st.dates())
def test_calendar_agrees_with_python(day: date) -> None:
    days = (day - date(1970, 1, 1)).days
    assert days_of(day.year, day.month, day.day) == days
    assert date_of(days) == (day.year, day.month, day.day)


@given(st.integers(-2_440_588, 2_145_042_905))
def test_calendar_round_trip_over_all_of_postgres(days: int) -> None:
    assert days_of(*date_of(days)) == days


@given(st.datetimes(timezones=st.just(UTC)))
def test_times_agree_with_python(at: datetime) -> None:
    text = at.isoformat(timespec="microseconds").replace("+00:00", "Z")
    shown = printer(TIMESTAMPTZ)(decoder(TIMESTAMPTZ)(text))
    trimmed = text[:-1].rstrip("0").rstrip(".") if at.microsecond else text[:-8]
    assert shown == trimmed + "Z"


@given(st.binary(max_size=64))
def test_murmur2_is_kafkas(data: bytes) -> None:
    assert murmur2(data) == kafka_murmur2(data) & 0xFFFFFFFF
    assert partition_of(data, 12) == (kafka_murmur2(data) & 0x7FFFFFFF) % 12


def test_key_forms() -> None:
    assert key_bytes(KeyForm.PLAIN, "id", "ada") == b"ada"
    assert key_bytes(KeyForm.QUOTED, "id", "ada") == b'"ada"'
    assert key_bytes(KeyForm.JSON, "id", "ada") == b'{"id":"ada"}'
    assert key_bytes(KeyForm.JSON, "id", "7", numeric=True) == b'{"id":7}'
    assert key_bytes(KeyForm.QUOTED, "id", "7", numeric=True) == b"7"


def test_keys_in_json_are_escaped_as_kafka_connect_escapes_them() -> None:
    """What its JsonConverter made of these, in connect-json 4.3.0: one byte otherwise is another partition."""
    odd = '\x01\x08\t\n\x0b\x0c\r\x1b\x1f\x7f"\\/\u2028é\U0001f600\\u00ab'
    written = (
        rb'"\u0001\b\t\n\u000B\f\r\u001B\u001F'
        b'\x7f\\"\\\\/\xe2\x80\xa8\xc3\xa9'
        rb'\uD83D\uDE00\\u00ab"'
    )
    assert key_bytes(KeyForm.QUOTED, "id", odd) == written
    assert key_bytes(KeyForm.JSON, odd, odd) == b"{%b:%b}" % (written, written)
    assert json.loads(written) == odd
    assert key_bytes(KeyForm.PLAIN, "id", odd) == odd.encode()


def test_lsn_text() -> None:
    assert format_lsn(0x16B374D848) == "16/B374D848"
    assert parse_lsn("16/B374D848") == 0x16B374D848
    assert parse_lsn("16/b374d848") == 0x16B374D848
    for wrong in ("", "16", "16/", "/1", "16/B374D8480", "16/B374D84G", " 16/1", "1/1\n"):
        assert parse_lsn(wrong) is None


def test_sequence_is_compared_as_numbers() -> None:
    assert parse_sequence('["52001120","52001368"]') == (52001120, 52001368)
    assert parse_sequence('[null,"51996328"]') == (None, 51996328)
    assert parse_sequence('["9","10"]') < parse_sequence('["10","9"]')
    for wrong in ("", "[]", '["1"]', "[1,2]", '["x","2"]'):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_sequence(wrong)


@given(value=st.one_of(st.binary(min_size=16, max_size=16), st.text(min_size=1), st.integers(INT_MIN, INT_MAX)))
def test_a_key_is_read_back_from_its_bytes(value: bytes | str | int) -> None:
    kind = {bytes: Kind.UUID, str: Kind.TEXT, int: Kind.INT}[type(value)]
    assert key_of_order_bytes(ColumnType(kind), key_order_bytes(value)) == value
