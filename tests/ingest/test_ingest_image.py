"""The two ways through a row image say the same: the typed conversion is only a short cut."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kycache.ingest.decoding.image import EXTRA_COLUMNS_MAX, ColumnRefused, ImageDecoder, Values
from kycache.model.definition import default_view, load_view, parse_view
from kycache.model.scalars.times import TIMESTAMP_ODD, TimePrecision
from kycache.model.values import BYTEA_PLACEHOLDER, PLACEHOLDER, Absent
from kycache.model.view import Column, ColumnType, Kind, Privacy, Table, View

HERE = Path(__file__).parents[1] / "fixtures"
VIEW = default_view()
OTHER = parse_view(
    """
name = "others"
[root]
table = "others"
key = "user_id"
[root.columns]
user_id = { name = "userId", type = "uuid" }
flag = { name = "flag", type = "bool" }
number = { name = "number", type = "int as text" }
at = { name = "at", type = "timestamp(3)" }
daily = { name = "daily", type = "time" }
daily3 = { name = "daily3", type = "time(3)" }
single = { name = "single", type = "float4" }
double = { name = "double", type = "float8" }
raw = { name = "raw", type = "bytea" }
document = { name = "document", type = "json" }
[list]
order = "at"
fields = ["userId"]
""",
    "others.toml",
)
"""The types that the packaged view does not have."""

TABLES = (*VIEW.tables, OTHER.root)

UUID = "048379c1-feb0-415e-ab68-3ac0efcc4588"
PLAIN: dict[str, Any] = {
    "uuid": UUID,
    "text": "Ōta",
    "bool": True,
    "int": 7,
    "date": 20_000,
    "timestamp": 1_777_229_414_395_367,
    "timestamptz": "2026-11-18T11:06:40.003000Z",
    "numeric": "1234.5678",
    "json": '{"a":1}',
    "enum": "PENDING",
    "time": 36_000_000,
    "float4": 0.5,
    "float8": 1.5,
    "bytea": "AP8Q",
}
ODD: list[Any] = [
    *(None, PLACEHOLDER, "", "x", 0, -1, 1.5, True, [], {}, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**70),
    *TIMESTAMP_ODD,
    *(-2147472692, -2147472691, -622191234, 2145042905, 2145042906, -2440588, -2440589),
    *(-210866803200000000, -210866803200000001, 9223371331200000000, 9223371331199999999),
    *("infinity", "-infinity", "2026-11-18T11:06Z", "2026-11-18T24:00:00Z", "2026-02-29T00:00:00Z"),
    *("2026-11-18T11:06:40+01:00", "2026-11-18T11:06:40.1234567Z", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z"),
    *("2026-11-18T11:06:60Z", "+12026-11-18T11:06:40Z", "2026-W47-3T11:06:40Z", "2026-11-18 11:06:40Z"),
    *("1.5", "-0.0000", "1E+2", "NaN", "POSITIVE_INFINITY", "1234.56789", "\u0661.0000", "1234.5678\n"),
    *(UUID.upper(), UUID.replace("-", ""), UUID[:-1] + "g", UUID[:-1] + " ", UUID[:-2] + "-8", "-" * 36),
    *("VERIFIED", "verified", "[1]", "{", "nul"),
    *(
        86_400_000,
        86_400_001,
        86_400_000_000,
        86_400_000_001,
        BYTEA_PLACEHOLDER,
        "AP8",
        "AP8Q",
        "Infinity",
        1e39,
        1e-50,
    ),
]


def same_both_ways(decoder: ImageDecoder, image: dict[str, Any], owner: str | None = None) -> Values | str:
    """What decoding column by column makes of it; the quick way agrees, value and type, where it is one."""
    try:
        slow = decoder.decode_each(image)
    except ColumnRefused as refused:
        assert decoder.read(msgspec.Raw(msgspec.json.encode(image))) is None
        return str(refused)
    usual = decoder.read(msgspec.Raw(msgspec.json.encode(image)))
    if usual is not None:
        assert usual[1] == slow
        assert [type(v) for v in usual[1].values] == [type(v) for v in slow.values]
        assert usual[0] == image.get(owner or "user_id")
    return slow


def captured() -> list[tuple[View, str, dict[str, Any]]]:
    images: list[tuple[View, str, dict[str, Any]]] = []
    for folder in sorted(HERE.glob("*-3.6.3-pg18")):
        view = load_view(HERE / "view.toml") if folder.name.startswith("debezium") else VIEW
        for line in (folder / "events.jsonl").read_text(encoding="utf-8").strip("\n").split("\n"):
            event = json.loads(line)
            value = event.get("value")
            envelope = json.loads(value) if isinstance(value, str) and value.startswith("{") else {}
            envelope = envelope.get("payload") or envelope
            source: dict[str, Any] = envelope.get("source") or {}
            table: str = source.get("table", "")
            images += [(view, table, i) for i in (envelope.get("before"), envelope.get("after")) if i]
    return images


def test_every_captured_image() -> None:
    images = captured()
    decoders = {
        id(view): {t.name: ImageDecoder(t, TimePrecision.ADAPTIVE) for t in view.tables} for view, _, _ in images
    }
    known = [(decoders[id(view)][table], image) for view, table, image in images if table in decoders[id(view)]]
    assert len(known) > 500
    for decoder, image in known:
        same_both_ways(decoder, image)


@pytest.mark.parametrize("times", TimePrecision)
@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.name)
def test_every_odd_value_in_every_column(table: Table, times: TimePrecision) -> None:
    decoder = ImageDecoder(table, times)
    plain = {c.name: PLAIN[c.type.kind] for c in table.columns}
    plain |= {c.name: c.type.labels[0] for c in table.columns if c.type.labels}
    plain |= {table.owner: UUID}
    assert decoder.read(msgspec.Raw(msgspec.json.encode(plain))) is not None
    values = same_both_ways(decoder, plain)
    assert isinstance(values, Values)
    assert not values.partial
    for column in table.columns:
        for odd in ODD:
            same_both_ways(decoder, {**plain, column.name: odd})
        missing = same_both_ways(decoder, {k: v for k, v in plain.items() if k != column.name})
        assert isinstance(missing, Values)
        assert Absent.MISSING in missing.values
        assert missing.partial


def test_columns_outside_the_view_are_counted_and_become_usual() -> None:
    table = VIEW.root
    decoder = ImageDecoder(table, TimePrecision.MICROSECONDS)
    plain = {c.name: PLAIN[c.type.kind] for c in table.columns}
    more = {**plain, "nickname": {"a": [1]}, "notes": PLACEHOLDER * 2}
    assert decoder.read(msgspec.Raw(msgspec.json.encode(more))) is None
    decoder.learn(more)
    for image, extra in ((more, 2), (plain, 0), ({**plain, "notes": None}, 1)):
        usual = decoder.read(msgspec.Raw(msgspec.json.encode(image)))
        assert usual is not None
        assert usual[1].extra == extra
        assert same_both_ways(decoder, image) == usual[1]
    decoder.learn({f"c{n}": n for n in range(EXTRA_COLUMNS_MAX)})
    assert decoder.read(msgspec.Raw(msgspec.json.encode({**plain, "c0": 1}))) is None
    assert decoder.read(msgspec.Raw(msgspec.json.encode(more))) is not None


ODD_NAMES = [
    'net "gross"',
    "back\\slash",
    "tab\there",
    "",
    ".",
    "a.b",
    "c0",
    "__slots__",
    "x" * 70_000,
    "ÿ\U0001f600",
]
"""A column of PostgreSQL has any name of 1 to 63 bytes without NUL; a transform may make any other."""


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name[:10]))
def test_a_column_outside_the_view_has_any_name(name: str) -> None:
    table = VIEW.root
    decoder = ImageDecoder(table, TimePrecision.MICROSECONDS)
    plain = {c.name: PLAIN[c.type.kind] for c in table.columns}
    more = {**plain, name: 1, "nickname": 2}
    for _ in range(2):
        found = same_both_ways(decoder, more)
        assert isinstance(found, Values)
        assert found.extra == 2
        decoder.learn(more)
    # One odd name does not make all images of the table unusual, nor hide the plain one beside it.
    assert decoder.read(msgspec.Raw(msgspec.json.encode({**plain, "nickname": 2}))) is not None


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: ascii(name[:10]))
def test_a_column_of_the_view_has_any_name(name: str) -> None:
    key = Column(name, ("id",), ColumnType(Kind.TEXT), Privacy.OPEN)
    other = Column("plain", ("plain",), ColumnType(Kind.INT), Privacy.OPEN)
    decoder = ImageDecoder(
        Table("t", name, (key, other), (f"{name}secret",), f"{name}owner"), TimePrecision.MICROSECONDS
    )
    image = {name: "k", "plain": 5, f"{name}secret": "s", f"{name}owner": "u", "more": 1}
    for _ in range(2):
        found = same_both_ways(decoder, image, f"{name}owner")
        assert isinstance(found, Values)
        assert (found.values, found.extra) == (("k", 5), 1)
        assert decoder.names(msgspec.Raw(msgspec.json.encode(image))) == ("u", "k")
        assert decoder.names(msgspec.Raw(b'{"plain":5}')) == (None, None)
        assert decoder.names(msgspec.Raw(b"null")) == (None, None)
        with pytest.raises(msgspec.MsgspecError):
            decoder.names(msgspec.Raw(b"[]"))
        decoder.learn(image)


@given(st.dictionaries(st.text(max_size=6), st.none() | st.integers() | st.text(max_size=3), max_size=9))
def test_any_names(extra: dict[str, Any]) -> None:
    decoder = ImageDecoder(VIEW.root, TimePrecision.MICROSECONDS)
    image = extra | {c.name: PLAIN[c.type.kind] for c in VIEW.root.columns}
    assert isinstance(same_both_ways(decoder, image), Values)
    decoder.learn(image)
    assert isinstance(same_both_ways(decoder, image), Values)


@given(st.data())
def test_any_image(data: st.DataObject) -> None:
    table = data.draw(st.sampled_from(TABLES))
    times = data.draw(st.sampled_from(TimePrecision))
    value = st.sampled_from(ODD) | st.sampled_from(list(PLAIN.values())) | st.text(max_size=6) | st.integers()
    names = st.sampled_from([*(c.name for c in table.columns), "nickname", "owner"])
    same_both_ways(ImageDecoder(table, times), data.draw(st.dictionaries(names, value, max_size=16)))


def test_the_placeholder_of_a_bytea_comes_in_base64() -> None:
    """In a text column that base64 is a text."""
    decoder = ImageDecoder(OTHER.root, TimePrecision.MICROSECONDS)
    plain = {c.name: PLAIN[c.type.kind] for c in OTHER.root.columns}
    values = same_both_ways(decoder, {**plain, "raw": BYTEA_PLACEHOLDER})
    assert isinstance(values, Values)
    assert values.placeholders
    assert values.values[OTHER.root.index_of("raw")] is Absent.UNAVAILABLE
    texts = ImageDecoder(VIEW.root, TimePrecision.MICROSECONDS)
    told = same_both_ways(
        texts, {**{c.name: PLAIN[c.type.kind] for c in VIEW.root.columns}, "city": BYTEA_PLACEHOLDER}
    )
    assert isinstance(told, Values)
    assert not told.placeholders
