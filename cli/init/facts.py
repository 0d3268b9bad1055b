"""What `kycache init` knows of a source: tables, who refers to whom, how many values columns have. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass

from kycache.cli.doctor.source_facts import ColumnFacts, TableFacts

Named = tuple[str, str]
"""A table: its schema and its name."""


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """A column, beside what `doctor` knows of it."""

    name: str
    declared: str
    """Its type as PostgreSQL writes it: `character varying(20)`."""
    precision: int | None = None
    """Of a numeric: all its digits."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table or what looks like one. `kind` is `pg_class.relkind`: r, p, v, m or f."""

    schema: str
    name: str
    kind: str
    columns: tuple[ColumnShape, ...]
    """In the table's own order."""
    primary: tuple[str, ...] = ()
    """The columns of its primary key."""
    rows: int | None = None
    """As PostgreSQL estimates; None where it never counted."""
    logged: bool = True
    partition_of: str = ""
    facts: TableFacts | None = None
    """What `doctor` knows of it; None of what is no table."""

    @property
    def named(self) -> Named:
        """Its schema and its name."""
        return self.schema, self.name

    @property
    def known(self) -> Mapping[str, ColumnFacts]:
        """Its columns, as `doctor` knows them."""
        return {} if self.facts is None else self.facts.columns


@dataclass(frozen=True, slots=True)
class Link:
    """A foreign key, or what somebody says is one."""

    table: Named
    columns: tuple[str, ...]
    target: Named
    target_columns: tuple[str, ...]
    said: bool = False
    """By `--child`: no constraint of the source says so."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All tables of a database that are not PostgreSQL's own."""

    database: str
    tables: Mapping[Named, TableShape]
    links: tuple[Link, ...]
    empty_enums: tuple[str, ...] = ()
    """Enum types without a label, anywhere in the database."""
    wal_level: str = "logical"


@dataclass(frozen=True, slots=True)
class Spread:
    """How many different values a column has."""

    distinct: int
    rows: int
    """Among how many rows."""
