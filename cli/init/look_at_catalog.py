"""What `kycache init` looks at: the source's catalog, and how many values columns have. Decides nothing."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import sql

from kycache.cli.doctor.look_at_source import SOURCE_WAIT_S, look_at_empty_enums, look_at_tables
from kycache.model.errors import ConfigurationError, Unreachable

from .facts import Catalog, ColumnShape, Link, Named, Spread, TableShape

CATALOG_WAIT_S = 60
"""The catalog of some thousand tables takes seconds, and nobody waits for its locks."""

SPREAD_ROWS_MAX = 10_000
"""Rows that are looked at where the table was never analyzed: what has few values shows it in as many."""

# Partitions stand here too, to be known as such where somebody names one.
_SHAPES = """
SELECT n.nspname, c.relname, c.relkind, c.relpersistence = 'p', c.reltuples::bigint,
       coalesce((SELECT p.relname FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent
                 WHERE i.inhrelid = c.oid AND c.relispartition), ''),
       ARRAY(SELECT a.attname FROM pg_constraint k CROSS JOIN unnest(k.conkey) WITH ORDINALITY u(num, place)
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = u.num
             WHERE k.conrelid = c.oid AND k.contype = 'p' ORDER BY u.place),
       (SELECT jsonb_agg(jsonb_build_array(a.attname, format_type(a.atttypid, a.atttypmod),
                    CASE WHEN a.atttypid = 'numeric'::regtype AND a.atttypmod >= 0
                         THEN ((a.atttypmod - 4) >> 16) & 65535 END) ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY n.nspname, c.relname
"""

# Without those that PostgreSQL makes for partitions by itself.
_LINKS = """
SELECT n.nspname, c.relname, m.nspname, t.relname,
       ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY u(num, place)
             JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.num ORDER BY u.place),
       ARRAY(SELECT a.attname FROM unnest(k.confkey) WITH ORDINALITY u(num, place)
             JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.num ORDER BY u.place)
FROM pg_constraint k
JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace m ON m.oid = t.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0 AND NOT c.relispartition
ORDER BY n.nspname, c.relname, k.conkey
"""

# Of a partitioned table there are statistics with inherited rows only.
_STATISTICS = """
SELECT s.attname,
       CASE WHEN s.n_distinct >= 0 THEN s.n_distinct ELSE -s.n_distinct * c.reltuples END::bigint,
       c.reltuples::bigint
FROM pg_stats s JOIN pg_class c ON c.oid = format('%%I.%%I', s.schemaname, s.tablename)::regclass
WHERE s.schemaname = %s AND s.tablename = %s AND s.attname = ANY(%s) AND c.reltuples > 0
      AND s.inherited = (c.relkind = 'p')
"""


@contextmanager
def connected(dsn: str) -> Iterator["psycopg.Connection[Any]"]:
    """The source, to be read only.

    Raises:
        Unreachable: it does not answer, does not let this role in, or takes too long.
        ConfigurationError: the role may not read what must be looked at.
    """
    try:
        with psycopg.connect(dsn, connect_timeout=SOURCE_WAIT_S) as database:
            database.read_only = True
            database.execute("SET bytea_output = hex")
            database.execute(sql.SQL("SET statement_timeout = {}").format(CATALOG_WAIT_S * 1000))
            yield database
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the role of the dsn may not look: {error.diag.message_primary}", "grant it SELECT there"
        ) from None
    except psycopg.Error as error:
        raise Unreachable(
            f"the source does not answer: {str(error).strip() or type(error).__name__}",
            "check --dsn, or `[source] dsn`, and that PostgreSQL runs",
        ) from None


def look_at_catalog(database: "psycopg.Connection[Any]") -> Catalog:
    """All tables, and who refers to whom."""
    shapes = [_shape(row) for row in database.execute(_SHAPES)]
    tables: dict[Named, TableShape] = {}
    for schema in dict.fromkeys(shape.schema for shape in shapes):
        names = [shape.name for shape in shapes if shape.schema == schema]
        known = look_at_tables(database, schema, names, database.info.user, "")
        tables |= {(schema, s.name): replace(s, facts=known.get(s.name)) for s in shapes if s.schema == schema}
    links = tuple(
        Link((row[0], row[1]), tuple(row[4]), (row[2], row[3]), tuple(row[5])) for row in database.execute(_LINKS)
    )
    (wal_level,) = database.execute("SHOW wal_level").fetchone() or ("",)
    return Catalog(database.info.dbname, tables, links, look_at_empty_enums(database), wal_level)


def _shape(row: tuple[Any, ...]) -> TableShape:
    schema, name, kind, logged, rows, partition_of, primary, columns = row
    return TableShape(
        schema,
        name,
        kind,
        tuple(ColumnShape(*column) for column in columns or ()),
        tuple(primary),
        rows if rows >= 0 else None,
        logged,
        partition_of,
    )


def look_at_spreads(
    database: "psycopg.Connection[Any]", table: TableShape, columns: Collection[str]
) -> Mapping[str, Spread]:
    """How many values these columns have: as PostgreSQL's statistics say, else among the first rows.

    Nothing is said of columns that this role may not read.
    """
    names = list(columns)
    counted = database.execute(_STATISTICS, [table.schema, table.name, names])
    spreads = {name: Spread(distinct, rows) for name, distinct, rows in counted}
    rest = [name for name in names if name not in spreads]
    if not rest:
        return spreads
    counts = sql.SQL(", ").join(sql.SQL("count(DISTINCT {})").format(sql.Identifier(name)) for name in rest)
    listed = sql.SQL(", ").join(map(sql.Identifier, rest))
    query = sql.SQL("SELECT count(*), {} FROM (SELECT {} FROM {} LIMIT {}) s").format(
        counts, listed, sql.Identifier(table.schema, table.name), sql.Literal(SPREAD_ROWS_MAX)
    )
    try:
        with database.transaction():
            row = database.execute(query).fetchone()
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.QueryCanceled):
        return spreads
    assert row is not None
    return spreads | {name: Spread(distinct, row[0]) for name, distinct in zip(rest, row[1:], strict=True)}
