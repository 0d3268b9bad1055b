"""Other people's columns through a real PostgreSQL and a real Debezium: each prints as PostgreSQL prints it.

By snapshot and by stream, from the record to the 200 body. The tables are the packaged ones with more columns, and
with an owner column of another type than the users' key.
"""

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psycopg
import pytest
from psycopg import sql

from kycache.demo.servers.layout import TOPIC, Layout, Ports
from kycache.demo.servers.ports import free_ports
from kycache.demo.servers.postgres import new_password
from kycache.demo.servers.stack import Kind, open_stack
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.model.change import Change, Item, Poison, Scope
from kycache.model.definition import default_view, parse_view
from kycache.model.scalars.json_text import compact
from kycache.model.values import uuid_bytes
from kycache.model.view import View
from support.pipeline.stack import PARTITIONS, Pipeline, records, wait_streaming
from support.shards import ShardUnderTest

WAIT_S = 60.0


class Tried(NamedTuple):
    """A column: its type at the source, what the view declares as TOML, and values that PostgreSQL reads."""

    type: str
    declared: str
    values: tuple[str, ...]


DOCUMENTS = ('{ "n" : 1e400 , "a":"\\ud800", "a" : "x  y" }', "[1,\n 2]", "[" * 1500 + "]" * 1500)
ODD_NAMES = (
    'net "gross"',
    "back\\slash",
    "tab\there",
    "new\nline",
    "ünï\U0001f600",
    "dot.ted",
    "x" * 63,
    "\u2028",
)
COLUMNS = {
    "negative scale": Tried("numeric(5,-2)", 'type = "numeric(5,-2)"', ("12345", "-99", "NaN", "0")),
    "small scale": Tried("numeric(2,4)", 'type = "numeric(2,4)"', ("0.0012", "-0.0099", "NaN")),
    "any scale": Tried("numeric", 'type = "numeric"', ("NaN", "Infinity", "-Infinity", "1.50", "1e20")),
    "padded": Tried("char(5)", 'type = "text"', ("ab", "", "é")),
    "one": Tried('"char"', 'type = "text"', ("x", "")),
    "search": Tried("tsvector", 'type = "text"', ("fat cat:2A",)),
    "host": Tried("inet", 'type = "text"', ("10.0.0.1", "10.0.0.1/24", "::1")),
    "net": Tried("cidr", 'type = "text"', ("10.0.0.0/24",)),
    "card": Tried("macaddr", 'type = "text"', ("08-00-2b-01-02-03",)),
    "card8": Tried("macaddr8", 'type = "text"', ("08-00-2b-01-02-03-04-05",)),
    "document": Tried("json", 'type = "json"', DOCUMENTS),
    "binary document": Tried("jsonb", 'type = "json"', ('{"b":1.50,"a":[1, 2]}', "1" * 50)),
    "document as text": Tried("jsonb", 'type = "text"', ('{"b":1.50}',)),
    "labels": Tried("odd", 'type = "enum", labels = ["a,b", "", "c d"]', ("a,b", "", "c d")),
    **{name: Tried("text", 'type = "text"', ("1",)) for name in ODD_NAMES},
}
UNDECLARED = 'not "declared"'
ROWS = max(len(tried.values) for tried in COLUMNS.values())


def user(number: int) -> str:
    return f"a0000000-0000-4000-8000-{number:012x}"


def view_with_columns() -> View:
    text = (files("kycache.model") / "kyc.toml").read_text(encoding="utf-8")
    lines = "".join(
        f'{json.dumps(name, ensure_ascii=False)} = {{ name = "n{number}", {tried.declared} }}\n'
        for number, (name, tried) in enumerate(COLUMNS.items())
    )
    before, members, after = text.partition("members = [")
    _, _, after = after.partition("]\n")
    assert members
    return parse_view(before + after.replace("[root.columns]\n", f"[root.columns]\n{lines}"), "more.toml")


def insert(db: "psycopg.Connection[Any]", first: int) -> None:
    """A user for each of the values, and a child of each, one in capitals."""
    names = sql.SQL(", ").join(map(sql.Identifier, ("user_id", "first_name", "last_name", UNDECLARED, *COLUMNS)))
    for number in range(ROWS):
        values = [t.values[number] if number < len(t.values) else None for t in COLUMNS.values()]
        row = [user(first + number), "T", "T", "u", *values]
        marks = sql.SQL(", ").join([sql.Placeholder()] * len(row))
        db.execute(sql.SQL("INSERT INTO users ({}) VALUES ({})").format(names, marks), row)
    for number, owner in ((first, user(first)), (first + 1, user(first).upper())):
        db.execute(
            "INSERT INTO accounts (account_id, user_id, account_type, account_no) VALUES (%s, %s, 'WALLET', 'N')",
            [user(number), owner],
        )


def make(db: "psycopg.Connection[Any]") -> None:
    """The tables, and rows for the snapshot."""
    db.execute("CREATE TYPE odd AS ENUM ('a,b', '', 'c d')")
    for name, kind in {UNDECLARED: "text", **{name: tried.type for name, tried in COLUMNS.items()}}.items():
        column = sql.Identifier(name).as_string(db)
        db.execute(f"ALTER TABLE users ADD COLUMN {column} {kind}".encode())
    db.execute("ALTER TABLE accounts DROP CONSTRAINT accounts_user_id_fkey, ALTER COLUMN user_id TYPE varchar")
    insert(db, 100)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    directory = tmp_path_factory.mktemp("values")
    directory.chmod(0o711)  # run by root, PostgreSQL has another account
    layout = Layout(directory, Ports(*free_ports(4)), new_password(), PARTITIONS)
    with open_stack(Kind.EMBEDDED, layout, default_view()) as made:
        made.start_servers()
        made.create_tables(make)
        made.start_debezium()
        pipeline = Pipeline(made, made.dsn, layout.bootstrap, TOPIC, PARTITIONS, made.connect_url)
        wait_streaming(pipeline)
        yield pipeline


def test_every_column_prints_as_postgres_prints_it(stack: Pipeline, tmp_path: Path) -> None:
    view = view_with_columns()
    with psycopg.connect(stack.dsn, autocommit=True) as db:
        insert(db, 200)
        row = db.execute(
            "SELECT count(*) FROM users, (SELECT count(*) AS n FROM accounts) a GROUP BY a.n"
        ).fetchone()
        assert row == (2 * ROWS,)
        shards = [ShardUnderTest(tmp_path / str(n), view, shard=n, shards=PARTITIONS) for n in range(PARTITIONS)]
        items = read(stack, view, shards, wanted=2 * ROWS + 4)
        assert [item.scope for item in items if isinstance(item, Poison)] == [Scope.ROW] * 2
        assert all(shard.state.doubts == shard.state.suspects == 0 for shard in shards)
        for first, number in ((f, n) for f in (100, 200) for n in range(ROWS)):
            key = user(first + number)
            body = next(filter(None, (body_of(shard, key) for shard in shards)))
            for column, (name, tried) in enumerate(COLUMNS.items()):
                assert b'"n%d":%b' % (column, printed(db, key, name, tried)) in body, (name, key)
            # By its bytes: nesting of 1,500 is too deep for Python's own reader.
            assert body.count(b'"accountId":') == (number == 0)
            assert body.count(b'"accountId":"%b"' % key.encode()) == (number == 0)
        for shard in shards:
            shard.close()


def read(stack: Pipeline, view: View, shards: list[ShardUnderTest], wanted: int) -> list[Item]:
    """The rows of users and accounts, applied until as many have come."""
    decoder = RecordDecoder(view)
    found: list[Item] = []
    consumer = stack.consumer()
    try:
        for record in records(consumer, WAIT_S):
            item = decoder.decode(Record(record.offset, record.timestamp, record.key, record.value))
            shards[record.partition].apply([item])
            found += [item] if isinstance(item, Change | Poison) else []
            if len(found) == wanted:
                return found
    finally:
        consumer.close()
    raise AssertionError(f"{len(found)} of {wanted} rows came")


def body_of(shard: ShardUnderTest, key: str) -> bytes | None:
    with shard.snapshot() as snapshot:
        profile = snapshot.profile(uuid_bytes(key))
        return shard.renderer.body(profile) if profile is not None and profile.exists else None


def printed(db: "psycopg.Connection[Any]", key: str, name: str, tried: Tried) -> bytes:
    """What an answer must hold: the text that the type's own output function makes."""
    query = sql.SQL("SELECT {0} IS NULL, format('%s', {0}) FROM users WHERE user_id = {1}")
    row = db.execute(query.format(sql.Identifier(name), key)).fetchone()
    assert row is not None
    null, text = row
    if null:
        return b"null"
    if tried.declared == 'type = "json"':
        document = compact(text)
        assert document is not None
        return document.encode()
    return msgspec.json.encode(text)
