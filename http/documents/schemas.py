"""JSON schemas of what a view answers, made from its definition. Pure."""

from typing import Any

from kycache.model.view import Column, ColumnType, Kind, Table, View

Schema = dict[str, Any]

_FLOAT = "The shortest decimal that reads back as the same number, or NaN or ±Infinity."

_INT_AS_TEXT: Schema = {"type": "string", "pattern": "^(0|-?[1-9][0-9]{0,18})$"}

_KINDS: dict[Kind, Schema] = {
    Kind.UUID: {"type": "string", "format": "uuid"},
    Kind.TEXT: {"type": "string"},
    Kind.BOOL: {"type": "boolean"},
    Kind.INT: {"type": "integer", "format": "int64"},
    Kind.DATE: {"type": "string", "description": "YYYY-MM-DD, ` BC` behind it where it applies, or ±infinity."},
    Kind.TIMESTAMP: {"type": "string", "description": "Date, `T`, time; no zone; or ±infinity."},
    Kind.TIMESTAMPTZ: {"type": "string", "description": "Date, `T`, time in UTC, `Z`; or ±infinity."},
    Kind.NUMERIC: {"type": "string", "description": "A decimal number with its scale, or NaN or ±Infinity."},
    Kind.TIME: {"type": "string", "description": "Time of day, 00:00:00 to 24:00:00; no zone."},
    Kind.FLOAT4: {"type": "string", "description": _FLOAT},
    Kind.FLOAT8: {"type": "string", "description": _FLOAT},
    Kind.BYTEA: {
        "type": "string",
        "pattern": r"^\\x([0-9a-f]{2})*$",
        "description": "Bytes, two hex digits each.",
    },
    Kind.JSON: {"description": "The document itself."},
}


def value_schema(of: ColumnType, *, nullable: bool) -> Schema:
    """One column's values."""
    if of.kind is Kind.ENUM:
        labels: list[str | None] = [*of.labels]
        return {"enum": [*labels, None]} if nullable else {"enum": labels}
    made = dict(_INT_AS_TEXT if of.as_text else _KINDS[of.kind])
    if nullable and "type" in made:
        made["type"] = [made["type"], "null"]
    return made


def profile_schema(view: View) -> Schema:
    """The body of a detail."""
    members = _members(view.root)
    if view.status is not None:
        members[view.status.output] = {"enum": list(view.status.labels)}
    for child in view.children:
        members[child.output] = {"type": "array", "items": _object(_members(child))}
    return _object({name: members[name] for name in view.members})


def row_schema(view: View) -> Schema:
    """An entry of the list."""
    members = _members(view.root)
    if view.status is not None:
        members[view.status.output] = {"enum": list(view.status.labels)}
    return _object({name: members[name] for name in view.list_fields})


def key_column(view: View) -> Column:
    """The root's key."""
    return view.root.columns[view.root.index_of(view.root.key)]


def id_name(view: View) -> str:
    """The user id's name in answers and paths."""
    return ".".join(key_column(view).output)


def _members(table: Table) -> dict[str, Schema]:
    made: dict[str, Schema] = {}
    for column in table.columns:
        inner = made
        for step in column.output[:-1]:
            inner = inner.setdefault(step, _object({}))["properties"]
        inner[column.output[-1]] = value_schema(column.type, nullable=column.name != table.key)
    return {name: _closed(schema) for name, schema in made.items()}


def _closed(schema: Schema) -> Schema:
    """A nested object with its members, filled by now, required."""
    if schema.get("type") != "object":
        return schema
    return _object({name: _closed(member) for name, member in schema["properties"].items()})


def _object(members: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": members, "required": list(members), "additionalProperties": False}
