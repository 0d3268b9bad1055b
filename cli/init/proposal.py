"""A view for a root table, as plain data: what is declared, why, and what is left out and why. Pure.

`definition_text.py` writes it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from kycache.model.definition import FILTER_KINDS, LIST_PARAMETERS
from kycache.model.view import FILTERS_MAX, Kind, Privacy

from .candidates import (
    child_key,
    choices,
    created_order,
    list_order,
    may_belong,
    owner_problem,
    root_key,
    secret_key,
    why_not_a_table,
)
from .columns import AS_TEXT, Choice, loose
from .facts import Catalog, Link, Named, Spread, TableShape
from .names import is_created, member, word_set, words

FILTER_VALUES_MAX = 50
"""More values are no menu to choose from: a text column with more is searched rather than filtered by."""

FILTER_ROWS_PER_VALUE = 5
"""Fewer rows a value look like values that happen to repeat."""

LIST_NAMES_MAX = 3
"""Names and addresses that an entry of the list shows: enough to know a user by."""

NAMED_MAX = 20
"""Tables named in one comment: whoever reads a definition reads that many."""

LARGE_ROWS_PER_USER = 1_000
"""A profile is stored and served whole, so this many rows of one child make it slow."""

_FILTER_WORDS = word_set(
    "status state type role kind plan tier level country region locale language lang active enabled suspended "
    "blocked deleted disabled approved verified"
)
_KNOWN_BY = ("username", "login", "name", "display", "first", "last", "full", "nick", "email")


@dataclass(frozen=True, slots=True)
class Member:
    """A column with the member that it becomes."""

    choice: Choice
    output: str
    privacy: Privacy


@dataclass(frozen=True, slots=True)
class Omitted:
    """What a view cannot declare, and why."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Declared:
    """A table as it is to be written. `owner`, `output` and `order` are a child's."""

    name: str
    key: str
    members: tuple[Member, ...]
    omitted: tuple[Omitted, ...]
    owner: str = ""
    output: str = ""
    order: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """A whole view, ready to be written."""

    database: str
    schema: str
    root: Declared
    children: tuple[Declared, ...]
    omitted: tuple[Omitted, ...]
    order: str
    order_why: str
    fields: tuple[str, ...]
    filters: tuple[tuple[str, str], ...]
    """Members, each with the reason."""
    more_filters: tuple[str, ...]
    """Members that would do as well."""
    may_belong: tuple[str, ...]
    """`table.column`: without a foreign key, but by its name it holds the users' key."""


def propose(catalog: Catalog, named: Named, spreads: Mapping[str, Spread]) -> Proposal:
    """The view of a root that `why_no_root` has nothing against.

    Args:
        spreads: how many values the root's columns have, of those that were looked at.
    """
    table = catalog.tables[named]
    key, order = root_key(table), list_order(table)
    assert key is not None
    assert order is not None
    members, omitted = _members(table, key, order)
    children, left_out = _children(catalog, table, key, {m.output for m in members})
    filters, more = _filters(table, members, key, spreads)
    outputs = {m.choice.name: m.output for m in members}
    return Proposal(
        database=catalog.database,
        schema=table.schema,
        root=Declared(table.name, key, members, omitted, remarks=_remarks(table, key)),
        children=children,
        omitted=left_out,
        order=order,
        order_why=_order_why(order, key),
        fields=_fields(members, outputs[key], outputs[order], [name for name, _ in filters]),
        filters=filters,
        more_filters=more,
        may_belong=tuple(f"{other}.{column}" for (_, other), column in may_belong(catalog, table, key)),
    )


def _members(table: TableShape, *kept: str, without: str = "") -> tuple[tuple[Member, ...], tuple[Omitted, ...]]:
    """The columns that can be declared, and the others.

    Args:
        kept: columns that must be stored, however secret their names look; the key comes first.
        without: a child's owner, which every row of a profile would repeat.
    """
    members: list[Member] = []
    omitted = []
    for name, made in choices(table):
        if isinstance(made, str):
            omitted.append(Omitted(name, made))
        elif name != without or name in kept:
            if name == kept[0] and made.type == "bigint":
                made = replace(made, type=made.type + AS_TEXT)
            privacy = Privacy.PII if name in kept and made.privacy is Privacy.SECRET else made.privacy
            members.append(Member(made, member(name, {m.output for m in members}), privacy))
    return tuple(members), tuple(omitted)


def _remarks(table: TableShape, key: str) -> tuple[str, ...]:
    assert table.facts is not None
    remarks = []
    if table.known[key].type == "bpchar":
        remarks.append(f"{key} is padded with blanks, and clients ask for users so; `kycache doctor` warns of it")
    if table.facts.partitioned:
        remarks.append(
            "it is partitioned: run `kycache connector --sql` again after each partition that is made later"
        )
    if table.facts.hides_rows:
        remarks.append("it has row level security: Debezium's role must see all rows (README, step 2)")
    return tuple(remarks)


def _children(
    catalog: Catalog, root: TableShape, key: str, taken: set[str]
) -> tuple[tuple[Declared, ...], tuple[Omitted, ...]]:
    """Tables that refer to the root's key, and those of which a profile cannot have rows."""
    links: dict[Named, list[Link]] = {}
    for link in catalog.links:
        if link.target == root.named and link.table != root.named:
            links.setdefault(link.table, []).append(link)
    children, omitted = [], []
    for named, refers in links.items():
        made = _child(catalog, root, key, refers, taken)
        if isinstance(made, str):
            omitted.append(Omitted(_shown(named, root.schema), made))
        else:
            taken.add(made.output)
            children.append(made)
    return tuple(children), (*omitted, *_unreached(catalog, root, set(links)))


def _child(catalog: Catalog, root: TableShape, key: str, links: list[Link], taken: set[str]) -> Declared | str:
    """One child, or why it is none."""
    table = catalog.tables[links[0].table]
    if table.schema != root.schema:
        return f"it is in another schema than {root.name}: a view reads one"
    if why := why_not_a_table(table):
        return why
    problems = [owner_problem(catalog, link, root, key) for link in links]
    fit = [link for link, problem in zip(links, problems, strict=True) if not problem]
    if not fit:
        return "; ".join(dict.fromkeys(problems))
    # Of several the one that is called as the root is: `user_id` rather than `invited_by`.
    named = set(words(root.name)[-1:]) | {w.removesuffix("s") for w in words(root.name)[-1:]}
    link = min(fit, key=lambda link: (not link.said, len(named - set(words(link.columns[0]))), links.index(link)))
    owner = link.columns[0]
    own = child_key(table, owner)
    if own is None:
        primary = f"its primary key is ({', '.join(table.primary)})" if table.primary else "it has no primary key"
        return (
            f"{primary}: rows of one user are told apart by one column that is a uuid, a text or a whole number, "
            f"unique by itself or with {owner}"
        )
    if own != owner and (why := secret_key(table, own)):
        return why
    order = created_order(table)
    members, left_out = _members(table, own, order, without=owner)
    remarks = [f"rows of {root.name} by {owner}, as {'--child' if link.said else 'its foreign key'} says"]
    if others := [other.columns[0] for other in links if other is not link and len(other.columns) == 1]:
        remarks.append(f"it refers to {root.name} by {', '.join(others)} too: a view follows one column a table")
    if table.rows and root.rows and table.rows > LARGE_ROWS_PER_USER * root.rows:
        remarks.append(
            f"some {table.rows // root.rows} rows a user: a profile is served whole, so think of leaving it out"
        )
    return Declared(
        table.name,
        own,
        members,
        left_out,
        owner,
        member(table.name, taken),
        order,
        (*remarks, *_remarks(table, own)),
    )


def _unreached(catalog: Catalog, root: TableShape, children: set[Named]) -> Iterator[Omitted]:
    """Neighbours that no profile has rows of: grandchildren, and what the root itself refers to."""
    own = [link for link in catalog.links if link.table == root.named]
    for target in dict.fromkeys(link.target for link in own):
        if target == root.named:
            yield Omitted(_shown(target, root.schema), "it refers to itself: a profile holds no other users")
        elif target not in children:
            yield Omitted(
                _shown(target, root.schema),
                f"{root.name} refers to it: a profile holds only tables whose rows name their user",
            )
    grand = {
        link.table: link.target
        for link in reversed(catalog.links)
        if link.target in children and link.table not in children | {root.named}
    }
    for named, parent in grand.items():
        yield Omitted(
            _shown(named, root.schema),
            f"it refers to {parent[1]}: a grandchild, whose rows do not name their user",
        )


def _shown(named: Named, schema: str) -> str:
    return named[1] if named[0] == schema else ".".join(named)


def _order_why(order: str, key: str) -> str:
    if is_created(order):
        return "by its name it says when a user came to be"
    return "no column says when a user came to be, so by the key" if order == key else "no better column was found"


def _fields(members: tuple[Member, ...], key: str, order: str, filters: list[str]) -> tuple[str, ...]:
    """What an entry of the list shows: the key, what users are known by, the filters, when they came."""
    stored = [m for m in members if m.privacy is not Privacy.SECRET]
    known = [
        (min(_KNOWN_BY.index(word) for word in parts), m.output)
        for m in stored
        if m.choice.kind is Kind.TEXT
        and "file" not in words(m.choice.name)
        and (parts := [w for w in words(m.choice.name) if w in _KNOWN_BY])
    ]
    names = [output for _, output in sorted(known, key=lambda found: found[0])[:LIST_NAMES_MAX]]
    return tuple(dict.fromkeys([key, *names, *filters, order]))


def filter_candidates(table: TableShape) -> list[str]:
    """The columns whose values are worth counting."""
    return [
        name
        for name, made in choices(table)
        if not isinstance(made, str) and made.kind in FILTER_KINDS and (name,) != table.primary
    ]


def _filters(
    table: TableShape, members: tuple[Member, ...], key: str, spreads: Mapping[str, Spread]
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """The columns with few values, the likeliest first, each with the reason; then what would do as well."""
    found = []
    for place, each in enumerate(members):
        name, kind = each.choice.name, each.choice.kind
        # What stands in a URL stands in the logs of proxies.
        if each.privacy is not Privacy.OPEN or name == key or kind not in FILTER_KINDS:
            continue
        why = _few_values(kind, each, spreads.get(name))
        if not why or each.output in LIST_PARAMETERS or loose(table.known[name]):
            continue
        unlikely = _FILTER_WORDS.isdisjoint(words(name))
        single = name in spreads and spreads[name].distinct < 2
        rank = (single, unlikely, kind not in (Kind.ENUM, Kind.BOOL), place)
        found.append((rank, (each.output, why)))
    ordered = [entry for _, entry in sorted(found)]
    return tuple(ordered[:FILTERS_MAX]), tuple(name for name, _ in ordered[FILTERS_MAX:])


def _few_values(kind: Kind, each: Member, spread: Spread | None) -> str:
    """Why a list may be filtered by it; empty where it has too many values, or nobody knows."""
    if kind is Kind.BOOL:
        return "true or false"
    if kind is Kind.ENUM:
        return f"{len(each.choice.labels)} labels"
    if spread is None or not 2 <= spread.distinct <= FILTER_VALUES_MAX:
        return ""
    if spread.distinct * FILTER_ROWS_PER_VALUE > spread.rows:
        return ""
    return f"{spread.distinct} values in some {spread.rows} rows"
