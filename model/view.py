"""The view definition as the program knows it: which tables make a profile, under which names and types.

`definition.py` makes it from TOML (DESIGN section 4).
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

HEARTBEAT_TABLE = "kycache_heartbeat"

FILTERS_MAX = 4
"""Filters that a view may declare: the order index counts each row in 2^4 = 16 columns, and each more doubles the
upkeep."""


class Kind(StrEnum):
    """The Postgres types a column may have."""

    UUID = "uuid"
    TEXT = "text"
    BOOL = "bool"
    INT = "int"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    NUMERIC = "numeric"
    JSON = "json"
    ENUM = "enum"
    TIME = "time"
    FLOAT4 = "float4"
    FLOAT8 = "float8"
    BYTEA = "bytea"


class Privacy(StrEnum):
    """`pii` stands in no log and no metric label; `secret` is neither stored nor served."""

    OPEN = "open"
    PII = "pii"
    SECRET = "secret"


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A declared type: the kind, an enum's labels, a time's precision, a numeric's scale."""

    kind: Kind
    labels: tuple[str, ...] = ()
    precision: int | None = None
    scale: int | None = None
    as_text: bool = False
    """An `int` that answers print as a string: JavaScript's numbers are exact up to 2^53 only."""

    def __str__(self) -> str:
        if self.kind is Kind.ENUM:
            plain = all(re.fullmatch(r"[\w-]+", label) for label in self.labels)
            return f"enum({','.join(self.labels) if plain else ', '.join(map(repr, self.labels))})"
        if self.scale is not None:
            return f"numeric({self.precision},{self.scale})"
        if self.as_text:
            return f"{self.kind} as text"
        return self.kind if self.precision is None else f"{self.kind}({self.precision})"


@dataclass(frozen=True, slots=True)
class Column:
    """One stored column: its name at the source, its path in the answer, its type."""

    name: str
    output: tuple[str, ...]
    type: ColumnType
    privacy: Privacy


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the view. `columns` are the stored ones, in declared order, without the secret ones."""

    name: str
    key: str
    columns: tuple[Column, ...]
    secret: tuple[str, ...]
    owner: str
    """The column that holds the user id: the root's own key, a child's foreign key."""
    output: str = ""
    """A child's member in the answer; empty for the root."""
    order: str = ""
    """A child's order column; empty: by key alone."""
    descending: bool = False

    @property
    def is_child(self) -> bool:
        """Not the root."""
        return bool(self.output)

    def index_of(self, column: str) -> int:
        """Where `column` stands in a stored row."""
        return next(i for i, c in enumerate(self.columns) if c.name == column)

    @property
    def key_type(self) -> ColumnType:
        """The type of the primary key."""
        return self.columns[self.index_of(self.key)].type


@dataclass(frozen=True, slots=True)
class Status:
    """The derived status: `column` of the first row of child number `child`."""

    output: str
    child: int
    column: str
    none: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filter:
    """A list filter: a root column (`column` is its name) or the derived status (`column` is None)."""

    name: str
    column: str | None
    labels: tuple[str, ...]
    """The only values that an enum or bool filter takes; empty where any text or integer may come."""


@dataclass(frozen=True, slots=True)
class View:
    """A whole view definition, validated."""

    name: str
    root: Table
    children: tuple[Table, ...]
    status: Status | None
    members: tuple[str, ...]
    list_order: str
    list_fields: tuple[str, ...]
    filters: tuple[Filter, ...]
    hash: str = field(default="", compare=False)

    @property
    def tables(self) -> tuple[Table, ...]:
        """The root, then the children."""
        return (self.root, *self.children)

    def filter_kind(self, declared: Filter) -> Kind:
        """Of which kind the filter's values are; those of the status are labels of an enum."""
        name = declared.column
        return Kind.ENUM if name is None else self.root.columns[self.root.index_of(name)].type.kind
