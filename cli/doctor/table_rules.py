"""What `kycache doctor` concludes of the view's tables at the source. Pure: plain facts in, findings out."""

from collections import Counter
from collections.abc import Iterator

from kycache.model.scalars.times import TimePrecision, unit_us
from kycache.model.view import Column, Kind, Table

from .key_rules import judge_keys
from .source_facts import ColumnFacts, SourceFacts, TableFacts
from .topic_rules import RUN_SQL, WARNING, Finding

_STRINGS = frozenset({"text", "varchar", "bpchar", "citext"})
_SENT_AS_TEXT = frozenset({"char", "uuid", "json", "jsonb", "xml", "tsvector", "inet", "cidr"}) | frozenset(
    {"macaddr", "macaddr8", "ltree"}
)
_SENT_AS_OTHER_TEXT = {
    "numeric": "declare it numeric in `[view] file`",  # NaN comes as NAN, a scale of -2 with 2,046 zeros
    "timestamptz": "declare it timestamptz in `[view] file`",  # with T and Z
    "timetz": "leave it out of `[view] file`",  # in UTC
    "money": "leave it out of `[view] file`",  # without the locale's signs
    "hstore": "leave it out of `[view] file`",  # as JSON
}
"""Texts, but not those that PostgreSQL prints; and what to do (seen on Debezium 3.6.3, snapshot and stream)."""
_TYPES: dict[Kind, frozenset[str]] = {
    Kind.UUID: frozenset({"uuid"}) | _STRINGS,
    Kind.TEXT: _STRINGS | _SENT_AS_TEXT,
    Kind.BOOL: frozenset({"bool"}),
    Kind.INT: frozenset({"int2", "int4", "int8"}),
    Kind.DATE: frozenset({"date"}),
    Kind.TIMESTAMP: frozenset({"timestamp"}),
    Kind.TIMESTAMPTZ: frozenset({"timestamptz"}),
    Kind.NUMERIC: frozenset({"numeric"}),
    Kind.JSON: frozenset({"json", "jsonb"}),
    Kind.ENUM: _STRINGS,
    Kind.TIME: frozenset({"time"}),
    Kind.FLOAT4: frozenset({"float4"}),
    Kind.FLOAT8: frozenset({"float8"}),
    Kind.BYTEA: frozenset({"bytea"}),
}
"""What Debezium sends as the kind needs it. Of other types come numbers, objects, base64, or nothing (seen)."""


def judge_table(
    table: Table, source: SourceFacts, schema: str, trigger: str, body: str, times: TimePrecision
) -> Iterator[Finding]:
    """One table of the view.

    Args:
        trigger: the truncate trigger's name.
        body: of its function, as it is printed.
        times: the mode that the connector writes in.
    """
    facts, name = source.tables.get(table.name), f"{schema}.{table.name}"
    if facts is None:
        yield Finding(
            "tables",
            f"there is no table {name}; where it is a view, no changes of it come",
            "mend `[view] file` or `[connector] schema`",
        )
        return
    if facts.heirs:
        yield Finding(
            "tables",
            f"tables inherit from {name} ({', '.join(facts.heirs)}): a whole snapshot holds their rows too, but "
            "no change of those comes",
            "make them partitions, whose changes come as the table's, or keep its rows in the table itself",
        )
    wanted = {*(column.name for column in table.columns), table.owner}
    if missing := sorted(wanted - facts.columns.keys()):
        yield Finding(
            "tables",
            f"table {name} has no column {', '.join(missing)}",
            "mend the view definition, or add the column",
        )
    folded = Counter(column.lower() for column in facts.columns)
    if twins := sorted(column for column in facts.columns if folded[column.lower()] > 1):
        yield Finding(
            "tables",
            f"table {name} has columns that differ only by case ({', '.join(twins)}): Debezium refuses the table, "
            "and the connector fails",
            "rename all but one of them at the source",
        )
    for column in table.columns:
        if column.name in facts.columns:
            yield from _judge_column(name, column, facts.columns[column.name], times)
            yield from _judge_dates(name, column, source.odd_dates.get((table.name, column.name), False))
    yield from judge_keys(name, table, facts)
    yield from _judge_identity(name, table, facts)
    yield from _judge_trigger(name, facts, trigger, body)
    yield from _judge_generated(name, table, facts, source)
    yield from _judge_role(name, facts, source.role)


def _judge_dates(table: str, column: Column, odd: bool | None) -> Iterator[Finding]:
    if odd is None:
        yield Finding(
            "dates",
            f"whether column {column.name} of table {table} has dates before Christ, or from 1582-10-05 to 14, "
            "could not be asked: from a snapshot these come wrong",
            f"let a role that may read the table run `{odd_dates_query(table, column.name)}`",
            WARNING,
        )
    elif odd:
        yield Finding(
            "dates",
            f"column {column.name} of table {table} has dates before Christ, or from 1582-10-05 to 14: "
            "from a snapshot these come wrong, from an update right",
            f"after each whole snapshot: UPDATE {table} SET {column.name} = {column.name} for those rows; or "
            "leave the column out of `[view] file`",
        )


def odd_dates_query(table: str, column: str) -> str:
    """What asks the source for dates that Debezium's snapshot shifts, through Java's Julian calendar.

    Args:
        table: as SQL names it.
        column: likewise.
    """
    return (
        f"SELECT EXISTS (SELECT FROM {table} WHERE {column} < '0001-01-01' AND {column} > '-infinity' "
        f"OR {column} BETWEEN '1582-10-05' AND '1582-10-14')"
    )


def _judge_column(table: str, column: Column, facts: ColumnFacts, times: TimePrecision) -> Iterator[Finding]:
    if not facts.plain:
        return
    kind = column.type.kind
    if facts.labels and kind is Kind.ENUM:
        if unknown := [label or "''" for label in facts.labels if label not in column.type.labels]:
            yield Finding(
                "types",
                f"column {column.name} of table {table} may be {', '.join(unknown)}, which the view does not "
                "know: such rows go to quarantine",
                "add the label to `[view] file`, and run `kycache rebuild`",
                WARNING,
            )
        return
    if facts.type not in _TYPES[kind] and not (facts.labels and kind in (Kind.TEXT, Kind.UUID)):
        yield Finding(
            "types",
            f"column {column.name} of table {table} is a {facts.type}, the view declares {column.type}"
            + (
                ": it would not print as PostgreSQL prints it"
                if kind is Kind.TEXT and facts.type in _SENT_AS_OTHER_TEXT
                else ""
            ),
            _SENT_AS_OTHER_TEXT.get(facts.type, "mend `[view] file`")
            if kind is Kind.TEXT
            else "mend `[view] file`",
        )
    elif kind is Kind.UUID and facts.type != "uuid":
        yield Finding(
            "types",
            f"column {column.name} of table {table} is a {facts.type}, the view declares uuid: what is no uuid in "
            "lower case goes to quarantine",
            "declare it text in `[view] file`, or make it a uuid at the source",
            WARNING,
        )
    elif kind in (Kind.TIME, Kind.TIMESTAMP) and unit_us(times, facts.precision) != unit_us(
        times, column.type.precision
    ):
        there = f"{kind}({facts.precision})" if facts.precision is not None else kind.value
        yield Finding(
            "types",
            f"column {column.name} of table {table} is a {there}, the view declares {column.type}: one comes in "
            "milliseconds, the other in microseconds, so that every time in it is wrong by a factor of 1000",
            f"declare {there} in `[view] file`, and run `kycache rebuild --epoch`; in `microseconds` "
            "(`[kafka] time_precision_mode`) it does not matter",
        )
    elif kind is Kind.NUMERIC and column.type.scale is None and facts.scale is not None and facts.scale < 0:
        yield Finding(
            "types",
            f"column {column.name} of table {table} is a numeric of scale {facts.scale}, the view declares "
            f"{column.type}: such values come with {facts.scale % 2048} zeros behind the point",
            f"declare it numeric(p,{facts.scale}) in `[view] file`, and run `kycache rebuild`",
        )
    elif kind is Kind.NUMERIC and column.type.scale not in (None, facts.scale):
        scale = "without a scale" if facts.scale is None else f"of scale {facts.scale}"
        yield Finding(
            "types",
            f"column {column.name} of table {table} is a numeric {scale}, the view declares {column.type}: values "
            "of another scale go to quarantine",
            "declare the column's own precision and scale in `[view] file`, and run `kycache rebuild`",
        )


def _judge_identity(name: str, table: Table, facts: TableFacts) -> Iterator[Finding]:
    by_index = facts.identity == "i" and {table.owner, table.key} <= facts.identity_columns
    if facts.identity != "f" and not by_index:
        yield Finding(
            "replica identity",
            f"table {name} has no REPLICA IDENTITY FULL: a delete would not say whose row it was, nor which",
            RUN_SQL,
        )
    if facts.identity == "f" and facts.partitions_without:
        yield Finding(
            "replica identity",
            f"partitions of table {name} have no REPLICA IDENTITY FULL of their own "
            f"({', '.join(facts.partitions_without)}): a delete there would not say whose row it was",
            f"{RUN_SQL}, and again after each partition that is made later",
        )


def _judge_trigger(name: str, facts: TableFacts, trigger: str, body: str) -> Iterator[Finding]:
    if facts.truncate_trigger is None:
        yield Finding(
            "truncate trigger",
            f"table {name} has no enabled trigger {trigger}: a truncate would not reach every shard",
            RUN_SQL,
        )
    elif facts.truncate_trigger.strip() != body.strip():
        yield Finding(
            "truncate trigger",
            f"trigger {trigger} of table {name} calls another function than the one printed for this view",
            RUN_SQL,
        )


def _judge_generated(name: str, table: Table, facts: TableFacts, source: SourceFacts) -> Iterator[Finding]:
    """No change carries virtual columns, nor stored ones before PostgreSQL 18; since then a table under FULL
    refuses UPDATE and DELETE instead."""
    if source.publication is None:
        return
    virtual = sorted(column for column, there in facts.columns.items() if there.generated == "v")
    stored = sorted(column for column, there in facts.columns.items() if there.generated == "s")
    if source.version >= 180_000 and source.publication.generated:
        stored = []  # these come
    if source.version < 180_000 or facts.identity != "f":
        if lost := sorted({column.name for column in table.columns} & {*virtual, *stored}):
            yield Finding(
                "generated columns",
                f"columns of table {name} are generated ({', '.join(lost)}), and no change carries them: they "
                "keep what a snapshot said",
                "leave them out of `[view] file`, or let a trigger write them as plain columns; then run "
                "`kycache rebuild --epoch`",
            )
        return
    if virtual:
        yield Finding(
            "generated columns",
            f"table {name} has virtual generated columns ({', '.join(virtual)}), which cannot be published: "
            "under REPLICA IDENTITY FULL PostgreSQL refuses every UPDATE and DELETE",
            "make them STORED, or give the table a replica identity by an index that holds the user id",
        )
    if stored:
        yield Finding(
            "generated columns",
            f"the publication does not publish the generated columns of table {name} ({', '.join(stored)}): "
            "under REPLICA IDENTITY FULL PostgreSQL refuses every UPDATE and DELETE",
            RUN_SQL,
        )


def _judge_role(name: str, facts: TableFacts, role: str) -> Iterator[Finding]:
    """What only a whole snapshot needs, and nobody misses until then: streaming asks for no such right."""
    if "SELECT" not in facts.rights:
        yield Finding(
            "role",
            f"Debezium's role {role!r} may not read table {name}: it could take no whole snapshot",
            f'GRANT SELECT ON {name} TO "{role}", and USAGE on its schema',
        )
    if facts.hides_rows:
        yield Finding(
            "role",
            f"row level security of table {name} may hide rows from Debezium's role {role!r}: a whole snapshot "
            "would leave them out without a word, and they be swept",
            f'ALTER ROLE "{role}" BYPASSRLS, or CREATE POLICY kycache ON {name} FOR SELECT TO "{role}" '
            "USING (true); after a snapshot that was taken so, run `kycache rebuild --epoch`",
        )
