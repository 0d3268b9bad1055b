"""`kycache init` on a PostgreSQL of its own, with tables of every odd form."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

from kycache.cli.doctor.command import Look, diagnose
from kycache.cli.init.look_at_catalog import connected, look_at_catalog, look_at_spreads
from kycache.cli.settings.composition import connector_settings
from kycache.cli.settings.loading import load_settings
from kycache.demo.servers.children import stopping
from kycache.model.connector import source_sql
from support.command_line import RunCommand
from support.pipeline.cluster import Cluster

ODD = r"""
CREATE TYPE mood AS ENUM ('sad, very', 'ok', '');
CREATE DOMAIN whole AS bigint CHECK (VALUE > 0);
CREATE TABLE "User" (
    "User Id" text PRIMARY KEY, "made at" timestamptz NOT NULL, mood mood, number whole,
    spare int[], took interval, opens time(3),
    rate float8, photo bytea, made timestamp(3), born date, "net %" numeric(5,-2), total numeric, "line
end" text, "$$" text, document jsonb, password text, done boolean, plan varchar(9),
    shout text GENERATED ALWAYS AS (upper(password)) STORED
);
CREATE TABLE pets (
    "no$" int, owner text NOT NULL REFERENCES "User", buyer text REFERENCES "User", PRIMARY KEY (owner, "no$")
);
CREATE TABLE settings (owner text PRIMARY KEY REFERENCES "User", dark boolean);
CREATE TABLE visits (id bigint PRIMARY KEY, user_id text NOT NULL, "createdAt" timestamptz NOT NULL DEFAULT now());
CREATE TABLE keyless (owner text NOT NULL REFERENCES "User");
CREATE TABLE maybe (id int PRIMARY KEY, owner text REFERENCES "User");
CREATE TABLE litter (
    id int PRIMARY KEY, pet_no int, pet_owner text, FOREIGN KEY (pet_owner, pet_no) REFERENCES pets
);
CREATE SCHEMA far;
CREATE TABLE far.away (id int PRIMARY KEY, owner text NOT NULL REFERENCES "User");
CREATE VIEW everybody AS SELECT * FROM "User";
INSERT INTO "User" (
        "User Id", "made at", mood, number, opens, rate, photo, made, born, "net %", total, document, password,
        done, plan)
    VALUES ('a b', 'infinity', 'sad, very', 9007199254740993, '24:00', 'NaN', '\x00ff', '2024-01-01 10:00:00.12',
            '-infinity', 12345, 'NaN', '{"n": 1.0}', 'x', true, 'free');
INSERT INTO "User" ("User Id", "made at", plan) SELECT 'u' || n, now(), 'paid' FROM generate_series(1, 20) n;
INSERT INTO pets SELECT n, 'a b' FROM generate_series(1, 2) n;
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    with stopping(made.server):
        made.start()
        made.run(ODD, f"CREATE ROLE curious LOGIN PASSWORD '{made.settings.password}'")
        yield made


def dsn_of(cluster: Cluster, **parts: str) -> str:
    return make_conninfo(cluster.settings.dsn, **parts)


def test_it_lists_what_may_be_the_root(cluster: Cluster, kycache: RunCommand) -> None:
    done = kycache("init", "--dsn", cluster.settings.dsn)
    assert done.code == 0
    assert "1. User: key User Id (text), referenced by 5, never counted" in done.out
    assert "everybody" not in done.out
    assert list(Path().iterdir()) == []


def test_doctor_finds_nothing_in_what_it_wrote(
    cluster: Cluster, kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KYCACHE_SOURCE_DSN", cluster.settings.dsn)
    done = kycache("init", "--table", "User", "--child", "visits.user_id", "--dir", "new")
    assert (done.code, done.err) == (0, "")
    written = {file.name: file.read_text(encoding="utf-8") for file in Path("new").iterdir()}
    assert set(written) == {"kycache.toml", "view.toml"}
    assert cluster.settings.password not in "".join(written.values())
    assert "#   litter: it refers to pets: a grandchild" in written["view.toml"]
    assert "#   far.away: it is in another schema" in written["view.toml"]
    assert "#   spare: arrays are not taken" in written["view.toml"]

    settings = load_settings(Path("new/kycache.toml"))
    view = settings.load_view()
    assert [child.name for child in view.children] == ["visits", "pets", "settings"]
    assert [each.name for each in view.filters] == ["plan", "mood", "done"]
    assert "password" in view.root.secret
    cluster.run(*source_sql(view, connector_settings(settings, settings.connector.partitions)))
    with cluster.slot_is_read():
        assert diagnose(settings, [Look.SOURCE]).findings == []
    assert "kycache_heartbeat" not in kycache("init", "--table", "User", "--dry-run").out

    again = kycache("init", "--table", "User", "--dir", "new")
    assert again.code == 5
    assert "is there already" in again.err
    assert {file.name: file.read_text(encoding="utf-8") for file in Path("new").iterdir()} == written


def test_a_sample_is_a_profile_as_it_is_served(cluster: Cluster, kycache: RunCommand) -> None:
    done = kycache("init", "--dsn", cluster.settings.dsn, "--table", "User", "--dry-run", "--sample")
    assert done.code == 0
    assert list(Path().iterdir()) == []
    profile = json.loads(done.out.splitlines()[-1])
    assert profile == {
        "userId": "a b",
        "madeAt": "infinity",
        "mood": "sad, very",
        "number": 9007199254740993,
        "opens": "24:00:00",
        "rate": "NaN",
        "photo": "\\x00ff",
        "made": "2024-01-01T10:00:00.12",
        "born": "-infinity",
        "net": "12300",
        "total": "NaN",
        "lineEnd": None,
        "column": None,
        "document": {"n": 1.0},
        "done": True,
        "plan": "free",
        "pets": [{"no": 1, "buyer": None}, {"no": 2, "buyer": None}],
        "settings": [],
    }


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--table", "everybody"], 5, "it is a view: no change of it comes"),
        (["--table", "keyless"], 5, "it has no primary key"),
        (["--table", "Usr"], 3, "did you mean 'User'?"),
        (["--table", "User", "--child", "pets.nobody"], 3, "has no column 'nobody'"),
        (["--table", "User", "--child", "nothing.x"], 3, "has no table 'nothing'"),
    ],
)
def test_what_it_refuses(
    cluster: Cluster, kycache: RunCommand, arguments: list[str], code: int, words: str
) -> None:
    done = kycache("init", "--dsn", cluster.settings.dsn, *arguments)
    assert done.code == code
    assert words in done.err
    assert list(Path().iterdir()) == []


def test_a_role_that_may_read_the_catalog_only(cluster: Cluster, kycache: RunCommand) -> None:
    dsn = dsn_of(cluster, user="curious")
    done = kycache("init", "--dsn", dsn, "--table", "User", "--dry-run")
    assert done.code == 0
    assert 'filters = ["mood", "done"]' in done.out
    cluster.run("ALTER TABLE visits ENABLE ROW LEVEL SECURITY")
    done = kycache("init", "--dsn", dsn, "--table", "User", "--dry-run", "--child", "visits.user_id")
    cluster.run("ALTER TABLE visits DISABLE ROW LEVEL SECURITY")
    assert "# it has row level security" in done.out
    done = kycache("init", "--dsn", dsn, "--table", "User", "--dry-run", "--sample")
    assert done.code == 3
    assert "permission denied for table" in done.err


def test_a_source_that_sends_no_changes_yet(cluster: Cluster, kycache: RunCommand) -> None:
    cluster.restart(wal_level="replica")
    try:
        done = kycache("init", "--dsn", cluster.settings.dsn, "--table", "User", "--dry-run")
        assert (done.code, "set wal_level = logical and restart PostgreSQL" in done.err) == (0, True)
    finally:
        cluster.restart(wal_level="logical")


def test_no_source(cluster: Cluster, kycache: RunCommand) -> None:
    assert "give --dsn, or set KYCACHE_SOURCE_DSN" in kycache("init").err
    assert kycache("init", "--dsn", "host=:1 =").code == 3
    done = kycache("init", "--dsn", dsn_of(cluster, port="1"))
    assert (done.code, cluster.settings.password in done.err) == (4, False)


def test_values_are_counted_by_statistics_and_else_among_the_first_rows(cluster: Cluster) -> None:
    with connected(cluster.settings.dsn) as database:
        root = look_at_catalog(database).tables["public", "User"]
        looked = look_at_spreads(database, root, ["plan", "mood"])
        assert (looked["plan"].distinct, looked["plan"].rows, looked["mood"].distinct) == (2, 21, 1)
    cluster.run('ANALYZE "User"; INSERT INTO "User" ("User Id", "made at", plan) VALUES (\'new\', now(), \'new\')')
    with connected(cluster.settings.dsn) as database:
        root = look_at_catalog(database).tables["public", "User"]
        assert root.rows == 21
        assert look_at_spreads(database, root, ["plan"])["plan"].distinct == 2
