"""Tables of other people, from the record to the answer: real decoder, real store, real rendering."""

import json
from pathlib import Path

import pytest

from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Beat, Change, Misrouted, Poison, Scope, Skip
from kycache.model.definition import parse_view
from kycache.model.partition import KeyForm
from support.tables.foreign import Foreign, definition_of, envelope, foreign, view_of

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


UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
OWNER_TEXT = 'uid = { name = "uid", type = "text" }'
NOTE = 'note = { name = "note", type = "text" }'


def children(stand: Foreign, key: object) -> list[int]:
    """The keys of a user's children."""
    body = stand.body(key)
    assert body is not None
    return [child["cid"] for child in json.loads(body)["cs"]]


def nobody_is_in_doubt(stand: Foreign) -> bool:
    state = stand.shard.state
    return state.doubts == 0 and state.suspects == 0 and not stand.shard.doubts


@pytest.mark.parametrize("column", [OWNER_TEXT, NOTE])
def test_a_text_that_holds_uuids_names_the_user_who_prints_like_it(tmp_path: Path, column: str) -> None:
    """The key in capitals is another Kafka key, in another partition: it can never join, and halts nobody."""
    with foreign(tmp_path, view_of("uuid", child=column)) as stand:
        stand.root(UUID)
        assert isinstance(stand.child(1, UUID, note="a"), Change)
        for cid, owner in enumerate((UUID.upper(), "guest", UUID.replace("-", ""), ""), 2):
            item = stand.child(cid, owner, note="b")
            assert isinstance(item, Poison)
            assert (item.scope, item.user) == (Scope.ROW, None)
            assert "'uid'" in item.reason
            assert owner not in item.reason or not owner
        assert nobody_is_in_doubt(stand)
        assert stand.shard.state.quarantined == 4
        assert children(stand, UUID) == [1]
        # It is written as the users' key is: then it is that user's.
        stand.send("d", "c", UUID.upper(), before={"cid": 2, "uid": UUID.upper(), "note": "b"})
        assert isinstance(stand.child(2, UUID, note="b"), Change)
        assert nobody_is_in_doubt(stand)
        assert children(stand, UUID) == [1, 2]


@pytest.mark.parametrize("column", ['uid = { name = "uid", type = "int" }', NOTE])
@pytest.mark.parametrize("owner", ["text", "int"])
def test_a_text_that_holds_numbers_names_the_user_who_prints_like_it(
    tmp_path: Path, column: str, owner: str
) -> None:
    with foreign(tmp_path, view_of("int", child=column)) as stand:
        stand.root(7)
        stand.root(-8)
        assert isinstance(stand.child(1, "7" if owner == "text" else 7, note="a"), Change)
        assert isinstance(stand.child(2, "-8" if owner == "text" else -8, note="a"), Change)
        for cid, odd in enumerate(("07", "7.0", " 7", "+7", "guest", "", "9" * 30), 3):
            item = stand.child(cid, odd, note="b")
            assert isinstance(item, Poison)
            assert item.scope is Scope.ROW
        assert nobody_is_in_doubt(stand)
        assert (children(stand, 7), children(stand, -8)) == ([1], [2])


@pytest.mark.parametrize("sent", [7, "7"])
def test_a_number_names_the_user_whose_text_it_prints(tmp_path: Path, sent: object) -> None:
    with foreign(tmp_path, view_of("text", child=OWNER_TEXT)) as stand:
        stand.root("7")
        assert isinstance(stand.child(1, sent), Change)
        assert children(stand, "7") == [1]


def test_numbers_and_texts_are_two_keys_in_json(tmp_path: Path) -> None:
    """`"7"` and `7` are in two partitions, so a shard that took one for the other would see half of them."""
    with foreign(tmp_path, view_of("int", child=NOTE), KeyForm.JSON) as stand:
        stand.send("c", "u", 7, {"id": 7, "at": 5}, kafka_key='{"id":7}')
        assert isinstance(stand.send("c", "c", 7, {"cid": 1, "uid": 7}, kafka_key='{"id":7}'), Change)
        item = stand.send("c", "c", 7, {"cid": 2, "uid": "7"}, kafka_key='{"id":"7"}')
        assert isinstance(item, Poison)
        assert item.scope is Scope.ROW
        assert children(stand, 7) == [1]


def test_a_key_that_is_neither_is_still_a_wrong_connector(tmp_path: Path) -> None:
    view = view_of("uuid", child=NOTE)
    with foreign(tmp_path, view) as stand:
        value = envelope("c", "c", {"cid": 1, "uid": UUID.upper()})
        for key in (UUID.replace("1", "2").encode(), b"", b"c:1", None):
            assert isinstance(stand.decoder.decode(Record(1, 0, key, value)), Misrouted)


def test_a_child_whose_key_is_its_owner(tmp_path: Path) -> None:
    text = definition_of("int", child=NOTE)
    view = parse_view(text.replace('key = "cid"', 'key = "uid"').replace("cid", "uid"), "one.toml")
    with foreign(tmp_path, view) as stand:
        stand.root(7)
        assert isinstance(stand.send("c", "c", 7, {"uid": "7", "note": "a"}), Change)
        assert json.loads(stand.body(7) or b"")["cs"] == [{"uid": 7, "note": "a"}]
        stand.send("d", "c", 7, before={"uid": "7", "note": "a"})
        assert json.loads(stand.body(7) or b"")["cs"] == []


def test_an_unreadable_value_under_a_key_of_nobody(tmp_path: Path) -> None:
    """The key in capitals is in another partition than the user's: it must not mark a profile here."""
    with foreign(tmp_path, view_of("uuid")) as stand:
        for key, scope in ((UUID, Scope.PROFILE), (UUID.upper(), Scope.SHARD)):
            item = stand.decoder.decode(Record(1, 0, key.encode(), b"{"))
            assert isinstance(item, Poison)
            assert item.scope is scope


def test_a_root_of_another_type_puts_the_shard_in_doubt(tmp_path: Path) -> None:
    """Then users are missing, and the definition does not fit the table."""
    with foreign(tmp_path, view_of("uuid")) as stand:
        for key in (UUID.upper(), 5, "guest"):
            item = stand.root(key)
            assert isinstance(item, Poison)
            assert item.scope is Scope.SHARD
        assert stand.shard.state.doubts == 3


def test_a_delete_whose_user_cannot_be_told_puts_all_in_doubt(tmp_path: Path) -> None:
    """Its key says something else, or nothing: an image that REPLICA IDENTITY DEFAULT made up looks so too."""
    with foreign(tmp_path, view_of("uuid", child=NOTE)) as stand:
        for owner, key in ((None, UUID), ("", ""), (0, "0"), ("guest", UUID), (5, UUID)):
            item = stand.send("d", "c", key, before={"cid": 1, "uid": owner})
            assert isinstance(item, Poison)
            assert item.scope is Scope.DIRECTORY
        assert isinstance(stand.send("d", "c", "guest", before={"cid": 1, "uid": "guest"}), Skip)


def test_an_empty_text_id_puts_only_itself_in_doubt(tmp_path: Path) -> None:
    with foreign(tmp_path, view_of("text", child=OWNER_TEXT)) as stand:
        stand.root("ada")
        for item in (stand.root(""), stand.child(1, ""), stand.root("x" * 401), stand.child(2, "x" * 401)):
            assert isinstance(item, Poison)
            assert item.scope is Scope.ROW
        stand.send("d", "u", "", before={"id": "", "at": 5})
        assert nobody_is_in_doubt(stand)
        assert stand.rows() == [b'{"id":"ada"}']
        # Under REPLICA IDENTITY DEFAULT this is what a delete of anybody's child looks like.
        item = stand.send("d", "c", "", before={"cid": 1, "uid": ""})
        assert isinstance(item, Poison)
        assert item.scope is Scope.DIRECTORY


def test_a_table_with_a_comma_in_its_name_is_truncated_like_others() -> None:
    """The trigger joins the names by commas."""
    view = parse_view(definition_of("int", child=NOTE).replace('table = "c"', 'table = "a,c"'), "comma.toml")
    for truncated, tables in (("a,c", (1,)), ("u,a,c", (0, 1)), ("a", ()), ("c,a", ()), ("a,cu", ()), (None, ())):
        value = envelope("u", "kycache_heartbeat", {"user_id": "beat-0", "truncated": truncated})
        beat = RecordDecoder(view).decode(Record(1, 0, b"beat-0", value))
        assert isinstance(beat, Beat)
        assert beat.truncated == tables
