"""Which tables may be the root of a view, which may be its children, and by which columns. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from kycache.model.definition import KEY_KINDS, ORDERED_KINDS
from kycache.model.sql.text import qualified, quoted
from kycache.model.view import HEARTBEAT_TABLE, Kind, Privacy

from .columns import Choice, choose, family, loose
from .facts import Catalog, Link, Named, TableShape
from .names import is_created, looks_like_owner, word_set, words

NO_SEPARATORS = frozenset(",:")
"""Kafka Connect's lists of renames are separated by these."""

_USER_WORDS = word_set(
    "user users account accounts customer customers member members person people client clients profile "
    "profiles contact contacts patient patients employee employees"
)

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A table that may be the root."""

    table: Named
    key: str
    declared: str
    """The key's type at the source."""
    referenced_by: int
    """Tables that refer to the key."""
    rows: int | None
    user_like: bool
    """Its name says users, accounts, customers or the like."""


def candidates(catalog: Catalog) -> list[Candidate]:
    """Every table that may be the root, the likeliest first: most referenced, then by name, then by size."""
    found = []
    for table in catalog.tables.values():
        key = None if why_not_a_table(table) else root_key(table)
        if key is None or table.name == HEARTBEAT_TABLE or list_order(table) is None:
            continue
        refer = {link.table for link in catalog.links if link.target == table.named and link.table != table.named}
        declared = next(c.declared for c in table.columns if c.name == key)
        user_like = not _USER_WORDS.isdisjoint(words(table.name)[-1:])
        found.append(Candidate(table.named, key, declared, len(refer), table.rows, user_like))
    return sorted(found, key=lambda c: (-c.referenced_by, not c.user_like, -(c.rows or 0), c.table))


def why_not_a_table(table: TableShape) -> str:
    """Why no view can read it; empty where one can."""
    if table.kind in _KINDS:
        return f"it is {_KINDS[table.kind]}: no change of it comes"
    if table.partition_of:
        return f"it is a partition: name its table, {table.partition_of}"
    if not table.logged:
        return "it is unlogged: PostgreSQL publishes no change of it"
    assert table.facts is not None
    if table.facts.heirs:
        return f"tables inherit from it ({', '.join(table.facts.heirs)}): no change of theirs comes"
    folded = [name.lower() for name in table.known]
    if len(set(folded)) < len(folded):
        return "it has columns that differ only by case: Debezium refuses the table"
    if virtual := sorted(name for name, column in table.known.items() if column.generated == "v"):
        return (
            f"it has virtual generated columns ({', '.join(virtual)}): under REPLICA IDENTITY FULL PostgreSQL "
            "refuses every UPDATE and DELETE"
        )
    return ""


def why_no_root(table: TableShape) -> str:
    """Why it cannot be the root; empty where it can."""
    if why := why_not_a_table(table):
        return why
    if root_key(table) is None:
        if nullable := next(_root_keys(table), ""):
            return (
                f"its column {nullable} is unique, but may be NULL: ALTER TABLE {qualified(*table.named)} "
                f"ALTER COLUMN {quoted(nullable)} SET NOT NULL"
            )
        primary = f"its primary key is ({', '.join(table.primary)})" if table.primary else "it has no primary key"
        return (
            f"{primary}: users need a key of one column, NOT NULL and unique, that is a uuid, a text or a whole "
            "number, compared byte by byte"
        )
    if list_order(table) is None:
        return "it has no whole number, date or timestamp to order the list by"
    return ""


def choices(table: TableShape) -> Iterator[tuple[str, Choice | str]]:
    """Each column in the table's order, as a view declares it, or why it cannot."""
    for shape in table.columns:
        yield shape.name, choose(table.name, shape, table.known[shape.name])


def _declarable(table: TableShape) -> dict[str, Choice]:
    return {name: made for name, made in choices(table) if not isinstance(made, str)}


def root_key(table: TableShape) -> str | None:
    """The column that tells users apart: the primary key, else another that is unique and never NULL."""
    return next((name for name in _root_keys(table) if not table.known[name].nullable), None)


def _root_keys(table: TableShape) -> Iterator[str]:
    """The columns that would tell users apart if they were never NULL."""
    columns = _declarable(table)
    for (name,) in _unique(table, 1):
        facts = table.known[name]
        fits = name in columns and columns[name].kind in KEY_KINDS
        exact = not loose(facts) or (facts.type == "bpchar" and facts.length is not None and facts.deterministic)
        if fits and exact and _carried(name):
            yield name


def child_key(table: TableShape, owner: str) -> str | None:
    """The column that tells the rows of one user apart; it may be the owner itself."""
    columns = _declarable(table)
    for key in (*_unique(table, 1), *_unique(table, 2)):
        rest = [name for name in key if name != owner] or [owner]
        (name, *more) = rest
        if not more and name in columns and columns[name].kind in KEY_KINDS and not table.known[name].nullable:
            return name
    return None


def secret_key(table: TableShape, key: str) -> str:
    """Why a child's key should not be served; empty where it may."""
    if _declarable(table)[key].privacy is not Privacy.SECRET:
        return ""
    return f"its key {key} looks like a secret by its name, and a key is stored and served"


def _unique(table: TableShape, width: int) -> list[tuple[str, ...]]:
    """What identifies a row by so many columns: the primary key, then unique indexes, in an order that stays."""
    assert table.facts is not None
    place = {column.name: number for number, column in enumerate(table.columns)}
    others = (tuple(sorted(key, key=place.__getitem__)) for key in table.facts.unique)
    rest = sorted(others, key=lambda key: [place[name] for name in key])
    return [key for key in dict.fromkeys([table.primary, *rest]) if len(key) == width]


def _carried(column: str) -> bool:
    return NO_SEPARATORS.isdisjoint(column) and column == column.strip()


def list_order(table: TableShape) -> str | None:
    """The column that orders rows by when they came to be; None where none can order anything."""
    ordered = [c for c in _declarable(table).values() if c.kind in ORDERED_KINDS]
    if not ordered:
        return None
    place = {c.name: number for number, c in enumerate(ordered)}

    def rank(column: Choice) -> tuple[bool, bool, bool, bool, int]:
        created = is_created(column.name)
        # An id counts rows as they came; another number may be anything, as a date may be one of birth.
        counted = column.kind is Kind.INT and (column.name,) == table.primary
        number = column.kind is Kind.INT
        return (not created, not counted, column.nullable, number, place[column.name])

    return min(ordered, key=rank).name


def created_order(table: TableShape) -> str:
    """The column that says when a child's row came to be; empty where none does."""
    column = list_order(table)
    return column if column is not None and is_created(column) else ""


def owner_problem(catalog: Catalog, link: Link, root: TableShape, key: str) -> str:
    """Why a foreign key cannot say whose a row is; empty where it can."""
    table = catalog.tables[link.table]
    refers = f"({', '.join(link.columns)})"
    if len(link.columns) != 1:
        return f"its foreign key {refers} is composite: one column must hold the user's key"
    if link.target_columns != (key,):
        return f"its foreign key {refers} refers to {', '.join(link.target_columns)}, not to the users' key {key}"
    owner = link.columns[0]
    facts = table.known[owner]
    if family(facts) != family(root.known[key]) or loose(facts) != loose(root.known[key]):
        return f"{owner} is a {facts.type}, the users' key a {root.known[key].type}: both need one type"
    if facts.generated:
        return f"{owner} is generated"
    if not _carried(owner):
        return f"the name {owner!r} cannot stand in Kafka Connect's list of renames"
    if facts.nullable:
        return (
            f"{owner} may be NULL: a row without a user puts its whole shard in doubt; ALTER TABLE "
            f"{qualified(*table.named)} ALTER COLUMN {quoted(owner)} SET NOT NULL, and run `kycache init` again"
        )
    return ""


def may_belong(catalog: Catalog, root: TableShape, key: str) -> Iterator[tuple[Named, str]]:
    """Tables without a foreign key to the root that have a column which looks like one, and that column."""
    linked = {link.table for link in catalog.links if link.target == root.named}
    for table in catalog.tables.values():
        if table.schema != root.schema or table.named in linked | {root.named} or table.name == HEARTBEAT_TABLE:
            continue
        if why_not_a_table(table):
            continue
        for column in table.columns:
            same = family(table.known[column.name]) == family(root.known[key])
            if same and looks_like_owner(column.name, root.name, key):
                yield table.named, column.name
                break
