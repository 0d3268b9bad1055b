"""Which texts are JSON documents, and what is left of one without its blanks; PostgreSQL is asked too."""

import json

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kycache.demo.servers.children import stopping
from kycache.model.scalars.json_text import compact, compact_by_tokens
from support.pipeline.cluster import Cluster

DOCUMENTS = {
    ' { "n" : 1e400 } ': '{"n":1e400}',
    '"\\ud800"': '"\\ud800"',
    '[ "\\udc00" , "\\ud800\\u0041" , "\\u0000" ]': '["\\udc00","\\ud800\\u0041","\\u0000"]',
    '{"a":1,\n"a" : "x  y\\n"}': '{"a":1,"a":"x  y\\n"}',
    "1" * 5000: "1" * 5000,
    "-0.0E-0": "-0.0E-0",
    "[" * 50_000 + "]" * 50_000: "[" * 50_000 + "]" * 50_000,
    '{"a": ' * 20_000 + "null" + " }" * 20_000: '{"a":' * 20_000 + "null" + "}" * 20_000,
    "[ ]": "[]",
    "{ }": "{}",
    '[{"a":[]},{}]': '[{"a":[]},{}]',
    "null": "null",
    ' "" ': '""',
    '"\x7f\u2028\U0001f600"': '"\x7f\u2028\U0001f600"',
}

OTHERS = [
    *("", " ", "{", "}", "[1,]", '{"a":1,}', "[,1]", "[1 2]", '{"a" 1}', '{"a"}', "{1:2}", "{null:1}", ","),
    *("nul", "NaN", "Infinity", "01", "1.", ".5", "+1", "1e", "--1", "-", "0x1", "1_0", "١", "True", "[:]"),
    *(
        '"\x01"',
        '"\n"',
        '"\\x"',
        '"\\u12"',
        '"',
        "'a'",
        '"a" "b"',
        "1 2",
        "[1}",
        '{"a":1]',
        "]",
        "[]]",
        ":",
        "[:]",
    ),
    *("\u00a01", "\x0c1", "1\x0b", "\ufeff1", "/**/1", '{"a":1:2}', '{"a","b"}', '["a":1]', "[" * 50_000, "{}{}"),
]


@pytest.mark.parametrize("text", DOCUMENTS, ids=lambda text: ascii(text[:20]))
def test_a_document_is_kept_without_its_blanks(text: str) -> None:
    assert compact(text) == DOCUMENTS[text]
    assert compact_by_tokens(text) == DOCUMENTS[text]


@pytest.mark.parametrize("text", OTHERS, ids=lambda text: ascii(text[:20]))
def test_anything_else_is_none(text: str) -> None:
    assert compact(text) is None
    assert compact_by_tokens(text) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(VALUES, st.booleans())
def test_any_value(value: object, escaped: bool) -> None:
    text = json.dumps(value, indent=3, ensure_ascii=escaped)
    wanted = json.dumps(value, separators=(",", ":"), ensure_ascii=escaped)
    assert compact(text) == wanted
    assert compact_by_tokens(text) == wanted


@given(st.text(alphabet='{}[]:,"\\u0a1e-+. \n', max_size=12) | st.text(max_size=8))
def test_any_text_is_judged_alike_by_both(text: str) -> None:
    """And never more leniently than Python's own reader, which takes NaN beside."""
    assert compact(text) == compact_by_tokens(text)
    if compact_by_tokens(text) is not None:
        json.loads(text)


def test_postgres_takes_the_same(tmp_path_factory: pytest.TempPathFactory) -> None:
    """All that its `json` takes is served; it knows no text that we refuse, but for nesting beyond its stack."""
    cluster = Cluster(tmp_path_factory.mktemp("json"))
    with stopping(cluster.server):
        cluster.start()
        with psycopg.connect(cluster.settings.dsn, autocommit=True) as db:
            for text in (*DOCUMENTS, *OTHERS, "[" * 2000 + "]" * 2000):
                if len(text) <= 5000:
                    row = db.execute("SELECT pg_input_is_valid(%s, 'json')", [text]).fetchone()
                    assert row == (compact(text) is not None,), text[:40]
