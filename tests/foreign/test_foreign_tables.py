"""Tables that are not ours go through the README's steps, and are served as SQL has them."""

from pathlib import Path

from support.pipeline.foreign import deployed
from support.pipeline.stack import Pipeline

SCHEMA = """
CREATE TYPE tier AS ENUM ('FREE', 'PAID');
CREATE TABLE members (
    user_id text PRIMARY KEY, nick text, active boolean, born date, made timestamp(3), seen timestamptz,
    extra jsonb
);
CREATE TABLE plans (
    id int, user_id text, tier tier NOT NULL, since date, price numeric(7,2), PRIMARY KEY (user_id, id)
) PARTITION BY HASH (user_id);
CREATE TABLE plans_0 PARTITION OF plans FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE plans_1 PARTITION OF plans FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO members SELECT 'm' || n, 'nick ' || n, n % 2 = 0, date '1990-01-01' + n,
    timestamp '2024-01-01 10:00:00.120' + n * interval '1 day', now(), '{"n": [1, 2]}'
    FROM generate_series(1, 9) n;
INSERT INTO plans SELECT n, 'm' || n % 4 + 1, (ARRAY['FREE', 'PAID'])[n % 2 + 1]::tier,
    NULLIF(date '2024-05-01' + n, '2024-05-04'), n / 3.0 FROM generate_series(1, 9) n;
"""

VIEW = """
name = "members"
[root]
table = "members"
key = "user_id"
[root.columns]
user_id = { name = "id", type = "text" }
nick = { name = "who.nick", type = "text" }
active = { name = "active", type = "bool" }
born = { name = "who.born", type = "date" }
made = { name = "made", type = "timestamp(3)" }
seen = { name = "seen", type = "timestamptz" }
extra = { name = "extra", type = "json" }
[[children]]
name = "plans"
table = "plans"
key = "id"
owner = "user_id"
order = "since desc"
[children.columns]
id = { name = "id", type = "int" }
tier = { name = "tier", type = "enum(FREE,PAID)" }
since = { name = "since", type = "date" }
price = { name = "price", type = "numeric(7,2)" }
[status]
name = "tier"
child = "plans"
column = "tier"
none = "NONE"
[list]
order = "made"
fields = ["id", "tier", "active"]
filters = ["tier", "active"]
"""


def test_from_an_empty_database_to_pages_that_equal_sql(apache_stack: Pipeline, tmp_path: Path) -> None:
    with deployed(apache_stack, tmp_path, "members", SCHEMA, VIEW) as tables:
        tables.assert_equal()
        tables.sql("""
            INSERT INTO members (user_id, made) VALUES ('über/40 %', '2023-02-28');
        """)
        tables.sql("UPDATE members SET nick = NULL, active = NULL WHERE user_id = 'm2'")
        tables.sql("UPDATE plans SET user_id = 'm9', since = 'infinity' WHERE id = 4")
        tables.sql("DELETE FROM members WHERE user_id = 'm7'")
        tables.assert_equal()
        assert tables.profile("m9")["plans"][0]["since"] == "infinity"
