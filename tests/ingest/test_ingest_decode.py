"""What a Kafka record means; every record means something, and no reason holds a value of it."""

import json
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kycache.ingest.decoding.decode import VALUE_BYTES_MAX, Record, RecordDecoder
from kycache.model.change import Beat, Change, Item, Misrouted, Poison, Scope, Skip, Snapshot, Truncate
from kycache.model.definition import default_view, parse_view
from kycache.model.fingerprint import scope_of
from kycache.model.partition import KeyForm
from kycache.model.scalars.times import TimePrecision
from kycache.model.values import Absent, uuid_bytes

VIEW = default_view()
USER = "00000000-0000-4000-8000-000000000001"
ACCOUNT = "20000000-0000-4000-8000-000000000001"
SECRET = "Lovelace-3141"
USERS_ROW = {"user_id": USER, "first_name": "Ada", "last_name": SECRET, "created_at": 5}
ACCOUNTS_ROW = {"account_id": ACCOUNT, "user_id": USER, "account_type": "SAVINGS", "balance": "1.0000"}


def envelope(op: str, table: str, after: Any = None, before: Any = None, **source: Any) -> dict[str, Any]:
    where = {"ts_ms": 7, "snapshot": "false", "sequence": '["100","120"]', "lsn": 120, "txId": 9, "table": table}
    return {"before": before, "after": after, "source": {**where, **source}, "op": op, "ts_ms": 8}


def decode(value: Any, key: Any = USER, form: KeyForm = KeyForm.PLAIN) -> Item:
    raw = value if isinstance(value, bytes) or value is None else json.dumps(value).encode()
    return RecordDecoder(VIEW, form).decode(Record(3, 0, key if key is None else str(key).encode(), raw))


@pytest.mark.parametrize("op", ["c", "u"])
def test_upsert(op: str) -> None:
    change = decode(envelope(op, "users", USERS_ROW))
    assert isinstance(change, Change)
    assert (change.table, change.user, change.key) == (0, uuid_bytes(USER), None)
    assert change.origin.snapshot is Snapshot.STREAMED
    assert (change.origin.commit, change.origin.lsn, change.origin.ts_ms) == (100, 120, 7)
    assert change.values is not None
    assert change.values[1:3] == ("Ada", SECRET)
    assert change.values[3] is Absent.MISSING


def test_wrapped_and_bare_values_mean_the_same() -> None:
    bare = envelope("c", "users", USERS_ROW)
    assert decode({"schema": {"type": "struct"}, "payload": bare}) == decode(bare)


@pytest.mark.parametrize(
    ("form", "key"),
    [(KeyForm.PLAIN, USER), (KeyForm.QUOTED, f'"{USER}"'), (KeyForm.JSON, f'{{"user_id":"{USER}"}}')],
)
def test_key_forms(form: KeyForm, key: str) -> None:
    assert isinstance(decode(envelope("c", "users", USERS_ROW), key, form), Change)
    for other in KeyForm:
        if other is not form:
            assert isinstance(decode(envelope("c", "users", USERS_ROW), key, other), Misrouted)


@pytest.mark.parametrize(
    "key",
    [None, "", "someone-else", f'{{"schema":{{}},"payload":{{"user_id":"{USER}"}}}}', USER.replace("1", "2")],
)
def test_a_key_that_is_not_the_user_halts(key: str | None) -> None:
    item = decode(envelope("u", "accounts", ACCOUNTS_ROW), key)
    assert isinstance(item, Misrouted)
    assert "accounts" in item.problem
    assert "[kafka] key" in item.remedy


def test_snapshot_kinds() -> None:
    def kind(**source: Any) -> Snapshot:
        item = decode(envelope("r", "users", USERS_ROW, **source))
        assert isinstance(item, Change)
        return item.origin.snapshot

    assert kind(snapshot="first", sequence='[null,"50"]') is Snapshot.WHOLE
    assert kind(snapshot="last", sequence='[null,"50"]') is Snapshot.WHOLE
    assert kind(snapshot="incremental", sequence='["40","50"]', lsn=None, txId=None) is Snapshot.PARTIAL
    assert kind(snapshot="true", sequence='["40","50"]') is Snapshot.PARTIAL  # a blocking snapshot


def test_delete_and_tombstone() -> None:
    change = decode(envelope("d", "accounts", before=ACCOUNTS_ROW))
    assert isinstance(change, Change)
    assert change.values is None
    assert change.key == uuid_bytes(ACCOUNT)
    assert decode(None) == Skip(3, "tombstone")
    assert decode(None, None) == Skip(3, "tombstone")


def test_delete_under_replica_identity_default_names_table_and_setting() -> None:
    fabricated = {"account_id": ACCOUNT, "user_id": "", "account_type": "", "balance": "0.0000"}
    item = decode(envelope("d", "accounts", before=fabricated), "")
    assert isinstance(item, Poison)
    assert item.scope is Scope.DIRECTORY
    assert "REPLICA IDENTITY FULL" in item.reason
    assert "accounts" in item.reason
    assert item.origin is not None  # the watermark goes on


def test_toast_placeholder() -> None:
    row = {**USERS_ROW, "email": "__debezium_unavailable_value"}
    under_default = decode(envelope("u", "users", row))
    assert isinstance(under_default, Change)
    assert under_default.values is not None
    assert under_default.values[3] is Absent.UNAVAILABLE
    assert not under_default.doubtful
    under_full = decode(envelope("u", "users", row, before=USERS_ROW))
    inserted = decode(envelope("c", "users", row))
    assert isinstance(under_full, Change)
    assert isinstance(inserted, Change)
    assert under_full.doubtful
    assert inserted.doubtful


def test_what_is_no_data_is_no_error() -> None:
    assert isinstance(decode({"op": "m", "source": {"table": "", "ts_ms": 1}, "message": {}}), Skip)
    assert isinstance(decode(envelope("c", "debezium_signal", {"id": "s1"}), "s1"), Skip)
    assert isinstance(decode(envelope("t", "accounts"), None), Truncate)
    assert isinstance(decode(envelope("t", "debezium_signal"), None), Skip)


def test_heartbeat_rows() -> None:
    row = {"user_id": "beat-0", "shard": 0, "beat_at": None, "truncated": "accounts,users,else"}
    told = decode(envelope("u", "kycache_heartbeat", row), "beat-0")
    assert isinstance(told, Beat)
    assert told.truncated == (2, 0)
    for op, sequence in (("r", '[null,"1"]'), ("c", '["1","2"]')):
        beat = decode(envelope(op, "kycache_heartbeat", row, sequence=sequence), "beat-0")
        assert isinstance(beat, Beat)
        assert beat.truncated == ()  # it acts on a streamed update only
    assert isinstance(decode(envelope("u", "kycache_heartbeat", row), "beat-1"), Misrouted)
    named = RecordDecoder(VIEW, heartbeat_table="beats_of_this_view")
    for table, kind in (("beats_of_this_view", Beat), ("kycache_heartbeat", Skip)):
        record = Record(3, 0, b"beat-0", json.dumps(envelope("u", table, row)).encode())
        assert isinstance(named.decode(record), kind)


def test_a_heartbeat_rows_fingerprint() -> None:
    ours = f"{scope_of(default_view())}-77"
    row = {"user_id": "beat-0", "shard": 0, "beat_at": None, "truncated": None, "fingerprint": ours}
    for op, sequence in (("r", '[null,"1"]'), ("u", '["1","2"]')):
        beat = decode(envelope(op, "kycache_heartbeat", row, sequence=sequence), "beat-0")
        assert beat.fingerprint == ours  # type: ignore[union-attr]
    others: list[dict[str, object]] = [
        {"fingerprint": None},
        {"fingerprint": "00000000:-77"},  # the connector is of another definition
        {"fingerprint": 77},
        {"truncated": "users"},  # not written by a beat
    ]
    for other in others:
        beat = decode(envelope("u", "kycache_heartbeat", row | other), "beat-0")
        assert beat.fingerprint == ""  # type: ignore[union-attr]
    without = {name: value for name, value in row.items() if name != "fingerprint"}
    assert decode(envelope("u", "kycache_heartbeat", without), "beat-0").fingerprint == ""  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"not json", "not a Debezium envelope"),
        (b"\xff\xfe", "not a Debezium envelope"),
        (b"[]", "not a Debezium envelope"),
        (b"{}", "no `op` or no `source`"),
        (b'{"after":' + b"[" * 100_000, "not a Debezium envelope"),
        (envelope("x", "users", USERS_ROW), "unknown operation"),
        (envelope("c", "users"), "no row image"),
        (envelope("c", "users", {**USERS_ROW, "user_id": 5}), "'user_id': not a uuid"),
        (envelope("c", "users", USERS_ROW, sequence="nonsense"), "source.sequence"),
        (envelope("c", "users", USERS_ROW, sequence=None, lsn=None), "gives a position"),
        (envelope("c", "users", USERS_ROW, sequence=f'["1","{2**64}"]'), "no number of Postgres"),
        (envelope("c", "users", USERS_ROW, sequence='["-1","5"]'), "no number of Postgres"),
        (envelope("c", "users", USERS_ROW, ts_ms=9 * 10**18), "no time of a clock"),
        (envelope("c", "users", USERS_ROW, ts_ms=2**70), "no"),
        (envelope("c", "users", {**USERS_ROW, "created_at": "yesterday"}), "'created_at': not a 64-bit integer"),
        (envelope("c", "accounts", {**ACCOUNTS_ROW, "account_id": "x"}), "primary key 'account_id': not a uuid"),
        (envelope("c", "accounts", {**ACCOUNTS_ROW, "balance": 1.5}), "decimal.handling.mode=string"),
        (envelope("c", "accounts", {**ACCOUNTS_ROW, "account_type": ["x"]}), "label of the enum"),
    ],
)
def test_poison_is_kept_whole_and_named(value: Any, reason: str) -> None:
    item = decode(value)
    assert isinstance(item, Poison)
    assert reason in item.reason
    assert item.scope is Scope.PROFILE
    assert item.user == uuid_bytes(USER)  # from the Kafka key where the value says nothing
    assert item.kafka_value == (value if isinstance(value, bytes) else json.dumps(value).encode())
    assert SECRET not in item.reason
    assert USER not in item.reason


def test_poison_without_a_user_concerns_the_shard() -> None:
    item = decode(b"not json", "not-a-uuid")
    assert isinstance(item, Poison)
    assert item.scope is Scope.SHARD
    assert item.user is None


def test_fabricated_images_of_other_key_types_put_the_directory_in_doubt() -> None:
    """DEBEZIUM 12: `""` and `0` are what REPLICA IDENTITY DEFAULT fabricates for texts and numbers."""
    text = (files("kycache.model") / "kyc.toml").read_text(encoding="utf-8")
    for kind, fabricated in (("text", ""), ("int", 0)):
        view = parse_view(
            text.replace('{ name = "userId", type = "uuid"', f'{{ name = "userId", type = "{kind}"'), "x"
        )
        value = envelope("d", "accounts", before={"account_id": ACCOUNT, "user_id": fabricated})
        item = RecordDecoder(view).decode(Record(0, 0, str(fabricated).encode(), json.dumps(value).encode()))
        assert isinstance(item, Poison)
        assert item.scope is Scope.DIRECTORY
    no_image = decode(envelope("d", "accounts"))
    assert isinstance(no_image, Poison)
    assert no_image.scope is Scope.DIRECTORY


@pytest.mark.parametrize(
    ("key", "named"), [("7", True), ("-7", True), ("07", False), ("1_0", False), (" 7", False)]
)
def test_a_number_is_a_user_only_as_postgres_prints_it(key: str, named: bool) -> None:
    """`1_0` is 10 to Python: the record would put another user in doubt."""
    text = (files("kycache.model") / "kyc.toml").read_text(encoding="utf-8")
    view = parse_view(text.replace('{ name = "userId", type = "uuid"', '{ name = "userId", type = "int"'), "x")
    item = RecordDecoder(view).decode(Record(0, 0, key.encode(), b"not json"))
    assert isinstance(item, Poison)
    assert item.scope is (Scope.PROFILE if named else Scope.SHARD)


def test_a_deep_or_long_key_is_no_user() -> None:
    for key in (b'{"user_id":' + b"[" * 5000, b'"' + b"x" * 5000 + b'"'):
        item = RecordDecoder(VIEW, KeyForm.JSON).decode(Record(0, 0, key, b"not json"))
        assert isinstance(item, Poison)
        assert item.scope is Scope.SHARD


def test_a_huge_value_is_not_read() -> None:
    item = decode(b'"' + b"x" * VALUE_BYTES_MAX + b'"')
    assert isinstance(item, Poison)
    assert "bytes, more than" in item.reason


def test_an_unknown_operation_moves_nothing() -> None:
    """It may be of a snapshot: its LSN promises nothing, and it does not end one."""
    poison = decode(envelope("x", "users", USERS_ROW, snapshot="true", sequence='[null,"120"]'))
    assert isinstance(poison, Poison)
    assert poison.origin is None


def test_unknown_columns_are_counted() -> None:
    item = decode(envelope("c", "users", {**USERS_ROW, "nickname": "A", "shoe_size": 38}))
    assert isinstance(item, Change)
    assert item.extra == 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(["users", "kyc_records", "accounts", "kycache_heartbeat"]),
    st.sampled_from(["c", "r", "u", "d", "t", "m", "z"]),
    st.data(),
)
def test_any_value_in_any_place_is_some_item(table: str, op: str, data: st.DataObject) -> None:
    columns = next((t for t in VIEW.tables if t.name == table), VIEW.root).columns
    row = {**USERS_ROW, **ACCOUNTS_ROW}
    row[data.draw(st.sampled_from([c.name for c in columns]))] = data.draw(JSON)
    source = {data.draw(st.sampled_from(["sequence", "lsn", "ts_ms", "snapshot", "txId"])): data.draw(JSON)}
    spoiled = source if data.draw(st.booleans()) else {}
    decode(envelope(op, table, row, data.draw(st.sampled_from([None, row])), **spoiled))


@given(st.binary(max_size=40), st.none() | st.binary(max_size=10))
def test_any_bytes_are_some_item(value: bytes, key: bytes | None) -> None:
    for form in KeyForm:
        RecordDecoder(VIEW, form).decode(Record(0, 0, key, value))


def test_an_update_of_a_childs_own_key_names_both() -> None:
    """To Debezium a key is the user id: no delete tells of the former one (seen on 3.6.3)."""
    before = {**ACCOUNTS_ROW, "account_id": ACCOUNT.replace("1", "7")}
    change = decode(envelope("u", "accounts", ACCOUNTS_ROW, before=before))
    assert isinstance(change, Change)
    assert (change.key, change.former) == (uuid_bytes(ACCOUNT), uuid_bytes(before["account_id"]))
    same = decode(envelope("u", "accounts", ACCOUNTS_ROW, before=ACCOUNTS_ROW))
    assert isinstance(same, Change)
    assert same.former is None
    # One that cannot be understood is about two rows, so no one row heals it.
    poison = decode(envelope("u", "accounts", {**ACCOUNTS_ROW, "balance": 1}, before=before))
    assert isinstance(poison, Poison)
    assert poison.scope is Scope.PROFILE
    assert poison.key is None


@pytest.mark.parametrize("made_up", [{"user_id": ""}, {"user_id": None}, {}, {"user_id": 0}])
def test_what_is_made_up_under_replica_identity_default_says_nothing(made_up: dict[str, Any]) -> None:
    change = decode(envelope("u", "accounts", ACCOUNTS_ROW, before={"account_id": ACCOUNT, **made_up}))
    assert isinstance(change, Change)
    assert change.former is None


def test_an_update_that_gives_a_row_to_another_user_halts() -> None:
    """Where the connector's keys are not made of message.key.columns, the former owner is told nothing."""
    before = {**ACCOUNTS_ROW, "user_id": USER.replace("1", "2")}
    item = decode(envelope("u", "accounts", ACCOUNTS_ROW, before=before))
    assert isinstance(item, Misrouted)
    assert "message.key.columns" in item.remedy
    assert before["user_id"] not in item.problem


def test_what_is_secret_is_not_kept_in_quarantine_either() -> None:
    """And a replay is the same without it."""
    toml = files("kycache.model").joinpath("kyc.toml").read_text()
    secret = '"lastName", type = "text", privacy = "secret"'
    view = parse_view(
        toml.replace('"lastName", type = "text", privacy = "pii"', secret).replace(
            '"firstName", "lastName", ', '"firstName", '
        ),
        "t.toml",
    )
    broken = {**USERS_ROW, "created_at": "x"}
    for value in (
        envelope("u", "users", broken, before=USERS_ROW),
        {"schema": {}, "payload": envelope("u", "users", broken, before=USERS_ROW)},
        {"after": {**USERS_ROW, "big": 2**70, "real": 1.5}, "before": None, "op": "u"},
    ):
        item = RecordDecoder(view).decode(Record(3, 0, USER.encode(), json.dumps(value).encode()))
        assert isinstance(item, Poison)
        assert item.kafka_value is not None
        assert SECRET.encode() not in item.kafka_value
        assert b"Ada" in item.kafka_value
        again = RecordDecoder(view).decode(Record(3, 0, USER.encode(), item.kafka_value))
        assert again == item
    unchanged = json.dumps(envelope("u", "users", broken, before=USERS_ROW)).encode()
    kept = RecordDecoder(VIEW).decode(Record(3, 0, USER.encode(), unchanged))
    assert isinstance(kept, Poison)
    assert kept.kafka_value == unchanged


@pytest.mark.parametrize(
    ("times", "probe", "fits"),
    [
        (TimePrecision.MICROSECONDS, 946_684_800_000_000, True),
        (TimePrecision.MICROSECONDS, 946_684_800_000, False),
        (TimePrecision.MICROSECONDS, 946_684_800_000_000_000, False),  # nanoseconds
        (TimePrecision.MICROSECONDS, "2000-01-01T00:00:00.000Z", False),  # isostring
        (TimePrecision.MICROSECONDS, None, True),
        (TimePrecision.ADAPTIVE, 946_684_800_000, True),
        (TimePrecision.ADAPTIVE, 946_684_800_000_000, False),
    ],
)
def test_a_beat_shows_the_unit_of_the_log(times: TimePrecision, probe: object, fits: bool) -> None:
    """A log in another mode than it is read in is read no further; a heartbeat table of before shows nothing."""
    row = {"user_id": "beat-0", "shard": 0, "beat_at": None, "truncated": None, "time_probe": probe}
    for image in (row, {k: v for k, v in row.items() if k != "time_probe"}):
        value = json.dumps(envelope("u", "kycache_heartbeat", image)).encode()
        item = RecordDecoder(VIEW, times=times).decode(Record(3, 0, b"beat-0", value))
        shown = image.get("time_probe") is not None
        assert isinstance(item, Beat if fits or not shown else Misrouted)
        if isinstance(item, Misrouted):
            assert f"time.precision.mode={times}" in item.problem
