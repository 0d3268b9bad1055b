"""The view definition: the packaged one, and every mistake with its line."""

from importlib.resources import files

import pytest

from kycache.model.definition import default_view, parse_view
from kycache.model.errors import ConfigurationError
from kycache.model.view import Kind
from support.tables.foreign import definition_of

TEXT = (files("kycache.model") / "kyc.toml").read_text(encoding="utf-8")


def test_packaged_view_is_that_of_the_contract() -> None:
    view = default_view()
    assert view.root.name == "users"
    assert [t.output for t in view.children] == ["kyc", "accounts"]
    assert view.list_fields == ("userId", "firstName", "lastName", "kycStatus")
    assert [f.name for f in view.filters] == ["kycStatus", "region"]
    assert view.filters[0].labels == ("PENDING", "VERIFIED", "REJECTED", "EXPIRED", "NONE")
    assert view.root.key_type.kind is Kind.UUID


def test_the_hash_of_the_default_view_stays() -> None:
    """Another one would refuse every data directory and snapshot there is: a member added to the parsed form does
    that as surely as a column."""
    assert default_view().hash == "54a42aa8fe732039"


OLD_FORMS = """
name = "old"
[root]
table = "people"
key = "id"
[root.columns]
id = { name = "id", type = "int" }
code = { name = "code", type = "text", privacy = "pii" }
token = { name = "token", type = "uuid", privacy = "secret" }
active = { name = "flags.active", type = "bool" }
adult = { name = "adult", type = "bool" }
born = { name = "born", type = "date" }
seen = { name = "seen", type = "timestamp(3)" }
left = { name = "left", type = "timestamptz(2)" }
made = { name = "made", type = "timestamp" }
worth = { name = "worth", type = "numeric( 18 , 4 )" }
free = { name = "free", type = "numeric" }
whole = { name = "whole", type = "numeric(9,0)" }
extra = { name = "extra", type = "json" }
level = { name = "level", type = "enum( LOW , high,Mid-Way )" }
[[children]]
table = "notes"
name = "notes"
key = "code"
owner = "person"
order = "at"
[children.columns]
code = { name = "code", type = "text" }
at = { name = "at", type = "timestamptz" }
kind = { name = "kind", type = "enum(A)" }
[[children]]
table = "cards"
name = "cards"
key = "id"
owner = "person"
[children.columns]
id = { name = "id", type = "uuid" }
person = { name = "person", type = "int" }
[status]
name = "standing"
child = "notes"
column = "kind"
none = "NOTHING"
[list]
order = "made"
fields = ["id", "standing"]
filters = ["standing", "adult", "level", "code"]
"""


def test_the_hash_of_every_form_of_before_stays() -> None:
    assert parse_view(OLD_FORMS, "x").hash == "eac1453dfb955af6"


def test_labels_as_a_list_are_the_same_labels() -> None:
    """So that a definition may be rewritten, and a label may hold whatever PostgreSQL allows."""
    listed = OLD_FORMS.replace(
        'type = "enum( LOW , high,Mid-Way )"', 'type = "enum", labels = ["LOW", "high", "Mid-Way"]'
    )
    assert listed != OLD_FORMS
    assert parse_view(listed, "x").hash == parse_view(OLD_FORMS, "x").hash
    odd = parse_view(listed.replace('"high"', '"hi,gh", "", " "'), "x").root.columns[-1].type
    assert odd.labels == ("LOW", "hi,gh", "", " ", "Mid-Way")
    assert str(odd) == "enum('LOW', 'hi,gh', '', ' ', 'Mid-Way')"


def test_hash_covers_meaning_not_text() -> None:
    view = default_view()
    assert parse_view("# a comment\n" + TEXT, "x").hash == view.hash
    other = TEXT.replace('name = "phone", type = "text"', 'name = "telephone", type = "text"')
    assert parse_view(other.replace('"phone"', '"telephone"'), "x").hash != view.hash


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("bigint", "int"),
        ("BIGINT", "int"),
        ("smallint", "int"),
        ("int4", "int"),
        ("bigserial", "int"),
        ("varchar(20)", "text"),
        ("character varying", "text"),
        ("Character  Varying ( 20 )", "text"),
        ("char(2)", "text"),
        ("bpchar", "text"),
        ("inet", "text"),
        ("boolean", "bool"),
        ("jsonb", "json"),
        ("decimal(18, 4)", "numeric(18,4)"),
        ("numeric(18)", "numeric(18,0)"),
        ("timestamp without time zone", "timestamp"),
        ("timestamp(3) without time zone", "timestamp(3)"),
        ("timestamp with time zone", "timestamptz"),
        ("timestamp (6) with time zone", "timestamptz(6)"),
        ("time(0) without time zone", "time(0)"),
        ("real", "float4"),
        ("float(24)", "float4"),
        ("float(25)", "float8"),
        ("double precision", "float8"),
        ("int8 as text", "int as text"),
        ("BIGINT AS TEXT", "int as text"),
    ],
)
def test_names_of_postgres_mean_the_same(written: str, meant: str) -> None:
    """Also to the hash, so that another name for the same type needs no rebuild."""
    views = [parse_view(TEXT.replace('type = "date"', f'type = "{name}"'), "x") for name in (written, meant)]
    assert views[0] == views[1]
    assert views[0].hash == views[1].hash
    assert str(views[0].root.columns[views[0].root.index_of("date_of_birth")].type) == meant


def test_the_hash_tells_types_apart() -> None:
    names = ("int", "int as text", "text", "time", "time(6)", "float4", "float8", "bytea", "numeric", "numeric(1)")
    made = {parse_view(TEXT.replace('type = "date"', f'type = "{name}"'), "x").hash for name in names}
    assert len(made) == len(names)


def test_secret_columns_are_not_stored() -> None:
    view = parse_view(
        TEXT.replace(
            '"docReference", type = "text", privacy = "pii"', '"docReference", type = "text", privacy = "secret"'
        ),
        "x",
    )
    assert "doc_reference" not in [c.name for c in view.children[0].columns]
    assert view.children[0].secret == ("doc_reference",)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('type = "numeric(18,4)"', 'type = "money"', "type 'money' is not taken: money prints by"),
        ('type = "numeric(18,4)"', 'type = "numeric(4,1001)"', "takes no such parameter"),
        ('type = "numeric(18,4)"', 'type = "numeric(4,-1001)"', "takes no such parameter"),
        ('type = "numeric(18,4)"', 'type = "numeric(-4,1)"', "takes no such parameter"),
        ('type = "date"', 'type = "date(3)"', "takes no such parameter"),
        ('type = "date"', 'type = "text(3)"', "takes no such parameter"),
        ('type = "date"', 'type = "varchar(0)"', "takes no such parameter"),
        ('type = "date"', 'type = "time(7)"', "takes no such parameter"),
        ('type = "date"', 'type = "float(54)"', "takes no such parameter"),
        ('type = "date"', 'type = "real(3)"', "takes no such parameter"),
        ('type = "date"', 'type = "date as text"', "only a whole number can be declared `as text`"),
        ('type = "date"', 'type = "int8(3) as text"', "only a whole number can be declared `as text`"),
        ('type = "date"', 'type = "text[]"', "an array is not taken: one of arrays comes as nulls"),
        ('type = "date"', 'type = "integer ARRAY"', "an array is not taken"),
        ('type = "date"', 'type = "numeric(18,4)[3][]"', "an array is not taken"),
        ('type = "date"', 'type = "_int4"', "an array is not taken"),
        ('type = "date"', 'type = "interval"', "is not taken: an interval comes as a count of microseconds"),
        ('type = "date"', 'type = "interval day to second(3)"', "is not taken: an interval comes"),
        ('type = "date"', 'type = "time(3) with time zone"', "is not taken: a time with time zone comes moved"),
        ('type = "date"', 'type = "point"', "type 'point' is not one of"),
        ('type = "date"', 'type = ""', "type '' is not one of"),
        ("enum(SAVINGS,CURRENT,WALLET,INVESTMENT)", "enum(A,A)", "an enum names its labels, each once"),
        ("enum(SAVINGS,CURRENT,WALLET,INVESTMENT)", "enum(A,,B)", "an empty label stands in"),
        ("enum(SAVINGS,CURRENT,WALLET,INVESTMENT)", "enum", "an enum names its labels, each once"),
        ('"enum(SAVINGS,CURRENT,WALLET,INVESTMENT)"', '"enum", labels = []', "an enum names its labels"),
        ('"enum(SAVINGS,CURRENT,WALLET,INVESTMENT)"', '"enum", labels = ["A", "A"]', "an enum names its labels"),
        ('"enum(SAVINGS,CURRENT,WALLET,INVESTMENT)"', '"enum", labels = [1]', "Expected `str`, got `int`"),
        ('"enum(SAVINGS,CURRENT,WALLET,INVESTMENT)"', '"enum(A)", labels = ["A"]', "labels stand either in"),
        ('type = "date"', 'type = "date", labels = ["A"]', "only an enum has labels"),
        ('type = "date"', 'kind = "date"', "unknown field `kind`"),
        ('privacy = "open" }', 'privacy = "public" }', "Invalid enum value"),
        ('order = "updated_at desc"', 'order = "status desc"', "is not a stored int, date or time"),
        ('order = "updated_at desc"', 'order = "updated_at down"', "is not `column asc` or `column desc`"),
        ('owner = "user_id"', "", "needs `owner`"),
        ('name = "accounts"', 'name = "kyc"', "'kyc' stands twice"),
        ('key = "kyc_id"', 'key = "status"', "a key is one of int, text, uuid"),
        ('key = "kyc_id"', 'key = "nothing"', "is not a stored column"),
        ('"address.city"', '"address"', "is taken"),
        ('child = "kyc"', 'child = "accounts"', "is not a stored enum column"),
        ('none = "NONE"', 'none = "PENDING"', "one of the enum's own labels"),
        ('order = "created_at"', 'order = "email"', "is not a stored int, date or time"),
        ('filters = ["kycStatus", "region"]', 'filters = ["createdAt"]', "is not the status nor a text, enum"),
        ('filters = ["kycStatus", "region"]', 'filters = ["region", "region"]', "stands twice"),
        ('fields = ["userId",', 'fields = ["userid",', "is not a plain member"),
        ('filters = ["kycStatus", "region"]', 'filters = ["size"]', "'size' is a parameter of every list"),
        ('"kyc", "accounts", "createdAt"', '"accounts", "createdAt"', "members must name each of"),
        ("[status]", "[stats]", "unknown field `stats`"),
    ],
)
def test_mistakes_name_file_and_line(old: str, new: str, problem: str) -> None:
    assert TEXT.count(old) >= 1
    wrong = TEXT.replace(old, new, 1)
    with pytest.raises(ConfigurationError, match=r"view definition mine\.toml, line \d+: ") as raised:
        parse_view(wrong, "mine.toml")
    assert problem in raised.value.problem
    assert raised.value.exit_code == 3


@pytest.mark.parametrize(
    ("key", "owner", "fits"),
    [
        *(("int", "int", True), ("uuid", "uuid", True), ("text", "text", True)),
        # As in `c.uid = u.id::text`: such definitions were taken before, and rows are told by what they print.
        *(("uuid", "text", True), ("text", "uuid", True), ("text", "enum(A)", True)),
        *(("int", "text", False), ("text", "int", False), ("int", "uuid", False), ("uuid", "int", False)),
        *(("text", "json", False), ("text", "bool", False), ("text", "numeric", False), ("int", "numeric", False)),
        *(("text", "timestamptz", False), ("int", "date", False)),
    ],
)
def test_an_owner_has_the_type_of_the_users_key(key: str, owner: str, fits: bool) -> None:
    text = definition_of(key, child=f'uid = {{ name = "uid", type = "{owner}" }}')
    if fits:
        assert parse_view(text, "x").children
    else:
        with pytest.raises(ConfigurationError, match=r"line 15: owner 'uid' is declared .* the users' key 'id'"):
            parse_view(text, "x")


def test_a_row_is_told_from_an_exports_own_lines() -> None:
    """By the id: without it no field may be named as a control line's first member."""
    renamed = TEXT.replace('"region", type', '"cursor", type').replace('"region"', '"cursor"')
    renamed = renamed.replace('filters = ["kycStatus", "cursor"]', 'filters = ["kycStatus"]')
    named = 'fields = ["userId", "firstName", "lastName", "kycStatus"]'
    assert named in renamed
    parse_view(renamed.replace(named, 'fields = ["userId", "cursor"]'), "x")
    with pytest.raises(ConfigurationError, match=r"line \d+: an export has lines with 'cursor' of its own"):
        parse_view(renamed.replace(named, 'fields = ["firstName", "cursor"]'), "x")


def test_the_line_is_the_right_one() -> None:
    line = next(n for n, text in enumerate(TEXT.splitlines(), 1) if text.startswith("balance"))
    with pytest.raises(ConfigurationError, match=rf"line {line}: type 'money'"):
        parse_view(TEXT.replace('"numeric(18,4)"', '"money"'), "mine.toml")


def test_broken_toml_names_the_line() -> None:
    with pytest.raises(ConfigurationError, match="line 2"):
        parse_view('name = "x"\n[root\n', "mine.toml")
