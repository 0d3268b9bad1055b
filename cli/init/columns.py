"""Which type of a view a column of the catalog gets, or why it gets none. Pure."""

from dataclasses import dataclass

from kycache.cli.doctor.source_facts import ColumnFacts
from kycache.model.types import ENUM_LABELS_MAX
from kycache.model.view import Kind, Privacy

from .facts import ColumnShape
from .names import guess_privacy, words

_KINDS = {
    "uuid": Kind.UUID,
    "bool": Kind.BOOL,
    "int2": Kind.INT,
    "int4": Kind.INT,
    "int8": Kind.INT,
    "date": Kind.DATE,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMPTZ,
    "time": Kind.TIME,
    "numeric": Kind.NUMERIC,
    "float4": Kind.FLOAT4,
    "float8": Kind.FLOAT8,
    "bytea": Kind.BYTEA,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
    **dict.fromkeys(("text", "varchar", "bpchar", "citext", "char", "xml", "inet", "cidr"), Kind.TEXT),
    **dict.fromkeys(("macaddr", "macaddr8", "ltree"), Kind.TEXT),
}
"""What prints as PostgreSQL prints it, by snapshot and by stream: `doctor` accepts each."""

_REASONS = {
    "interval": "an interval comes as microseconds, with months of 30.4 days",
    "timetz": "a timetz comes without its zone",
    "money": "money comes without the locale's signs",
    "hstore": "an hstore comes as JSON",
    "tsvector": "a tsvector is a search index, made from other columns",
}

_INTEGERS = {"int2": "smallint", "int4": "integer", "int8": "bigint"}

AS_TEXT = " as text"
"""What makes a whole number print as a string."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A column of the view, as it is to be written."""

    name: str
    kind: Kind
    type: str
    """As a definition writes it."""
    labels: tuple[str, ...]
    privacy: Privacy
    why: str
    """The word of its name that says how private it is; empty where none does."""
    declared: str
    """Its type at the source."""
    nullable: bool


def choose(table: str, shape: ColumnShape, facts: ColumnFacts) -> Choice | str:
    """A column of this table as a view declares it, or why it cannot."""
    if facts.generated:
        return "it is generated: no change carries it before PostgreSQL 18, and never where it is virtual"
    if shape.declared.endswith("[]"):
        return "arrays are not taken: one of arrays comes as nulls, numeric[] loses NaN"
    if not facts.plain:
        return f"{shape.declared} is a composite, a range or the like, which comes as an object or not at all"
    labels: tuple[str, ...] = ()
    if facts.labels:
        # More labels than a definition takes are texts, which any enum comes as.
        kind, written = Kind.TEXT, Kind.TEXT.value
        if len(facts.labels) <= ENUM_LABELS_MAX:
            kind, written, labels = Kind.ENUM, Kind.ENUM.value, facts.labels
    else:
        found = _KINDS.get(facts.type)
        if found is None:
            return _REASONS.get(facts.type, f"no type of a view prints a {facts.type} as PostgreSQL does")
        kind, written = found, _written(found, shape, facts)
    privacy, why = guess_privacy(shape.name, kind, table)
    return Choice(shape.name, kind, written, labels, privacy, why, shape.declared, facts.nullable)


def _written(kind: Kind, shape: ColumnShape, facts: ColumnFacts) -> str:
    if kind is Kind.INT:
        # Ids are compared, not counted with, and JavaScript's numbers end at 2^53.
        is_id = facts.type == "int8" and words(shape.name)[-1:] == ["id"]
        return _INTEGERS[facts.type] + (AS_TEXT if is_id else "")
    if kind in (Kind.TIME, Kind.TIMESTAMP) and facts.precision is not None:
        return f"{kind}({facts.precision})"
    if kind is Kind.NUMERIC and facts.scale is not None and shape.precision is not None:
        return f"{kind}({shape.precision},{facts.scale})"
    return kind.value


def loose(facts: ColumnFacts) -> bool:
    """PostgreSQL takes some values of the column for equal that do not print alike."""
    return facts.type in ("citext", "bpchar") or not facts.deterministic


def family(facts: ColumnFacts) -> str:
    """Columns of one family have one text for each value, and PostgreSQL's equality is that of the texts."""
    if facts.type in _INTEGERS:
        return "integer"
    if facts.type in ("text", "varchar"):
        return "text"
    return f"char({facts.length})" if facts.type == "bpchar" else facts.type
