"""Two views in one schema, and two topics of one view: neither takes anything from the other."""

from pathlib import Path
from typing import Any

from support.pipeline.foreign import Deployed, Foreign, deployed, deployed_beside, readme_line
from support.pipeline.stack import Pipeline

SCHEMA = """
CREATE TABLE u (id int PRIMARY KEY, city text, made timestamptz NOT NULL);
CREATE TABLE orders (no int PRIMARY KEY, u_id int NOT NULL, total numeric(9,2));
CREATE TABLE notes (id int PRIMARY KEY, user_id int NOT NULL, words text);
INSERT INTO u SELECT n, 'c' || n % 3, timestamptz '2024-01-01Z' + n * interval '1 h' FROM generate_series(1, 9) n;
INSERT INTO orders SELECT n, n % 7 + 1, n * 1.25 FROM generate_series(1, 20) n;
INSERT INTO notes SELECT n, n % 5 + 1, 'note ' || n FROM generate_series(1, 15) n;
"""

ROOT = """
name = "u"
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

ORDERS = f"""{ROOT}
[[children]]
table = "orders"
key = "no"
owner = "u_id"
name = "orders"
[children.columns]
no = {{ name = "no", type = "int" }}
total = {{ name = "total", type = "numeric(9,2)" }}
"""

NOTES = f"""{ROOT}
[[children]]
table = "notes"
key = "id"
owner = "user_id"
name = "notes"
[children.columns]
id = {{ name = "id", type = "int" }}
words = {{ name = "words", type = "text" }}
"""

CHANGES = """
UPDATE u SET city = 'x' WHERE id = 3;
DELETE FROM orders WHERE no = 4;
INSERT INTO notes VALUES (99, 3, 'new');
"""


def new_folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def both_equal(first: Deployed, second: Deployed) -> None:
    first.assert_equal()
    second.assert_equal()


def test_two_views_that_share_a_table(apache_stack: Pipeline, tmp_path: Path) -> None:
    with deployed(apache_stack, new_folder(tmp_path, "a"), "shared_a", SCHEMA, ORDERS) as a:
        settings = {"connector": {"heartbeat_table": "shared_b_beats", "partitions": 2}}
        with deployed_beside(a, new_folder(tmp_path, "b"), "shared_b", NOTES, settings) as b:
            both_equal(a, b)
            a.sql(CHANGES)
            both_equal(a, b)
            a.sql("TRUNCATE u, orders, notes; INSERT INTO u VALUES (1, 'again', now())")
            both_equal(a, b)
            a.wait_sound()
            b.wait_sound()


TAKEN: list[tuple[dict[str, Any], str]] = [
    ({"publication": "taken_a"}, "publication taken_a covers what this view does not know: orders"),
    ({}, "heartbeat table kycache_heartbeat is another view's, which has also: orders"),
]


def test_names_of_another_view_change_nothing(apache_stack: Pipeline, tmp_path: Path) -> None:
    with deployed(apache_stack, new_folder(tmp_path, "a"), "taken_a", SCHEMA, ORDERS) as a:
        for n, (connector, words) in enumerate(TAKEN):
            folder = new_folder(tmp_path, f"b{n}")
            b = Foreign(apache_stack, folder, f"taken_b{n}", NOTES, {"connector": connector}, a.database)
            done = b.shell(readme_line("connector --sql"))
            assert done.returncode == 3
            assert words in done.stderr
            assert "`heartbeat_table`" in done.stderr
        a.wait_sound()
        a.sql(CHANGES)
        a.assert_equal()


def test_another_partition_count_is_built_beside(apache_stack: Pipeline, tmp_path: Path) -> None:
    """As docs/operations.md says, with the publication and the heartbeat table of the first."""
    four = {"connector": {"partitions": 4}}
    with deployed(apache_stack, new_folder(tmp_path, "four"), "count_four", SCHEMA, ORDERS, four) as first:
        six = {"connector": {"partitions": 6, "publication": "count_four"}}
        with deployed_beside(first, new_folder(tmp_path, "six"), "count_six", ORDERS, six) as second:
            both_equal(first, second)
            first.sql(CHANGES)
            first.sql("TRUNCATE orders")
            both_equal(first, second)
            first.wait_sound()
            second.wait_sound()
            assert [len(t.client.get("/readyz").json()["shards"]) for t in (first, second)] == [4, 6]
        first.sql("INSERT INTO orders VALUES (1, 1, 1)")
        first.assert_equal()
