"""The fingerprint: what the source's catalog says of all that a view reads, as a short text in each heartbeat row.

DDL sends no row events, and some of it changes rows: a column renamed, a type changed `USING`, an enum's label
renamed, a table swapped, a partition attached. The beat's query reads the catalog in its own snapshot, so a beat
with another fingerprint was written after such DDL had been committed, and comes after it through Debezium.

Only catalogs are read, which everyone may, and which no DDL locks against reading. `xmin` of a column is the
transaction that last wrote its catalog row: it alone tells of `USING` with the same type, and it changes with a
default, NOT NULL, statistics target or column privilege too. A column that the view does not declare has no part
in it, nor have indexes, statistics, comments, a table's own privileges, or the file that TRUNCATE and VACUUM FULL
exchange.
"""

from hashlib import sha256

from kycache.model.sql.text import literal

from .view import Kind, Table, View

FINGERPRINT = "fingerprint"
"""The column of the heartbeat table."""

_FORM = 1
"""Of the query below: another one makes other fingerprints of the same catalog."""

SCOPE_DIGITS = 8


def scope_of(view: View) -> str:
    """What the fingerprints of a view begin with: those of another view's tables or columns say nothing here."""
    return sha256(repr((_FORM, _declared(view))).encode()).hexdigest()[:SCOPE_DIGITS] + ":"


def fingerprint_sql(view: View, schema: str, publication: str) -> str:
    """A scalar subquery that gives the fingerprint as text. It takes no lock but those of reading catalogs."""
    tables = ", ".join(literal(table.name) for table in view.tables)
    # Numbered, so that no collation has a say in the order.
    declared = ", ".join(
        f"({n}, {literal(table)}::name, {literal(column)}::name, {_array(labels)})"
        for n, (table, column, labels) in enumerate(_declared(view))
    )
    return (
        "(WITH RECURSIVE "
        f"declared(n, tab, col, labels) AS (VALUES {declared}), "
        "space AS (SELECT oid FROM pg_catalog.pg_namespace "
        f"WHERE nspname = {literal(schema)}), "
        "named AS (SELECT c.oid, c.relname FROM pg_catalog.pg_class c, space "
        f"WHERE c.relnamespace = space.oid AND c.relname IN ({tables})), "
        # pg_partition_tree would wait for whoever alters the table.
        "tree(oid) AS (SELECT oid FROM named UNION SELECT i.inhrelid FROM tree "
        "JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid AND NOT i.inhdetachpending), "
        "cols AS (SELECT d.n, d.labels, a.attnum, a.atttypid, a.atttypmod, a.xmin AS written FROM declared d "
        "JOIN named ON named.relname = d.tab "
        "JOIN pg_catalog.pg_attribute a "
        "ON a.attrelid = named.oid AND a.attname = d.col AND a.attnum > 0), "
        # A domain's values are those of the type that it is of.
        "base(typ, labels) AS (SELECT atttypid, labels FROM cols "
        "UNION SELECT t.typbasetype, base.labels FROM base "
        "JOIN pg_catalog.pg_type t ON t.oid = base.typ AND t.typtype = 'd'), "
        "pub AS (SELECT oid, to_jsonb(p) - 'pubowner' AS options FROM pg_catalog.pg_publication p "
        f"WHERE pubname = {literal(publication)}) "
        f"SELECT {literal(scope_of(view))} || hashtextextended(ROW("
        "(SELECT string_agg(ROW(c.oid, named.relname, c.relkind, c.relpersistence, c.relreplident, "
        "c.relispartition, (SELECT i.indkey FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid "
        "AND i.indisreplident AND c.relreplident = 'i'))::text, ';' ORDER BY c.oid) "
        "FROM tree JOIN pg_catalog.pg_class c ON c.oid = tree.oid LEFT JOIN named ON named.oid = c.oid "
        # Another session's temporary heirs are no part of the table.
        "WHERE c.relpersistence <> 't'), "
        "(SELECT string_agg(concat_ws(' ', n, attnum, atttypid, atttypmod, written), ';' ORDER BY n) FROM cols), "
        "(SELECT string_agg(DISTINCT ROW(e.oid, e.enumlabel)::text COLLATE \"C\", ';') FROM base "
        "JOIN pg_catalog.pg_enum e ON e.enumtypid = base.typ "
        "WHERE base.labels IS NULL OR e.enumlabel::text = ANY (base.labels)), "
        "(SELECT options FROM pub), "
        "(SELECT string_agg(to_jsonb(r)::text, ';' ORDER BY r.oid) FROM pub "
        "JOIN pg_catalog.pg_publication_rel r ON r.prpubid = pub.oid JOIN tree ON tree.oid = r.prrelid), "
        # What is published by its schema: PostgreSQL 14 has no catalog of that, but dependencies have it too.
        # The schema is asked of each by itself, since a schema's own dependents are many.
        "(SELECT string_agg(d.objid::text, ';' ORDER BY d.objid) FROM space, pub "
        "JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_publication'::regclass "
        "AND d.refobjid = pub.oid AND d.classid = to_regclass('pg_catalog.pg_publication_namespace') "
        "WHERE (SELECT s.refobjid FROM pg_catalog.pg_depend s WHERE s.classid = d.classid "
        "AND s.objid = d.objid AND s.refclassid = 'pg_catalog.pg_namespace'::regclass) = space.oid)"
        ')::text COLLATE "C", 0))'
    )


def _declared(view: View) -> list[tuple[str, str, tuple[str, ...]]]:
    """Each table with each column that is read of it, and the labels where it is declared as an enum."""
    return [entry for table in view.tables for entry in _columns(table)]


def _columns(table: Table) -> list[tuple[str, str, tuple[str, ...]]]:
    # Of a label that the view does not know rows go to quarantine, so that one more is no news.
    columns = {c.name: c.type.labels if c.type.kind is Kind.ENUM else () for c in table.columns}
    columns.setdefault(table.owner, ())
    return [(table.name, column, labels) for column, labels in columns.items()]


def _array(labels: tuple[str, ...]) -> str:
    return f"ARRAY[{', '.join(map(literal, labels))}]::text[]" if labels else "NULL::text[]"
