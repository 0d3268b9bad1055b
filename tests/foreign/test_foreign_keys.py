"""The printed connector on Kafka Connect, for key columns of any name and in every form of the Kafka key."""

from pathlib import Path

import pytest

from support.pipeline.foreign import deployed
from support.pipeline.stack import Pipeline

ALONE = """
CREATE TABLE u (id bigint PRIMARY KEY, city text, made timestamptz NOT NULL);
INSERT INTO u
    SELECT n, 'c' || n % 3, timestamptz '2024-01-01 00:00Z' + n * interval '1 h' FROM generate_series(1, 20) n;
"""

ALONE_VIEW = """
name = "alone"
[root]
table = "u"
key = "id"
[root.columns]
id = { name = "id", type = "int" }
city = { name = "city", type = "text" }
made = { name = "made", type = "timestamptz" }
[list]
order = "made"
fields = ["id", "city"]
filters = ["city"]
"""

WITH_CHILDREN = f"""{ALONE}
CREATE TABLE orders (no uuid PRIMARY KEY DEFAULT gen_random_uuid(), "userId" bigint NOT NULL, total numeric(9,2));
CREATE TABLE notes (id int PRIMARY KEY, user_id bigint NOT NULL, words text);
INSERT INTO orders ("userId", total) SELECT n % 7 + 1, n * 1.25 FROM generate_series(1, 30) n;
INSERT INTO notes SELECT n, n % 5 + 1, 'note ' || n FROM generate_series(1, 15) n;
"""

WITH_CHILDREN_VIEW = f"""{ALONE_VIEW}
[[children]]
table = "orders"
key = "no"
owner = "userId"
name = "orders"
[children.columns]
no = {{ name = "no", type = "uuid" }}
total = {{ name = "total", type = "numeric(9,2)" }}
[[children]]
table = "notes"
key = "id"
owner = "user_id"
name = "notes"
[children.columns]
id = {{ name = "id", type = "int" }}
words = {{ name = "words", type = "text" }}
"""


@pytest.mark.parametrize("form", ["plain", "quoted", "json"])
def test_a_key_that_is_called_id(apache_stack: Pipeline, tmp_path: Path, form: str) -> None:
    settings = {"kafka": {"key": form}}
    with deployed(apache_stack, tmp_path, f"alone_{form}", ALONE, ALONE_VIEW, settings) as tables:
        tables.assert_equal()
        tables.sql("UPDATE u SET city = 'x' WHERE id < 5; DELETE FROM u WHERE id = 9")
        tables.sql("INSERT INTO u VALUES (-9223372036854775808, 'far', now())")
        tables.assert_equal()


@pytest.mark.parametrize("form", ["plain", "quoted", "json"])
def test_children_that_name_the_user_each_in_their_way(apache_stack: Pipeline, tmp_path: Path, form: str) -> None:
    settings = {"kafka": {"key": form}}
    name = f"children_{form}"
    with deployed(apache_stack, tmp_path, name, WITH_CHILDREN, WITH_CHILDREN_VIEW, settings) as tables:
        tables.assert_equal()
        tables.sql("""UPDATE orders SET "userId" = 12 WHERE "userId" = 3; DELETE FROM notes WHERE user_id = 2""")
        tables.assert_equal()
        tables.sql("TRUNCATE notes")
        tables.assert_equal()


QUOTED_NAMES = """
CREATE TABLE "User" ("User Id" text PRIMARY KEY, nr int, "made at" timestamptz NOT NULL);
CREATE TABLE "user" ("User Id" text PRIMARY KEY, secret text);
CREATE TABLE "order; lines: a,b" ("no$" int PRIMARY KEY, "its.owner" text NOT NULL);
INSERT INTO "User"
    SELECT 'u-' || n, n, timestamptz '2024-01-01 00:00Z' + n * interval '1 h' FROM generate_series(1, 9) n;
INSERT INTO "user" VALUES ('twin', 'of another table');
INSERT INTO "order; lines: a,b" SELECT n, 'u-' || n % 4 + 1 FROM generate_series(1, 9) n;
"""

QUOTED_NAMES_VIEW = """
name = "quoted names"
[root]
table = "User"
key = "User Id"
[root.columns]
"User Id" = { name = "userId", type = "text" }
nr = { name = "number", type = "int" }
"made at" = { name = "madeAt", type = "timestamptz" }
[[children]]
name = "lines"
table = "order; lines: a,b"
key = "no$"
owner = "its.owner"
[children.columns]
"no$" = { name = "no", type = "int" }
[list]
order = "made at"
fields = ["userId", "number"]
"""


@pytest.mark.parametrize("form", ["plain", "json"])
def test_names_that_only_quotes_can_write(apache_stack: Pipeline, tmp_path: Path, form: str) -> None:
    """Blanks, separators of Debezium's lists, what is special in a pattern, and twins in another case."""
    settings = {"kafka": {"key": form}}
    name = f"quoted_names_{form}"
    with deployed(apache_stack, tmp_path, name, QUOTED_NAMES, QUOTED_NAMES_VIEW, settings) as tables:
        tables.assert_equal()
        tables.sql("""UPDATE "User" SET nr = -1 WHERE "User Id" = 'u-3'""")
        tables.sql("""UPDATE "order; lines: a,b" SET "its.owner" = 'u-9' WHERE "no$" < 3""")
        tables.assert_equal()
        tables.sql("""TRUNCATE "order; lines: a,b" """)
        tables.assert_equal()
        assert tables.topics() == {tables.topic}  # no row of the twin went anywhere
