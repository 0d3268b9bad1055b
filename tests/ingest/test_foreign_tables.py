"""Tables of other people, from the record to the answer: real decoder, real store, real rendering."""

from pathlib import Path

import pytest

from kycache.model.change import Change, Poison
from support.foreign import foreign, view_of

DOCUMENT = 'doc = { name = "doc", type = "json" }'


@pytest.mark.parametrize(
    ("sent", "served"),
    [
        ('{"n": 1e400}', '{"n":1e400}'),
        ('"\\ud800"', '"\\ud800"'),
        ("[ 1 ,\n 2 ]", "[1,2]"),
        ('{"a":1, "a" : "x  y"}', '{"a":1,"a":"x  y"}'),
        ("12345678901234567890123", "12345678901234567890123"),
        ("[" * 6000 + "]" * 6000, "[" * 6000 + "]" * 6000),
        ("null", "null"),
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_json_is_served_as_postgres_stores_it(tmp_path: Path, sent: str, served: str) -> None:
    """In the profile and in the list, and without its blanks: a row of an export is one line."""
    with foreign(tmp_path, view_of("int", DOCUMENT, listed="id,doc")) as stand:
        assert isinstance(stand.root(1, doc=sent), Change)
        assert stand.body(1) == b'{"id":1,"at":"1970-01-01T00:00:00.000005","doc":%b}' % served.encode()
        assert stand.rows() == [b'{"id":1,"doc":%b}' % served.encode()]


ZEROS = "." + "0" * 2046
"""What Debezium 3.6.3 puts after a numeric(5,-2), which it takes for one of scale 2046 (seen)."""


@pytest.mark.parametrize(
    ("declared", "sent", "served"),
    [
        ("numeric(5,-2)", f"12300{ZEROS}", "12300"),
        ("numeric(5,-2)", f"-100{ZEROS}", "-100"),
        ("numeric(5,-2)", f"0{ZEROS}", "0"),
        ("numeric(5,-2)", "12300", "12300"),
        ("numeric(5,-2)", "NAN", "NaN"),
        ("numeric(2,4)", "0.0012", "0.0012"),
        ("numeric(3,0)", "123", "123"),
        ("numeric", "POSITIVE_INFINITY", "Infinity"),
        ("numeric", "1.50", "1.50"),
    ],
)
def test_a_numeric_of_any_scale_prints_as_postgres_prints_it(
    tmp_path: Path, declared: str, sent: str, served: str
) -> None:
    with foreign(tmp_path, view_of("int", f'n = {{ name = "n", type = "{declared}" }}')) as stand:
        for _ in range(2):  # the quick way and the slow one
            assert isinstance(stand.root(1, n=sent), Change)
            assert stand.body(1) == b'{"id":1,"at":"1970-01-01T00:00:00.000005","n":"%b"}' % served.encode()
            assert isinstance(stand.root(1, n=sent, more=1), Change)


@pytest.mark.parametrize("sent", [f"12345{ZEROS}", "12345", "12300.5", "123E2x"])
def test_a_numeric_of_another_scale_is_set_aside(tmp_path: Path, sent: str) -> None:
    with foreign(tmp_path, view_of("int", 'n = { name = "n", type = "numeric(5,-2)" }')) as stand:
        item = stand.root(1, n=sent)
        assert isinstance(item, Poison)
        assert "decimal" in item.reason


def test_labels_with_a_comma_or_empty(tmp_path: Path) -> None:
    column = 'kind = { name = "kind", type = "enum", labels = ["a,b", "", "c d"] }'
    view = view_of("int", column, listed="id,kind", rest="", filters="kind")
    with foreign(tmp_path, view) as stand:
        for number, label in enumerate(("a,b", "", "c d", None), 1):
            assert isinstance(stand.root(number, kind=label), Change)
        assert isinstance(stand.root(9, kind="a"), Poison)
        assert stand.rows() == [
            *(b'{"id":4,"kind":null}', b'{"id":3,"kind":"c d"}', b'{"id":2,"kind":""}', b'{"id":1,"kind":"a,b"}')
        ]
        assert stand.shard.listed(kind="a,b") == [{"id": 1, "kind": "a,b"}]
        assert stand.shard.listed(kind="") == [{"id": 2, "kind": ""}]
