"""The connector's configuration and the source's SQL: contents, and what they do on a real PostgreSQL."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from kafka.partitioner.default import murmur2

from kycache.demo.servers import postgres
from kycache.demo.servers.children import stopping
from kycache.demo.servers.ports import free_ports
from kycache.model.connector import ConnectorSettings, beat_keys, beat_query, connector_config, source_sql
from kycache.model.definition import default_view, parse_view
from kycache.model.errors import ConfigurationError
from kycache.model.partition import KeyForm

SETTINGS = ConnectorSettings(host="db", port=5432, user="kyc", password="s3cret", dbname="kyc")
SCHEMA = Path(__file__).parents[2] / "demo" / "schema.sql"

OTHER_VIEW = """
name = "other"
[root]
table = "Client"
key = "id"
[root.columns]
id = { name = "id", type = "uuid" }
made = { name = "made", type = "timestamp" }
[[children]]
table = "purse"
key = "no"
owner = "client_id"
name = "purses"
[children.columns]
no = { name = "no", type = "int" }
client_id = { name = "clientId", type = "uuid" }
[list]
order = "made"
fields = ["id"]
"""


def matches(pattern: str, text: str) -> bool:
    """As Java reads the pattern: there a flag can be switched off at its beginning."""
    return re.fullmatch(pattern.removeprefix("(?-i)"), text) is not None


class TestConfiguration:
    def test_names_every_table_and_the_heartbeat(self) -> None:
        config = connector_config(default_view(), SETTINGS)
        listed = config["table.include.list"].split(",")
        tables = ["public.users", "public.kyc_records", "public.accounts", "public.kycache_heartbeat"]
        assert len(listed) == len(tables)
        assert all(matches(p, t) for p, t in zip(listed, tables, strict=True))
        keys = dict(entry.split(":") for entry in config["message.key.columns"].split(";"))
        assert list(keys) == listed
        assert set(keys.values()) == {"user_id"}

    def test_lists_a_table_in_its_own_case_only(self) -> None:
        """Debezium compiles these lists as regular expressions that take any case."""
        config = connector_config(parse_view(OTHER_VIEW, "other"), SETTINGS)
        entries = [entry.partition(":")[0] for entry in config["message.key.columns"].split(";")]
        for entry in [*entries, *config["table.include.list"].split(",")]:
            assert entry.startswith("(?-i)")

    def test_routes_the_tables_into_one_topic_and_nothing_else(self) -> None:
        config = connector_config(default_view(), SETTINGS)
        route = config["transforms.route.topic.regex"]
        for table in ("users", "kyc_records", "accounts", "kycache_heartbeat"):
            assert matches(route, f"kyc.public.{table}")
        for foreign in ("public.debezium_signal", "message", "public.user", "public.users2"):
            assert not matches(route, f"kyc.{foreign}")
        assert config["transforms.route.topic.replacement"] == "kyc.changes"
        assert matches(config["predicates.changes.pattern"], "kyc.changes")
        assert not matches(config["predicates.changes.pattern"], "kycXchanges")
        assert config["transforms"] == "route,key"

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("plugin.name", "pgoutput"),
            ("publication.autocreate.mode", "disabled"),
            ("snapshot.mode", "initial"),
            ("skipped.operations", "none"),
            ("decimal.handling.mode", "string"),
            ("heartbeat.interval.ms", "500"),
            ("poll.interval.ms", "20"),
            ("key.converter", "org.apache.kafka.connect.storage.StringConverter"),
            ("value.converter.schemas.enable", "false"),
            ("value.converter.replace.null.with.default", "false"),
            ("transforms.route.key.enforce.uniqueness", "false"),
            ("topic.creation.changes.cleanup.policy", "delete"),
            ("topic.creation.changes.partitions", "4"),
            ("database.hostname", "db"),
            ("database.password", "s3cret"),
            ("slot.name", "kycache"),
            ("publication.name", "kycache"),
        ],
    )
    def test_sets_what_a_rule_of_the_view_depends_on(self, setting: str, value: str) -> None:
        assert connector_config(default_view(), SETTINGS)[setting] == value

    def test_the_password_is_not_in_the_settings_repr(self) -> None:
        assert "s3cret" not in repr(SETTINGS)

    def test_each_table_has_a_rename_of_its_own_before_the_route(self) -> None:
        """One rename for all would meet the heartbeat's key too, which has the name already (DEBEZIUM 38)."""
        config = connector_config(parse_view(OTHER_VIEW, "other"), SETTINGS)
        assert config["transforms"] == "rename0,rename1,route,key"
        assert config["predicates"] == "changes,rename0,rename1"
        for name, renames, topic in (
            ("rename0", "id:user_id", "kyc.public.Client"),
            ("rename1", "client_id:user_id", "kyc.public.purse"),
        ):
            assert config[f"transforms.{name}.type"] == "org.apache.kafka.connect.transforms.ReplaceField$Key"
            assert config[f"transforms.{name}.renames"] == renames
            assert config[f"transforms.{name}.predicate"] == name
            assert matches(config[f"predicates.{name}.pattern"], topic)
            assert not matches(config[f"predicates.{name}.pattern"], "kyc.public.kycache_heartbeat")
        assert config["message.key.columns"].split(";")[0].endswith(":id")

    def test_a_table_whose_name_begins_with_anothers_is_routed_whole(self) -> None:
        """Debezium's router matches the whole name, and then replaces the first find."""
        view = parse_view(OTHER_VIEW.replace('"purse"', '"Client_purse"'), "other")
        route = connector_config(view, SETTINGS)["transforms.route.topic.regex"]
        for table in ("Client", "Client_purse", "kycache_heartbeat"):
            assert re.sub(route, SETTINGS.topic, f"kyc.public.{table}", count=1) == SETTINGS.topic

    def test_a_key_that_stays_an_object_has_the_roots_own_column_in_it(self) -> None:
        settings = replace(SETTINGS, key_form=KeyForm.JSON)
        config = connector_config(parse_view(OTHER_VIEW, "other"), settings)
        assert config["transforms"] == "rename0,rename1,route"
        assert config["transforms.rename0.renames"] == "client_id:id"
        assert config["transforms.rename1.renames"] == "user_id:id"
        assert matches(config["predicates.rename1.pattern"], "kyc.public.kycache_heartbeat")

    def test_names_are_escaped_where_a_list_would_take_them_apart(self) -> None:
        view = parse_view(
            OTHER_VIEW.replace('"purse"', '"my pur;se"').replace('owner = "client_id"', 'owner = "client$.id"'),
            "o",
        )
        config = connector_config(view, SETTINGS)
        assert len(config["table.include.list"].split(",")) == len(config["message.key.columns"].split(";"))
        _, purse, _ = config["message.key.columns"].split(";")
        table, _, column = purse.partition(":")
        assert matches(table, "public.my pur;se")
        assert matches(column, "client$.id")
        assert not matches(column, "client$xid")
        assert config["transforms.rename1.renames"] == "client$.id:user_id"

    def test_a_table_name_that_holds_anothers_between_commas_is_refused(self) -> None:
        """The truncate trigger joins names by commas: such a mark would say that the other one is empty, too."""
        view = parse_view(OTHER_VIEW.replace('"purse"', '"Client,purse"'), "other")
        with pytest.raises(ConfigurationError, match="'Client,purse' holds another table's between commas"):
            connector_config(view, SETTINGS)
        assert connector_config(parse_view(OTHER_VIEW.replace('"purse"', '"pur,se"'), "other"), SETTINGS)

    @pytest.mark.parametrize("column", ["client,id", "client:id", " client_id"])
    def test_a_column_that_a_rename_cannot_name_is_refused(self, column: str) -> None:
        view = parse_view(OTHER_VIEW.replace('owner = "client_id"', f'owner = "{column}"'), "other")
        with pytest.raises(ConfigurationError, match=column) as refused:
            connector_config(view, SETTINGS)
        assert "rename the column at the source" in refused.value.remedy

    def test_no_partitions_are_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="0 partitions"):
            ConnectorSettings(host="db", port=1, user="u", password="", dbname="d", partitions=0)


@pytest.mark.parametrize("partitions", [1, 2, 3, 4, 7, 16, 64, 100])
def test_beat_keys_hash_to_their_partitions(partitions: int) -> None:
    keys = beat_keys(partitions)
    assert [(murmur2(key.encode()) & 0x7FFFFFFF) % partitions for key in keys] == list(range(partitions))


def test_the_sql_quotes_identifiers() -> None:
    text = "\n".join(source_sql(parse_view(OTHER_VIEW, "other"), SETTINGS))
    assert 'ALTER TABLE "public"."Client" REPLICA IDENTITY FULL' in text
    odd = ConnectorSettings(
        host="h", port=1, user="u", password="", dbname="d", schema="o#dd", publication='it\'s "mine"'
    )
    text = "\n".join(source_sql(default_view(), odd))
    assert '"o#dd"."users"' in text
    assert 'CREATE PUBLICATION "it\'s ""mine"""' in text
    assert "pubname = 'it''s \"mine\"'" in text


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Postgres]:
    place = tmp_path_factory.mktemp("postgres")
    running = postgres.Postgres(place / "data", free_ports(1)[0], postgres.new_password())
    child = postgres.prepare(running, place / "postgres.log", durable=False)
    with stopping(child):
        child.start()
        postgres.wait_ready(running, child)
        yield running


@pytest.fixture
def source(server: postgres.Postgres) -> Iterator[psycopg.Connection[Any]]:
    """A fresh schema with the packaged view's tables and one row in each, prepared as the command prints it."""
    with psycopg.connect(server.dsn, autocommit=True) as db:
        db.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; DROP PUBLICATION IF EXISTS kycache")
        db.execute(SCHEMA.read_bytes())
        apply(db, SETTINGS)
        db.execute("INSERT INTO users (user_id, first_name, last_name) VALUES (gen_random_uuid(), 'Ada', 'L')")
        db.execute("INSERT INTO kyc_records (user_id) SELECT user_id FROM users")
        add_account(db)
        yield db


def apply(db: psycopg.Connection[Any], settings: ConnectorSettings) -> None:
    with db.transaction():
        for statement in source_sql(default_view(), settings):
            db.execute(statement.encode())


def add_account(db: psycopg.Connection[Any]) -> None:
    db.execute("INSERT INTO accounts (user_id, account_type, account_no) SELECT user_id, 'WALLET', 'W' FROM users")


def marks(db: psycopg.Connection[Any]) -> set[str | None]:
    rows = db.execute("SELECT truncated FROM kycache_heartbeat").fetchall()
    assert len(rows) == SETTINGS.partitions
    return {row[0] for row in rows}


def beat(db: psycopg.Connection[Any]) -> int:
    return db.execute(beat_query(default_view(), SETTINGS).encode()).rowcount


class TestOnPostgres:
    def test_prepares_everything_that_is_promised(self, source: psycopg.Connection[Any]) -> None:
        identities = source.execute(
            "SELECT relname, relreplident FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        tables = {"users", "kyc_records", "accounts", "kycache_heartbeat"}
        assert dict(identities) == dict.fromkeys(tables, "f")
        published = source.execute("SELECT tablename FROM pg_publication_tables WHERE pubname = 'kycache'")
        assert {row[0] for row in published} == tables
        beats = source.execute("SELECT user_id, shard FROM kycache_heartbeat ORDER BY shard").fetchall()
        assert beats == list(zip(beat_keys(4), range(4), strict=True))

    def test_running_it_again_changes_nothing(self, source: psycopg.Connection[Any]) -> None:
        source.execute("TRUNCATE accounts")
        before = source.execute("SELECT *, xmin FROM kycache_heartbeat ORDER BY shard").fetchall()
        apply(source, SETTINGS)
        assert source.execute("SELECT *, xmin FROM kycache_heartbeat ORDER BY shard").fetchall() == before

    def test_rows_of_two_partition_counts_cover_both(self, source: psycopg.Connection[Any]) -> None:
        apply(source, replace(SETTINGS, partitions=6))
        rows = source.execute("SELECT user_id FROM kycache_heartbeat").fetchall()
        assert {row[0] for row in rows} == {*beat_keys(4), *beat_keys(6)}

    def test_what_another_view_publishes_is_not_taken_away(self, source: psycopg.Connection[Any]) -> None:
        source.execute("CREATE TABLE other (id int PRIMARY KEY); ALTER PUBLICATION kycache ADD TABLE other")
        with pytest.raises(psycopg.errors.RaiseException) as refused:
            apply(source, SETTINGS)
        assert "publication kycache covers what this view does not know: other" in str(refused.value)
        assert "`heartbeat_table`" in str(refused.value.diag.message_hint)
        assert 'ALTER PUBLICATION "kycache" DROP TABLE it' in str(refused.value.diag.message_hint)
        assert ("other",) in source.execute("SELECT tablename FROM pg_publication_tables").fetchall()
        source.execute("ALTER PUBLICATION kycache DROP TABLE other")
        apply(source, SETTINGS)

    def test_another_schema_that_is_published_whole_is_not_taken_away(
        self, source: psycopg.Connection[Any]
    ) -> None:
        source.execute("CREATE SCHEMA crm; ALTER PUBLICATION kycache ADD TABLES IN SCHEMA crm")
        with pytest.raises(psycopg.errors.RaiseException, match="all tables of schema crm"):
            apply(source, SETTINGS)
        source.execute("DROP SCHEMA crm")

    @pytest.mark.parametrize("scope", ["ALL TABLES", "TABLES IN SCHEMA public"])
    def test_a_publication_of_everything_covers_the_view(
        self, source: psycopg.Connection[Any], scope: str
    ) -> None:
        source.execute(f"DROP PUBLICATION kycache; CREATE PUBLICATION kycache FOR {scope}".encode())
        source.execute("CREATE TABLE other (id int PRIMARY KEY)")
        apply(source, SETTINGS)
        published = source.execute("SELECT tablename FROM pg_publication_tables").fetchall()
        assert {"users", "other", "kycache_heartbeat"} <= {row[0] for row in published}

    def test_partitions_that_are_published_one_by_one_are_the_views(self, source: psycopg.Connection[Any]) -> None:
        source.execute(
            "DROP TABLE accounts;"
            "CREATE TABLE accounts (account_id uuid, user_id uuid) PARTITION BY HASH (user_id);"
            "CREATE TABLE accounts_0 PARTITION OF accounts FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
            "ALTER PUBLICATION kycache ADD TABLE accounts_0"
        )
        apply(source, SETTINGS)
        published = source.execute("SELECT tablename FROM pg_publication_tables").fetchall()
        assert ("accounts",) in published

    def test_a_heartbeat_table_of_another_view_is_refused(self, source: psycopg.Connection[Any]) -> None:
        source.execute(
            "CREATE TABLE other (id int PRIMARY KEY); CREATE TRIGGER kycache_truncated AFTER TRUNCATE ON other "
            "FOR EACH STATEMENT EXECUTE FUNCTION kycache_heartbeat_truncated()"
        )
        with pytest.raises(psycopg.errors.RaiseException) as refused:
            apply(source, replace(SETTINGS, publication="second"))
        assert "heartbeat table kycache_heartbeat is another view's, which has also: other" in str(refused.value)
        assert 'DROP TRIGGER "kycache_truncated" ON it' in str(refused.value.diag.message_hint)

    def test_two_views_share_a_table(self, source: psycopg.Connection[Any]) -> None:
        second = replace(SETTINGS, publication="second", heartbeat_table="second_heartbeat")
        apply(source, second)
        apply(source, SETTINGS)
        source.execute("TRUNCATE accounts, kyc_records")
        for table in ("kycache_heartbeat", "second_heartbeat"):
            found = source.execute(f"SELECT DISTINCT truncated FROM {table}".encode()).fetchall()
            assert [sorted(row[0].split(",")) for row in found] == [["accounts", "kyc_records"]]
        triggers = source.execute(
            "SELECT tgname FROM pg_trigger WHERE tgrelid = 'accounts'::regclass AND NOT tgisinternal"
        )
        assert {row[0] for row in triggers} == {"kycache_truncated", "second_heartbeat_truncated"}
        source.execute("DROP PUBLICATION second")

    def test_a_truncate_marks_every_row_and_the_beat_clears_it(self, source: psycopg.Connection[Any]) -> None:
        assert marks(source) == {None}
        source.execute("TRUNCATE accounts")
        assert marks(source) == {"accounts"}
        assert beat(source) == SETTINGS.partitions
        assert marks(source) == {None}

    def test_tables_truncated_together_are_all_named(self, source: psycopg.Connection[Any]) -> None:
        source.execute("TRUNCATE users CASCADE")
        (mark,) = marks(source)
        assert mark is not None
        assert sorted(mark.split(",")) == ["accounts", "kyc_records", "users"]

    def test_a_mark_no_beat_has_cleared_is_not_repeated_by_the_next_transaction(
        self, source: psycopg.Connection[Any]
    ) -> None:
        source.execute("TRUNCATE accounts")
        add_account(source)
        source.execute("TRUNCATE kyc_records")
        assert marks(source) == {"kyc_records"}

    def test_rows_inserted_between_two_truncates_of_a_transaction_are_not_wiped(
        self, source: psycopg.Connection[Any]
    ) -> None:
        with source.transaction():
            source.execute("TRUNCATE accounts")
            add_account(source)
            source.execute("TRUNCATE kyc_records")
        assert marks(source) == {"kyc_records"}

    def test_a_rolled_back_truncate_is_not_named(self, source: psycopg.Connection[Any]) -> None:
        source.execute(
            "BEGIN; SAVEPOINT before; TRUNCATE accounts; ROLLBACK TO before; TRUNCATE kyc_records; COMMIT"
        )
        assert marks(source) == {"kyc_records"}

    def test_a_forged_setting_cannot_name_a_table_that_has_rows(self, source: psycopg.Connection[Any]) -> None:
        with source.transaction():
            source.execute("SELECT set_config('kycache.truncated', 'users,no_such_table', true)")
            source.execute("TRUNCATE accounts")
        assert marks(source) == {"accounts"}

    def test_whoever_may_truncate_need_not_be_allowed_to_write_beats(
        self, source: psycopg.Connection[Any]
    ) -> None:
        with source.transaction(force_rollback=True):
            source.execute("CREATE ROLE clerk; GRANT USAGE ON SCHEMA public TO clerk")
            source.execute("GRANT TRUNCATE ON accounts TO clerk")
            source.execute("SET LOCAL ROLE clerk; TRUNCATE accounts; RESET ROLE")
            assert marks(source) == {"accounts"}

    def test_the_beat_does_not_wait_for_an_open_truncate(
        self, source: psycopg.Connection[Any], server: postgres.Postgres
    ) -> None:
        with psycopg.connect(server.dsn) as truncating:
            truncating.execute("TRUNCATE accounts")
            source.execute("SET lock_timeout = '1s'")
            assert beat(source) == 0
            truncating.rollback()
        assert beat(source) == SETTINGS.partitions
