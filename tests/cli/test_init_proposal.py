"""What `kycache init` makes of a catalog: pure, from plain facts to the text that is written."""

import random
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest

from kycache.cli.doctor.key_rules import judge_filters, judge_same_user
from kycache.cli.doctor.source_facts import ColumnFacts, SourceFacts, TableFacts
from kycache.cli.doctor.table_rules import judge_table
from kycache.cli.init.candidates import candidates, why_no_root
from kycache.cli.init.definition_text import configuration_text, definition_text
from kycache.cli.init.facts import Catalog, ColumnShape, Link, Named, Spread, TableShape
from kycache.cli.init.names import guess_privacy, is_created, looks_like_owner, member, words
from kycache.cli.init.proposal import FILTER_VALUES_MAX, Proposal, propose
from kycache.model.definition import parse_view
from kycache.model.scalars.times import TimePrecision
from kycache.model.view import FILTERS_MAX, Kind, Privacy, View

INT, TEXT, UUID = ColumnFacts("int8"), ColumnFacts("text"), ColumnFacts("uuid")
BOOL, WHEN = ColumnFacts("bool"), ColumnFacts("timestamptz")


def table(name: str, primary: str = "id", **columns: ColumnFacts) -> TableShape:
    """A table whose primary key stands as `a` or `a,b`; empty: none."""
    return table_of(name, primary, columns)


def table_of(name: str, primary: str, columns: dict[str, ColumnFacts]) -> TableShape:
    """The same, for columns of any name."""
    key = tuple(filter(None, primary.split(",")))
    facts = TableFacts("d", columns, unique=(frozenset(key),) if key else ())
    shapes = tuple(ColumnShape(n, c.type, 12 if c.type == "numeric" else None) for n, c in columns.items())
    return TableShape("public", name, "r", shapes, key, 100, facts=facts)


def catalog(*tables: TableShape, links: tuple[str, ...] = ()) -> Catalog:
    """A database; each link stands as `child.column -> parent.column`."""
    made = []
    for link in links:
        (child, column), (parent, key) = (side.strip().split(".") for side in link.split("->"))
        made.append(Link(("public", child), (column,), ("public", parent), (key,)))
    return Catalog("app", {each.named: each for each in tables}, tuple(made))


def proposed(there: Catalog, spreads: Mapping[str, Spread] = MappingProxyType({})) -> tuple[Proposal, View]:
    """What is proposed, and the view that its text is read as."""
    made = propose(there, ("public", "users"), spreads)
    return made, parse_view(definition_text(made), "view.toml")


def reasons(made: Proposal) -> dict[str, str]:
    """Why each table was left out."""
    return {each.what: each.why for each in made.omitted}


USERS = table("users", id=INT, email=TEXT, active=BOOL, plan=TEXT, created_at=WHEN)


def test_children_come_by_foreign_keys_and_without_their_owner() -> None:
    posts = table("blog_posts", id=UUID, user_id=INT, title=TEXT, created_at=WHEN)
    _, view = proposed(catalog(USERS, posts, links=("blog_posts.user_id -> users.id",)))
    (child,) = view.children
    assert (child.name, child.output, child.key, child.owner) == ("blog_posts", "blogPosts", "id", "user_id")
    assert (child.order, child.descending) == ("created_at", True)
    assert [column.output for column in child.columns] == [("id",), ("title",), ("createdAt",)]
    assert (view.list_order, view.list_fields) == ("created_at", ("id", "email", "active", "createdAt"))


@pytest.mark.parametrize(
    ("child", "reason"),
    [
        (table("posts", primary="", user_id=INT), "it has no primary key"),
        (table("posts", primary="a,b,user_id", a=INT, b=INT, user_id=INT), "its primary key is (a, b, user_id)"),
        (table("posts", primary="d", d=ColumnFacts("date"), user_id=INT), "its primary key is (d)"),
        (table("posts", id=INT, user_id=replace(INT, nullable=True)), "user_id may be NULL"),
        (table("posts", id=INT, user_id=TEXT), "both need one type"),
        (table("posts", primary="token", token=TEXT, user_id=INT), "its key token looks like a secret"),
        (table("posts", primary="key", key=TEXT, user_id=INT), ""),
        (replace(table("posts", id=INT, user_id=INT), logged=False), "it is unlogged"),
        (replace(table("posts", id=INT, user_id=INT), kind="f"), "it is a foreign table"),
        (table("posts", id=INT, Id=INT, user_id=INT), "differ only by case"),
        (table("posts", id=INT, v=ColumnFacts("int4", generated="v"), user_id=INT), "virtual generated columns"),
    ],
)
def test_what_cannot_be_a_child_is_left_out_with_the_reason(child: TableShape, reason: str) -> None:
    made, view = proposed(catalog(USERS, child, links=("posts.user_id -> users.id",)))
    assert len(view.children) == (0 if reason else 1)
    assert reason in reasons(made).get("posts", "")
    assert all(f"#   posts: {why}" in definition_text(made) for why in reasons(made).values())


def test_a_row_is_told_apart_within_its_user() -> None:
    keyed = table("pets", primary="user_id,no", user_id=INT, no=INT)
    alone = table("settings", primary="user_id", user_id=INT, theme=TEXT)
    there = catalog(USERS, keyed, alone, links=("pets.user_id -> users.id", "settings.user_id -> users.id"))
    _, view = proposed(there)
    assert [(child.key, child.owner) for child in view.children] == [("no", "user_id"), ("user_id", "user_id")]


def test_of_several_foreign_keys_the_one_is_followed_that_is_called_as_the_root() -> None:
    follows = table("follows", id=INT, by_id=INT, target_user_id=INT)
    links = ("follows.by_id -> users.id", "follows.target_user_id -> users.id")
    made, view = proposed(catalog(USERS, follows, links=links))
    assert view.children[0].owner == "target_user_id"
    assert "it refers to users by by_id too" in definition_text(made)


def test_neighbours_out_of_reach_are_named() -> None:
    posts = table("posts", id=INT, user_id=INT)
    likes, plans = table("likes", id=INT, post_id=INT), table("plans", id=INT)
    users = table("users", id=INT, plan_id=INT, boss_id=INT)
    links = ("posts.user_id -> users.id", "likes.post_id -> posts.id", "users.plan_id -> plans.id")
    made, _ = proposed(catalog(users, posts, likes, plans, links=(*links, "users.boss_id -> users.id")))
    why = reasons(made)
    assert why["likes"].startswith("it refers to posts: a grandchild")
    assert why["plans"].startswith("users refers to it")
    assert why["users"].startswith("it refers to itself")


def test_composite_foreign_keys_and_those_to_another_column_are_no_owners() -> None:
    posts = table("posts", id=INT, mail=TEXT, a=INT)
    there = catalog(USERS, posts, links=("posts.mail -> users.email",))
    assert "not to the users' key id" in reasons(proposed(there)[0])["posts"]
    composite = Link(("public", "posts"), ("a", "mail"), ("public", "users"), ("id", "email"))
    assert "is composite" in reasons(proposed(replace(there, links=(composite,)))[0])["posts"]


def test_a_column_that_looks_like_an_owner_is_named() -> None:
    there = catalog(USERS, table("visits", id=INT, user_id=INT), table("logs", id=INT, user_id=TEXT))
    made, view = proposed(there)
    assert made.may_belong == ("visits.user_id",)
    assert view.children == ()
    said = Link(("public", "visits"), ("user_id",), ("public", "users"), ("id",), said=True)
    made, view = proposed(replace(there, links=(said,)))
    assert (made.may_belong, view.children[0].name) == ((), "visits")


def test_filters_are_columns_with_few_values_that_are_not_private() -> None:
    def filters(**spreads: Spread) -> list[str]:
        return [each.name for each in proposed(catalog(USERS), spreads)[1].filters]

    assert filters() == ["active"]
    assert filters(plan=Spread(3, 100), email=Spread(3, 100)) == ["active", "plan"]
    assert filters(plan=Spread(FILTER_VALUES_MAX + 1, 10_000)) == ["active"]
    assert filters(plan=Spread(50, 100)) == ["active"]  # twice each: chance
    assert filters(plan=Spread(1, 100)) == ["active"]


def test_more_filters_than_a_view_takes_are_named() -> None:
    flags = {f"flag{n}": BOOL for n in range(FILTERS_MAX + 2)}
    made, view = proposed(catalog(table_of("users", "id", {"id": INT, **flags})))
    assert len(view.filters) == FILTERS_MAX
    assert made.more_filters == ("flag4", "flag5")


def test_parameters_of_every_list_are_no_filters() -> None:
    _, view = proposed(catalog(table("users", id=INT, size=BOOL, page=BOOL)))
    assert view.filters == ()


def test_the_root_is_the_table_that_most_refer_to() -> None:
    orders, lines = table("orders", id=INT, user_id=INT), table("lines", id=INT, order_id=INT)
    links = ("orders.user_id -> users.id", "lines.user_id -> users.id", "lines.order_id -> orders.id")
    assert [c.table[1] for c in candidates(catalog(lines, orders, USERS, links=links))] == [
        "users",
        "orders",
        "lines",
    ]
    assert candidates(catalog(table("t", primary="a,b", a=INT, b=INT))) == []


@pytest.mark.parametrize(
    ("root", "reason"),
    [
        (table("u", primary="a,b", a=INT, b=INT), "its primary key is (a, b)"),
        (table("u", primary="", a=INT), "it has no primary key"),
        (
            table("u", primary="a", a=replace(INT, nullable=True)),
            'ALTER TABLE "public"."u" ALTER COLUMN "a" SET NOT NULL',
        ),
        (table("u", primary="c", c=ColumnFacts("citext"), n=INT), "compared byte by byte"),
        (table("u", primary="c", c=replace(TEXT, deterministic=False), n=INT), "compared byte by byte"),
        (table("u", primary="c", c=TEXT), "to order the list by"),
        (replace(table("u", id=INT), partition_of="users"), "name its table, users"),
        (replace(table("u", id=INT), kind="v"), "it is a view"),
    ],
)
def test_why_a_table_is_no_root(root: TableShape, reason: str) -> None:
    assert reason in why_no_root(root)


def test_a_key_whose_name_no_list_of_kafka_connect_carries() -> None:
    facts = TableFacts("d", {"a,b": INT}, unique=(frozenset({"a,b"}),))
    shape = TableShape("public", "u", "r", (ColumnShape("a,b", "bigint"),), ("a,b",), facts=facts)
    assert "its primary key is (a,b)" in why_no_root(shape)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("created_at", ["created", "at"]),
        ("emailVerified", ["email", "verified"]),
        ("HTTPStatus2", ["http", "status", "2"]),
        ("User Id", ["user", "id"]),
        ("naïve_größe", ["naïve", "größe"]),
        ("$$", []),
    ],
)
def test_words(name: str, parts: list[str]) -> None:
    assert words(name) == parts


def test_members_are_camel_case_and_each_another() -> None:
    assert member("address_line_1") == "addressLine1"
    assert member("UserID") == "userId"
    assert member("a_b", {"aB"}) == "aB2"
    assert member("a_1", {"a1"}) == "a1_2"
    assert member("$") == "column"


@pytest.mark.parametrize(
    ("name", "kind", "privacy"),
    [
        ("encrypted_password", Kind.TEXT, Privacy.SECRET),
        ("reset_password_sent_at", Kind.TIMESTAMP, Privacy.OPEN),
        ("otp_required_for_login", Kind.BOOL, Privacy.OPEN),
        ("backupCodes", Kind.TEXT, Privacy.SECRET),
        ("private_key", Kind.TEXT, Privacy.SECRET),
        ("public_key", Kind.TEXT, Privacy.OPEN),
        ("pin", Kind.INT, Privacy.SECRET),
        ("firstname", Kind.TEXT, Privacy.PII),
        ("email", Kind.TEXT, Privacy.PII),
        ("email_verified", Kind.BOOL, Privacy.OPEN),
        ("birth_date", Kind.DATE, Privacy.PII),
        ("anything", Kind.JSON, Privacy.PII),
        ("status", Kind.ENUM, Privacy.OPEN),
    ],
)
def test_privacy_is_guessed_by_names(name: str, kind: Kind, privacy: Privacy) -> None:
    assert guess_privacy(name, kind)[0] is privacy


def test_a_plain_name_in_a_table_of_secrets() -> None:
    assert guess_privacy("key", Kind.TEXT, "authtoken_token")[0] is Privacy.SECRET
    assert guess_privacy("id", Kind.TEXT, "sessions")[0] is Privacy.SECRET
    assert guess_privacy("id", Kind.INT, "sessions")[0] is Privacy.OPEN
    assert guess_privacy("provider", Kind.TEXT, "tokens")[0] is Privacy.OPEN


def test_when_a_row_came_to_be() -> None:
    assert all(map(is_created, ("created_at", "createdDate", "date_joined", "creation_ts", "inserted_at")))
    assert not any(map(is_created, ("creator_id", "created_by_application_id", "sign_in_count", "updated_at")))


def test_what_looks_like_an_owner() -> None:
    assert looks_like_owner("user_id", "users", "id")
    assert looks_like_owner("userId", "auth_user", "id")
    assert looks_like_owner("user", "users", "name")
    assert not looks_like_owner("id", "users", "id")
    assert not looks_like_owner("role_id", "users", "id")


def test_the_configuration_names_the_schema_where_it_is_no_usual_one() -> None:
    assert "schema" not in configuration_text("view.toml", "public", "dbname=app", has_password=False)
    assert 'schema = "auth"' in configuration_text("view.toml", "auth", "dbname=app", has_password=True)


NAMES = (
    "id",
    "user_id",
    "User Id",
    'a"b',
    "line\nend",
    "\x7f",
    "#",
    "=",
    "[x]",
    "émile",
    "a.b",
    "$",
    "$$",
    "page",
)
TYPES = (
    *(INT, TEXT, UUID, BOOL, WHEN, ColumnFacts("time"), ColumnFacts("float4"), ColumnFacts("bytea")),
    *(ColumnFacts("int2"), ColumnFacts("varchar"), ColumnFacts("date")),
    *(ColumnFacts("citext"), ColumnFacts("bpchar", length=8), ColumnFacts("jsonb"), ColumnFacts("tsvector")),
    *(ColumnFacts("numeric"), ColumnFacts("numeric", scale=2), ColumnFacts("numeric", scale=-2)),
    *(
        ColumnFacts("timestamp"),
        ColumnFacts("timestamp", precision=3),
        ColumnFacts("interval"),
        ColumnFacts("inet"),
    ),
    *(ColumnFacts("mood", ("a, b", '"', "", "\\")), ColumnFacts("many", tuple(map(str, range(300))))),
    *(ColumnFacts("int4range", plain=False), ColumnFacts("int4", generated="s"), ColumnFacts("money")),
)


def random_table(dice: random.Random, name: str, rooted: bool) -> TableShape:
    columns = {n: replace(dice.choice(TYPES), nullable=dice.random() < 0.3) for n in dice.sample(NAMES, 6)}
    if rooted:
        columns = {"key": dice.choice((INT, TEXT, UUID, ColumnFacts("bpchar", length=4))), "n": INT, **columns}
    primary = "key" if rooted else ",".join(dice.sample(list(columns), dice.choice((0, 1, 1, 2))))
    return table_of(name, primary, columns)


@pytest.mark.parametrize("seed", range(200))
def test_what_is_written_is_read_and_doctor_has_nothing_against_it(seed: int) -> None:
    dice = random.Random(seed)
    root = random_table(dice, 'us"ers', rooted=True)
    children = [random_table(dice, f"c{n}\n#", rooted=False) for n in range(4)]
    links = [
        Link(child.named, (column,), root.named, ("key",))
        for child in children
        for column in dice.sample(list(child.known), 2)
    ]
    there = Catalog("app\n", {t.named: t for t in (root, *children)}, tuple(links))
    spreads = {name: Spread(3, 100) for name in root.known}
    made = propose(there, root.named, spreads)
    view = parse_view(definition_text(made), "view.toml")
    assert len(view.children) + len(made.omitted) == len(children)
    source = _source(there)
    found = [
        *(f for t in view.tables for f in judge_table(t, source, "public", "", "", TimePrecision.MICROSECONDS)),
        *judge_same_user(source, view, "public"),
        *judge_filters(source, view, "public"),
    ]
    padded = root.known["key"].type == "bpchar"
    wrong = [f for f in found if f.check in ("types", "tables", "filters") or (f.check == "keys" and not padded)]
    assert wrong == []


def _source(there: Catalog) -> SourceFacts:
    tables: dict[Named, TableFacts] = {n: t.facts for n, t in there.tables.items() if t.facts is not None}
    return SourceFacts(
        "logical",
        in_recovery=False,
        tables={name: facts for (_, name), facts in tables.items()},
        publication=None,
        heartbeat_rows=None,
        slot=None,
    )


def test_ids_of_64_bits_print_as_texts() -> None:
    users = table("users", id=INT, team_id=INT, visits=INT, small_id=ColumnFacts("int4"))
    _, view = proposed(
        catalog(users, table("posts", primary="no", no=INT, user_id=INT), links=("posts.user_id -> users.id",))
    )
    assert {c.name: c.type.as_text for c in view.root.columns} == {
        "id": True,
        "team_id": True,
        "visits": False,
        "small_id": False,
    }
    assert view.children[0].key_type.as_text


def test_a_padded_key_is_taken_with_a_remark() -> None:
    made, _ = proposed(catalog(table("users", primary="c", c=ColumnFacts("bpchar", length=8), n=INT)))
    assert "c is padded with blanks" in made.root.remarks[0]
