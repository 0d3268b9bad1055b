"""What `kycache doctor` concludes of the columns that rows are told by, and lists are filtered by. Pure."""

from collections.abc import Iterator

from kycache.model.view import Kind, Table, View

from .source_facts import ColumnFacts, SourceFacts, TableFacts
from .topic_rules import WARNING, Finding

_INTEGERS = frozenset({"int2", "int4", "int8"})
_VARYING = frozenset({"text", "varchar"})


def judge_keys(name: str, table: Table, facts: TableFacts) -> Iterator[Finding]:
    """What a row of one table is told by: its user, and its key among the user's rows."""
    if {table.key, table.owner} <= facts.columns.keys() and not any(
        unique <= {table.key, table.owner} for unique in facts.unique
    ):
        # Of a table that is partitioned by another column PostgreSQL can make no such index.
        unique = "see that who writes keeps it so" if facts.partitioned else "add a unique index"
        yield Finding(
            "keys",
            f"no index keeps {table.key} of table {name} unique: of a user's rows that share it one is kept",
            f"mend the key in `[view] file`, or {unique}",
            WARNING,
        )
    owner = facts.columns.get(table.owner)
    if owner is not None and owner.nullable:
        yield Finding(
            "keys",
            f"column {table.owner} of table {name} may be NULL: a row without a user goes to quarantine and puts "
            "its whole shard in doubt, the delete of one every shard",
            f"ALTER TABLE {name} ALTER COLUMN {table.owner} SET NOT NULL",
            WARNING,
        )


def judge_same_user(source: SourceFacts, view: View, schema: str) -> Iterator[Finding]:
    """Whether PostgreSQL and kycache agree on which ids are one user's: here, those that print alike."""
    users, of_users = f"{schema}.{view.root.name}", None
    for table in view.tables:
        facts = source.tables.get(table.name)
        ids = None if facts is None else facts.columns.get(table.owner)
        if ids is None or not ids.plain:
            continue
        name = f"{schema}.{table.name}"
        if loose := _loose(ids):
            yield Finding(
                "keys",
                f"column {table.owner} of table {name} is {loose}: what PostgreSQL takes for one user's id may be "
                "two here, where ids are compared byte by byte, and in two partitions",
                f'ALTER TABLE {name} ALTER COLUMN {table.owner} TYPE text COLLATE "C", and what refers to it',
            )
        if not table.is_child:
            of_users = ids
            if ids.type == "bpchar" and ids.length is not None:
                yield Finding(
                    "keys",
                    f"column {table.owner} of table {name} is {_shown(ids)}: ids are padded with blanks to "
                    f"{ids.length} characters, and clients ask for them so",
                    "make it a varchar or text where clients do not know the blanks",
                    WARNING,
                )
        elif of_users is not None and not _loose(of_users) and not loose and _class(ids) != _class(of_users):
            yield Finding(
                "keys",
                f"column {table.owner} of table {name} is {_shown(ids)}, and the users' key {view.root.key} of "
                f"table {users} {_shown(of_users)}: a row is a user's where both print alike, byte by byte; any "
                "other (a uuid in capitals, 007, blanks at the end) is nobody's",
                f"give both columns one type: ALTER TABLE {name} ALTER COLUMN {table.owner} TYPE "
                f"{_shown(of_users)}",
            )


def judge_filters(source: SourceFacts, view: View, schema: str) -> Iterator[Finding]:
    """Whether a list that is filtered has the rows that PostgreSQL would find by the same text."""
    facts = source.tables.get(view.root.name)
    for declared in view.filters:
        column = None if facts is None or declared.column is None else facts.columns.get(declared.column)
        if (
            column is None
            or view.root.columns[view.root.index_of(declared.column or "")].type.kind is not Kind.TEXT
        ):
            continue
        how = _loose(column) or (f"{_shown(column)}, padded with blanks" if column.type == "bpchar" else "")
        if how:
            yield Finding(
                "filters",
                f"filter {declared.name!r} is by column {declared.column} of table {schema}.{view.root.name}, "
                f"{how}: a list finds only what is written byte by byte as it was asked for",
                "ask as the column is written, or leave the filter out of `[view] file`",
                WARNING,
            )


def _loose(column: ColumnFacts) -> str:
    """How a column compares more loosely than by what it prints; empty where it does not."""
    if column.type == "citext":
        return "a citext, compared without regard to case"
    if not column.deterministic:
        return f"a {column.type} of a collation that is not deterministic"
    if column.type == "bpchar" and column.length is None:
        return "a bpchar without a length, compared without the blanks at its end"
    return ""


def _class(column: ColumnFacts) -> str:
    """Columns of one class have one text for each value, and PostgreSQL's equality is that of the texts."""
    if column.type in _INTEGERS:
        return "integer"
    if column.type in _VARYING:
        return "text"
    return _shown(column)


def _shown(column: ColumnFacts) -> str:
    if column.type == "bpchar" and column.length is not None:
        return f"char({column.length})"
    return column.type
