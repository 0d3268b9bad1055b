"""The rights that the printed SQL names in its first line: without them nothing is changed, with them it works."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from support.pipeline.foreign import Foreign, readme_line
from support.pipeline.stack import Pipeline

SCHEMA = """
CREATE SCHEMA app AUTHORIZATION rights_owner;
SET ROLE rights_owner;
CREATE TABLE app.u (id int PRIMARY KEY, city text, made timestamptz NOT NULL);
INSERT INTO app.u SELECT n, 'c' || n, timestamptz '2024-01-01Z' + n * interval '1 h' FROM generate_series(1, 9) n;
"""

VIEW = """
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
"""

GRANTS = """
GRANT USAGE ON SCHEMA app TO rights_debezium;
GRANT SELECT ON app.u TO rights_debezium;
GRANT SELECT, UPDATE ON app.kycache_heartbeat TO rights_debezium;
"""

PASSWORD = "of-this-test"
ROLES = {"rights_owner": "", "rights_debezium": "REPLICATION"}


@pytest.fixture
def roles(apache_stack: Pipeline) -> Iterator[None]:
    """The tables' owner and Debezium's role, which have nothing but what the test grants."""
    with psycopg.connect(apache_stack.dsn, autocommit=True) as db:
        for role, right in ROLES.items():
            db.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}' {right}".encode())
        yield
        for role in ROLES:
            db.execute(f"DROP ROLE {role}".encode())


@pytest.mark.usefixtures("roles")
def test_rights(apache_stack: Pipeline, tmp_path: Path) -> None:
    def dsn_of(role: str) -> str:
        return make_conninfo(apache_stack.dsn, user=role, password=PASSWORD, dbname="rights")

    settings = {"connector": {"schema": "app", "dsn": dsn_of("rights_debezium")}}
    tables = Foreign(apache_stack, tmp_path, "rights", VIEW, settings)
    with tables.tables_at_source(SCHEMA):
        tables.admin_dsn = dsn_of("rights_owner")
        refused = tables.shell(readme_line("connector --sql"))
        assert refused.returncode == 3
        assert "permission denied for database rights" in refused.stderr
        assert changed(tables) == (None, "d")
        first = tables.run("connector", "--sql").stdout.splitlines()[0]
        assert 'as the owner of "u", with CREATE on the database' in first
        assert 'role "rights_debezium" needs LOGIN, REPLICATION, USAGE on schema "app", SELECT on "u"' in first

        tables.sql("GRANT CREATE ON DATABASE rights TO rights_owner")
        tables.prepare()
        assert changed(tables) == ("app.kycache_heartbeat", "f")

        tables.connect()
        # Debezium tries again and again, and its task runs: what it lacks is seen at the source.
        found = {finding["problem"]: finding["remedy"] for finding in tables.findings()}
        lacking = "Debezium's role 'rights_debezium' may not read table app.u: it could take no whole snapshot"
        assert found[lacking] == 'GRANT SELECT ON app.u TO "rights_debezium", and USAGE on its schema'
        tables.sql(GRANTS)
        tables.wait_sound()
        with tables.serving() as client:
            assert list(tables.truth().differences(client)) == []


def changed(tables: Foreign) -> tuple[object, ...] | None:
    """The heartbeat table, and the replica identity of the view's."""
    with psycopg.connect(tables.dsn) as db:
        query = "SELECT to_regclass('app.kycache_heartbeat')::text, relreplident::text FROM pg_class"
        return db.execute(f"{query} WHERE oid = 'app.u'::regclass".encode()).fetchone()
