"""The publication, and that the printed SQL takes nothing away from a view beside this one.

Two views may read one schema. Each has a publication, a slot, a topic and a heartbeat table of its own. SQL that
was printed with another view's names would silence that view, so it refuses before it changes anything.
"""

from collections.abc import Sequence

from kycache.model.sql.text import dollar_quoted, literal, qualified, quoted

from .view import HEARTBEAT_TABLE

OWN_NAMES = (
    "`[connector] name`, `topic_prefix`, `slot`, `publication`, `heartbeat_table`, and `[kafka] topic` and `group`"
)
"""What a second view, or a second topic of the same one, must call otherwise."""

_OPTIONS = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
"""Partitioned tables would otherwise come as one topic per partition, which the router does not know."""


def refuse_foreign_publication(publication: str, schema: str, tables: Sequence[str]) -> str:
    """A statement that fails where the publication covers what this view does not know.

    Covered by all of the schema, or of the database, the view's tables stay covered, and nothing is taken away.
    """
    name = literal(publication)
    hint = (
        f"for a view beside another one give {OWN_NAMES} names of their own; where a table has left the view: "
        f"ALTER PUBLICATION {quoted(publication)} DROP TABLE it, then run this again"
    )
    body = f"""
DECLARE
    known oid[] := {_known(schema, tables)};
    others text;
BEGIN
    SELECT string_agg(r.prrelid::regclass::text, ', ' ORDER BY r.prrelid::regclass::text) INTO others
    FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
    WHERE p.pubname = {name} AND r.prrelid <> ALL (known)
          AND NOT EXISTS (SELECT FROM pg_partition_ancestors(r.prrelid) a WHERE a.relid = ANY (known));
    IF current_setting('server_version_num')::int >= 150000 THEN
        SELECT nullif(concat_ws(', ', others, string_agg('all tables of schema ' || n.nspname, ', ')), '')
        INTO others
        FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid
             JOIN pg_namespace n ON n.oid = s.pnnspid
        WHERE p.pubname = {name} AND n.nspname <> {literal(schema)};
    END IF;
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'publication % covers what this view does not know: %', {name}, others
            USING HINT = {literal(hint)};
    END IF;
END
"""
    return f"DO {dollar_quoted(body)}"


def refuse_foreign_beats(schema: str, heartbeats: str, function: str, tables: Sequence[str]) -> str:
    """A statement that fails where the heartbeat table's truncate function serves tables of another view."""
    hint = (
        f"for a view beside another one give {OWN_NAMES} names of their own; where a table has left the view: "
        f"DROP TRIGGER {quoted(trigger_name(heartbeats))} ON it, then run this again"
    )
    body = f"""
DECLARE
    known oid[] := {_known(schema, tables)};
    others text;
BEGIN
    SELECT string_agg(t.tgrelid::regclass::text, ', ' ORDER BY t.tgrelid::regclass::text) INTO others
    FROM pg_trigger t
    WHERE t.tgfoid = to_regproc({literal(qualified(schema, function))}) AND t.tgrelid <> ALL (known);
    IF others IS NOT NULL THEN
        RAISE EXCEPTION 'heartbeat table % is another view''s, which has also: %', {literal(heartbeats)}, others
            USING HINT = {literal(hint)};
    END IF;
END
"""
    return f"DO {dollar_quoted(body)}"


def publication_sql(publication: str, schema: str, tables: Sequence[str]) -> str:
    """The statement that makes the publication, or gives it these tables. After `refuse_foreign_publication`."""
    name, there = quoted(publication), literal(publication)
    listed = ", ".join(qualified(schema, table) for table in tables)
    body = f"""
DECLARE
    whole boolean;
BEGIN
    -- One of all tables, of the database or of the schema, has these; of the former PostgreSQL lets none be named.
    SELECT p.puballtables INTO whole FROM pg_publication p WHERE p.pubname = {there};
    IF NOT whole AND current_setting('server_version_num')::int >= 150000 THEN
        SELECT EXISTS (SELECT FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid
                       WHERE p.pubname = {there}) INTO whole;
    END IF;
    IF whole IS NULL THEN
        CREATE PUBLICATION {name} FOR TABLE {listed};
    ELSIF NOT whole THEN
        ALTER PUBLICATION {name} SET TABLE {listed};
    END IF;
    ALTER PUBLICATION {name} SET ({_OPTIONS});
    -- Since 18 a table under FULL whose generated columns are not published refuses UPDATE and DELETE.
    IF current_setting('server_version_num')::int >= 180000 THEN
        ALTER PUBLICATION {name} SET (publish_generated_columns = stored);
    END IF;
END
"""
    return f"DO {dollar_quoted(body)}"


def trigger_name(heartbeats: str) -> str:
    """The truncate trigger's name on each table: one for each heartbeat table that the table's views have.

    Views made before the table's name was a setting keep the shorter names.
    """
    return "kycache_truncated" if heartbeats == HEARTBEAT_TABLE else f"{heartbeats}_truncated"


def setting_name(heartbeats: str) -> str:
    """The transaction-local setting in which that trigger's function gathers names."""
    return "kycache.truncated" if heartbeats == HEARTBEAT_TABLE else f"kycache.{heartbeats}_truncated"


def identify_partitions(schema: str, tables: Sequence[str]) -> str:
    """A statement that gives each partition of these tables REPLICA IDENTITY FULL: its table's does not count."""
    body = f"""
DECLARE
    part regclass;
BEGIN
    FOR part IN
        SELECT t.relid FROM unnest({_known(schema, tables)}) known CROSS JOIN pg_partition_tree(known) t
               JOIN pg_class c ON c.oid = t.relid
        WHERE t.level > 0 AND c.relkind = 'r' AND c.relreplident <> 'f' ORDER BY t.relid
    LOOP
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY FULL', part);
    END LOOP;
END
"""
    return f"DO {dollar_quoted(body)}"


def _known(schema: str, tables: Sequence[str]) -> str:
    """The view's tables, as an array of oids; what does not exist yet is NULL and left out."""
    found = ", ".join(f"to_regclass({literal(qualified(schema, table))})" for table in tables)
    return f"array_remove(ARRAY[{found}]::oid[], NULL)"
