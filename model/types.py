"""The names of types in a view definition: PostgreSQL's own, in any case and spacing, and `enum(…)`. Pure.

Several names mean one type, and the definition's hash covers what is meant: `bigint` and `int` are the same.
"""

import re

from .view import ColumnType, Kind

ENUM_LABELS_MAX = 256

NUMERIC_SCALE_MAX = 1000
"""PostgreSQL's own, either side of the point."""

TIME_DIGITS_MAX = 6
"""PostgreSQL keeps microseconds."""

FLOAT4_BITS_MAX = 24
FLOAT8_BITS_MAX = 53
"""`float(p)` counts the bits of the mantissa; up to 24 it means `real`."""

_NAMES: dict[str, Kind] = {
    "uuid": Kind.UUID,
    **dict.fromkeys(("text", "varchar", "character varying", "char", "character", "bpchar", "citext"), Kind.TEXT),
    **dict.fromkeys(("inet", "cidr", "macaddr", "macaddr8"), Kind.TEXT),
    **dict.fromkeys(("bool", "boolean"), Kind.BOOL),
    **dict.fromkeys(("int", "integer", "smallint", "bigint", "int2", "int4", "int8"), Kind.INT),
    **dict.fromkeys(("serial", "smallserial", "bigserial", "serial2", "serial4", "serial8"), Kind.INT),
    "date": Kind.DATE,
    **dict.fromkeys(("time", "time without time zone"), Kind.TIME),
    **dict.fromkeys(("timestamp", "timestamp without time zone"), Kind.TIMESTAMP),
    **dict.fromkeys(("timestamptz", "timestamp with time zone"), Kind.TIMESTAMPTZ),
    **dict.fromkeys(("numeric", "decimal", "dec"), Kind.NUMERIC),
    **dict.fromkeys(("real", "float4"), Kind.FLOAT4),
    **dict.fromkeys(("float", "float8", "double precision"), Kind.FLOAT8),
    "bytea": Kind.BYTEA,
    **dict.fromkeys(("json", "jsonb"), Kind.JSON),
}

_SIZED = frozenset({"varchar", "character varying", "char", "character", "bpchar"})
"""Their length is PostgreSQL's to keep: values are served as they come, `char(n)` padded."""

_NOT_TAKEN = {
    "interval": "an interval comes as a count of microseconds, in which a month has 30.4 days, unless the whole "
    "connector is set otherwise",
    **dict.fromkeys(
        ("timetz", "time with time zone"),
        "a time with time zone comes moved to UTC, without the zone that it had",
    ),
    "money": "money prints by the session's lc_monetary, and comes without its signs",
}

_ARRAY = "an array is not taken: one of arrays comes as nulls, and `numeric[]` loses NaN"

_AS_TEXT = " as text"
_ENUM = re.compile(r"enum(?:\(\s*(.*?)\s*\))?", re.DOTALL)
_PARAMETERS = re.compile(r"\d{1,8}( ?, ?-?\d{1,4})?", re.ASCII)
_NAMED = re.compile(r"([a-z]\w*(?: [a-z]\w*)*) ?(?:\( ?([^()]*?) ?\))?((?: [a-z]+)*)")


class TypeRefused(ValueError):
    """No such type, or one that is not taken; the text says which and why."""


def parse_type(text: str, labels: list[str] | None = None) -> ColumnType:
    """The type that a definition names.

    Args:
        labels: an enum's, where they stand in a list of their own.

    Raises:
        TypeRefused: with the reason.
    """
    if enum := _ENUM.fullmatch(text):
        return _enum(text, enum[1], labels)
    if labels is not None:
        raise TypeRefused(f"type {text!r}: only an enum has labels")
    plain = " ".join(text.lower().split())
    as_text = plain.endswith(_AS_TEXT)
    plain = plain.removesuffix(_AS_TEXT)
    if "[" in plain or re.search(r"\barray\b", plain) or plain.startswith("_"):
        raise TypeRefused(f"type {text!r}: {_ARRAY}")
    match = _NAMED.fullmatch(plain)
    name = match[1] + match[3] if match else ""
    if reason := _NOT_TAKEN.get(name) or (_NOT_TAKEN["interval"] if name.startswith("interval ") else ""):
        raise TypeRefused(f"type {text!r} is not taken: {reason}")
    if match is None or name not in _NAMES:
        raise TypeRefused(f"type {text!r} is not one of {', '.join(Kind)}, nor another name of PostgreSQL for one")
    kind = _NAMES[name]
    if as_text and (kind is not Kind.INT or match[2] is not None):
        raise TypeRefused(f"type {text!r}: only a whole number can be declared `as text`; others are strings")
    if match[2] is None:
        return ColumnType(kind, as_text=as_text)
    inside = _PARAMETERS.fullmatch(match[2])
    made = _with_parameters(name, kind, [int(n) for n in match[2].split(",")]) if inside else None
    if made is None:
        raise TypeRefused(f"type {text!r} takes no such parameter")
    return made


def _enum(text: str, inside: str | None, given: list[str] | None) -> ColumnType:
    """Labels stand in the type's parentheses, by commas, or in a list, which takes any label."""
    if inside is not None and given is not None:
        raise TypeRefused(f"{text!r}: labels stand either in its parentheses or in `labels`")
    if inside is not None and given is None:
        given = [label.strip() for label in inside.split(",")]
        if "" in given:
            raise TypeRefused(f'{text!r}: an empty label stands in `type = "enum", labels = [""]`')
    labels = tuple(given or ())
    if not 0 < len(labels) <= ENUM_LABELS_MAX or len(set(labels)) < len(labels):
        raise TypeRefused(f"{text!r}: an enum names its labels, each once, at most {ENUM_LABELS_MAX}")
    return ColumnType(Kind.ENUM, labels)


def _with_parameters(name: str, kind: Kind, numbers: list[int]) -> ColumnType | None:
    match kind, numbers:
        case Kind.TEXT, [length] if name in _SIZED and length >= 1:
            return ColumnType(kind)
        case ((Kind.TIME | Kind.TIMESTAMP | Kind.TIMESTAMPTZ), [digits]) if 0 <= digits <= TIME_DIGITS_MAX:
            return ColumnType(kind, precision=digits)
        case Kind.NUMERIC, [precision] if precision >= 1:
            return ColumnType(kind, precision=precision, scale=0)
        case Kind.NUMERIC, [precision, scale] if precision >= 1 and abs(scale) <= NUMERIC_SCALE_MAX:
            return ColumnType(kind, precision=precision, scale=scale)
        case Kind.FLOAT8, [bits] if name == "float" and 1 <= bits <= FLOAT8_BITS_MAX:
            return ColumnType(Kind.FLOAT4 if bits <= FLOAT4_BITS_MAX else Kind.FLOAT8)
        case _:
            return None
