"""Tables of well-known open-source applications, as a new user brings them up: `kycache init`, the README's steps.

Tables, columns and keys are those of their own migrations, in the SQL files beside this one. Nothing in
what `kycache init` wrote is changed by hand; names and ports, which keep tests apart, come in variables.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kycache.model.definition import load_view
from support.pipeline.foreign import Deployed, readme_line
from support.pipeline.stack import Pipeline

README_DSN = "postgresql://kycache:secret@db:5432/app"
README_TABLE = "--table users"
"""In the README's line, in whose place the test's own are put."""


class Initialized(Deployed):
    """Tables whose view `kycache init` wrote."""

    def init(self, table: str) -> str:
        """README step 1: `kycache init` writes view.toml and kycache.toml. Returns what it printed."""
        line = readme_line("kycache init").replace(README_DSN, self.dsn)
        done = self.shell(line.replace(README_TABLE, f"--table {shlex.quote(table)}"))
        assert done.returncode == 0, done.stdout + done.stderr
        self.view = load_view(self.folder / "view.toml")
        return done.stdout


@contextmanager
def initialized(pipeline: Pipeline, folder: Path, name: str, schema_sql: str, table: str) -> Iterator[Initialized]:
    """Tables brought up by the README's steps, `kycache init` among them.

    Args:
        pipeline: the session's apache stack.
        folder: an empty folder for configuration, data and logs.
        name: of database, topic, slot and all else; no other test of the session has it.
        schema_sql: the tables, and the rows that the snapshot is to hold.
        table: the users'.
    """
    tables = Initialized(pipeline, folder, name, None)
    with tables.tables_at_source(schema_sql):
        tables.init(table)
        with tables.brought_up():
            yield tables


def schema(application: str) -> str:
    """Its tables, with some rows."""
    return (Path(__file__).parent / f"{application}.sql").read_text(encoding="utf-8")


def test_keycloak(apache_stack: Pipeline, tmp_path: Path) -> None:
    with initialized(apache_stack, tmp_path, "keycloak", schema("keycloak"), "user_entity") as tables:
        view = tables.view
        assert (view.root.key, view.list_order) == ("id", "created_timestamp")
        assert {child.name: child.key for child in view.children} == {
            "user_attribute": "id",
            "user_role_mapping": "role_id",
            "user_required_action": "required_action",
            "user_group_membership": "group_id",
            "federated_identity": "identity_provider",
            "user_consent": "id",
        }
        written = (tmp_path / "view.toml").read_text(encoding="utf-8")
        assert "#   credential: user_id may be NULL" in written
        assert "#   user_consent_client_scope: it refers to user_consent: a grandchild" in written
        tables.assert_equal()
        tables.sql("UPDATE user_role_mapping SET role_id = 'role-9' WHERE role_id = 'role-2'")
        tables.sql("DELETE FROM user_group_membership; TRUNCATE user_required_action")
        tables.sql("UPDATE user_entity SET realm_id = 'new', created_timestamp = NULL WHERE username LIKE '%3'")
        tables.sql("INSERT INTO user_entity (id, enabled) VALUES ('0', true)")
        tables.assert_equal()


def test_mastodon(apache_stack: Pipeline, tmp_path: Path) -> None:
    with initialized(apache_stack, tmp_path, "mastodon", schema("mastodon"), "accounts") as tables:
        view = tables.view
        assert view.list_order == "created_at"
        assert "private_key" in view.root.secret
        assert {child.name: child.owner for child in view.children} == dict.fromkeys(
            ["account_notes", "account_stats", "accounts_tags", "bookmarks", "statuses", "users"], "account_id"
        )
        written = (tmp_path / "view.toml").read_text(encoding="utf-8")
        assert "#   account_migrations: account_id may be NULL" in written
        assert "#   also_known_as: arrays are not taken" in written
        tables.assert_equal()
        (first,) = [user for user, profile in tables.truth().profiles.items() if profile["username"] == "user1"]
        assert tables.topics() == {tables.topic}
        assert tables.profile(first)["id"] == first == "113000000001000001"
        tables.sql("UPDATE statuses SET account_id = 113000000000000000 + 9 * 1000001 WHERE id % 4 = 0")
        tables.sql("UPDATE accounts SET domain = 'moved.example', updated_at = 'infinity' WHERE discoverable")
        tables.sql(
            "DELETE FROM account_notes WHERE id < 5; DELETE FROM users WHERE id % 2 = 0; TRUNCATE accounts_tags"
        )
        tables.assert_equal()


def test_cal_com(apache_stack: Pipeline, tmp_path: Path) -> None:
    with initialized(apache_stack, tmp_path, "calcom", schema("calcom"), "users") as tables:
        view = tables.view
        assert {child.name: child.key for child in view.children} == {
            "Membership": "id",
            "Profile": "id",
            "TravelSchedule": "id",
            "UserPassword": "userId",
        }
        assert {"twoFactorSecret", "backupCodes"} <= set(view.root.secret)
        assert "hash" in view.children[3].secret
        written = (tmp_path / "view.toml").read_text(encoding="utf-8")
        assert "#   Credential: userId may be NULL" in written
        assert "#   Team: users refers to it" in written
        tables.assert_equal()
        tables.sql("""UPDATE "Membership" SET role = 'MEMBER' WHERE "teamId" = 1; DELETE FROM "UserPassword" """)
        tables.sql("""UPDATE users SET "identityProvider" = 'GOOGLE', "emailVerified" = NULL WHERE id % 5 = 0""")
        tables.sql("""ALTER TABLE users ADD COLUMN "creationSource" text""")
        tables.sql("UPDATE users SET locked = true WHERE id = 7")
        tables.assert_equal()
