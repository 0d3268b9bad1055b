"""Tables of other people, from the record to the answer: real decoder, real store, real rendering."""

from pathlib import Path

import pytest

from kycache.model.change import Change
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
