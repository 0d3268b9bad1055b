"""One real profile, as it would be served: read from the source in one statement, printed as answers are."""

from typing import Any, LiteralString

import psycopg
from psycopg import sql

from kycache.model.profile import UNKNOWN_VERSION, Profile, Row
from kycache.model.render import Renderer
from kycache.model.scalars.times import INFINITY, MINUS_INFINITY
from kycache.model.values import Value, decoder
from kycache.model.view import Column, Kind, Table, View

SAMPLE_ROWS_MAX = 20
"""Rows of each child that a sample shows."""

_NUMBERS: dict[Kind, LiteralString] = {
    Kind.DATE: "({} - date '1970-01-01')::text",
    Kind.TIME: "(extract(epoch FROM {}) * 1000000)::bigint::text",
    Kind.TIMESTAMP: "(extract(epoch FROM {} - timestamp '1970-01-01') * 1000000)::bigint::text",
    Kind.TIMESTAMPTZ: "(extract(epoch FROM {}) * 1000000)::bigint::text",
}
"""How a time becomes the number that a row stores: days, or microseconds."""


def sample(database: "psycopg.Connection[Any]", view: View, schema: str) -> bytes | None:
    """The body of `GET /users/{userId}` for the user with the least key; None where there is none.

    At most `SAMPLE_ROWS_MAX` rows of each child.
    """
    row = database.execute(_query(view, schema)).fetchone()
    if row is None:
        return None
    profile = Profile.empty(len(view.children))
    root, *children = row
    profile.put(0, _values(view.root, root)[view.root.index_of(view.root.key)], _row(view.root, root))
    for number, (table, rows) in enumerate(zip(view.children, children, strict=True), 1):
        for texts in rows or ():
            profile.put(number, _values(table, texts)[table.index_of(table.key)], _row(table, texts))
    return Renderer(view).body(profile)


def _query(view: View, schema: str) -> sql.Composed:
    root = sql.Identifier(schema, view.root.name)
    key = sql.Identifier(view.root.key)
    parts: list[sql.Composable] = [_texts(view.root, "r")]
    for child in view.children:
        order = sql.SQL("c.{}").format(sql.Identifier(child.order or child.key))
        parts.append(
            sql.SQL(
                "(SELECT json_agg(row) FROM "
                "(SELECT {} AS row FROM {} c WHERE c.{} = r.{} ORDER BY {} {} LIMIT {}) s)"
            ).format(
                _texts(child, "c"),
                sql.Identifier(schema, child.name),
                sql.Identifier(child.owner),
                key,
                order,
                sql.SQL("DESC NULLS LAST" if child.descending else "ASC"),
                sql.Literal(SAMPLE_ROWS_MAX),
            )
        )
    first = sql.SQL("SELECT * FROM {} ORDER BY {} LIMIT 1").format(root, key)
    return sql.SQL("SELECT {} FROM ({}) r").format(sql.SQL(", ").join(parts), first)


def _texts(table: Table, alias: str) -> sql.Composed:
    columns = sql.SQL(", ").join(_text(column, alias) for column in table.columns)
    return sql.SQL("to_json(ARRAY[{}]::text[])").format(columns)


def _text(column: Column, alias: str) -> sql.Composable:
    """The stored value as a text: a time as its number, all else as PostgreSQL prints it."""
    name = sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(column.name))
    if column.type.kind not in _NUMBERS:
        return sql.SQL("{}::text").format(name)
    number = sql.SQL(_NUMBERS[column.type.kind]).format(name)
    if column.type.kind is Kind.TIME:
        return number
    return sql.SQL("CASE WHEN isfinite({}) THEN {} ELSE {}::text END").format(name, number, name)


def _row(table: Table, texts: list[str | None]) -> Row:
    return Row(UNKNOWN_VERSION, _values(table, texts))


def _values(table: Table, texts: list[str | None]) -> tuple[Value, ...]:
    return tuple(
        None if text is None else _stored(column, text) for column, text in zip(table.columns, texts, strict=True)
    )


def _stored(column: Column, text: str) -> Value:
    match column.type.kind:
        case Kind.BOOL:
            return text == "true"
        case Kind.INT | Kind.TIME:
            return int(text)
        case Kind.BYTEA:
            return bytes.fromhex(text.removeprefix("\\x"))
        case Kind.DATE | Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return {"infinity": INFINITY, "-infinity": MINUS_INFINITY}.get(text) or int(text)
        case Kind.NUMERIC | Kind.FLOAT4 | Kind.FLOAT8:
            return text
        case _:
            return decoder(column.type)(text)
