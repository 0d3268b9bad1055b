"""DDL that changes rows without an event, on the real stack: answers say that they are in doubt, until when."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kycache.demo.servers.ports import free_ports
from kycache.demo.servers.stack import Kind
from support.pipeline.running_demo import RunningDemo, running_demo
from support.pipeline.sql_truth import SqlTruth, profile_differences, wait_fresh
from support.pipeline.stack import require_apache
from support.waiting import wait_until

REBUILT_WAIT_S = 120.0
"""A snapshot that Kafka Connect is ordered to take, and the shards built from it."""

HARMLESS = """
CREATE INDEX ON users (last_name); ANALYZE; COMMENT ON COLUMN users.phone IS 'of the user';
ALTER TABLE accounts ADD COLUMN note text DEFAULT 'x'; ALTER TABLE accounts DROP COLUMN note;
CREATE TEMP TABLE users (phone int); GRANT SELECT ON users TO PUBLIC
"""
RENAMED = "ALTER TABLE users RENAME COLUMN phone TO tel; UPDATE users SET tel = '8' WHERE user_id = '{}'"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    arguments = ("--stack", Kind.EMBEDDED, "--users", "40", "--port", str(free_ports(1)[0]))
    with running_demo(tmp_path_factory.mktemp("altered"), *arguments) as running:
        yield running


@pytest.fixture
def client(demo: RunningDemo) -> Iterator[httpx.Client]:
    with demo.client() as made:
        yield made


def suspect(client: httpx.Client, path: str, token: str | None = None) -> bool:
    """Whether an answer says so, as of a token."""
    if token is not None:
        wait_fresh(client, token)
    answer = client.get(path)
    assert answer.status_code == 200
    return str(answer.headers.get("Kycache-Suspect", "")) == "true"


def reasons(demo: RunningDemo) -> list[str]:
    status = json.loads(demo.command("status", "--json").stdout)
    return [shard["reason"] or "" for shard in status["shards"]]


def test_what_changes_no_row_raises_no_alarm(demo: RunningDemo, client: httpx.Client) -> None:
    assert not suspect(client, "/users")
    demo.sql(HARMLESS)
    demo.sql("TRUNCATE accounts")
    for _ in range(2):  # the beats that come after it
        token = demo.sql("SELECT pg_sleep(0.6)")
        assert not suspect(client, "/users", token)
    assert reasons(demo) == [""] * 4


def test_a_renamed_column_puts_every_answer_in_doubt(demo: RunningDemo, client: httpx.Client) -> None:
    one, *others = [row["userId"] for row in client.get("/users?size=40").json()["data"]]
    token = demo.sql(RENAMED.format(one))
    assert suspect(client, f"/users/{one}", token)  # its row came without the column
    assert client.get(f"/users/{one}").json()["phone"] != "8"
    # Of the other shards their next beat tells.
    wait_until(lambda: all(suspect(client, f"/users/{user}") for user in others), "not all are in doubt")
    assert suspect(client, "/users?size=1")
    told = reasons(demo)
    assert all(reason.startswith("every answer is suspect: ") for reason in told)
    assert all("`kycache rebuild --epoch`" in reason for reason in told)
    assert sum("rows come of table users without phone, which earlier ones had" in reason for reason in told) == 1
    assert sum("what the view reads was altered at the source" in reason for reason in told) == 3
    findings = json.loads(demo.command("doctor", "--json").stdout)["findings"]
    assert {"alteration", "tables"} <= {finding["check"] for finding in findings}
    assert next(f for f in findings if f["check"] == "alteration")["problem"].startswith(
        "every answer of shard 0, 1, 2, 3 is suspect: rows come of table users without phone"
    )


def test_it_stays_when_the_name_is_put_back(demo: RunningDemo, client: httpx.Client) -> None:
    demo.sql("ALTER TABLE users RENAME COLUMN tel TO phone")
    token = demo.sql("UPDATE users SET phone = '9'")
    assert suspect(client, "/users", token)
    gone = demo.kill("ingest")
    demo.wait_revived("ingest", gone)
    token = demo.sql("UPDATE users SET phone = '10'")
    assert suspect(client, "/users", token)


def test_acknowledged_it_is_trusted_until_the_next_time(demo: RunningDemo, client: httpx.Client) -> None:
    token = demo.sql("SELECT pg_sleep(0.6)")
    assert suspect(client, "/users", token)  # each shard has had a beat since
    done = demo.command("rebuild", "--acknowledge")
    assert (done.returncode, done.stdout.count("acknowledged")) == (0, 4), done.stderr
    assert reasons(demo) == [""] * 4
    token = demo.sql("UPDATE users SET phone = '11'")
    assert not suspect(client, "/users", token)
    again = demo.command("rebuild", "--acknowledge")
    assert (again.returncode, again.stdout.count("not altered")) == (0, 4)
    demo.sql("ALTER TYPE kyc_status RENAME VALUE 'REJECTED' TO 'DENIED'")
    wait_until(lambda: suspect(client, "/users?size=1"), "a renamed label was not noticed")


def test_a_whole_snapshot_that_begins_later_ends_it(tmp_path: Path) -> None:
    require_apache()
    arguments = ("--stack", Kind.APACHE, "--users", "40", "--port", str(free_ports(1)[0]))
    with running_demo(tmp_path, *arguments) as demo, demo.client() as client:
        assert not suspect(client, "/users?size=1")
        findings = json.loads(demo.command("doctor", "--json").stdout)["findings"]
        assert not [f for f in findings if f["check"] in ("connector", "heartbeat", "fingerprint", "alteration")]
        demo.sql("ALTER TABLE users ALTER COLUMN phone TYPE text USING reverse(phone)")
        wait_until(lambda: suspect(client, "/users?size=1"), "a changed type was not noticed")
        ordered = demo.command("rebuild", "--epoch")
        assert ordered.returncode == 0, ordered.stderr
        assert suspect(client, "/users?size=1")  # what serves is what it was
        wait_until(lambda: not suspect(client, "/users?size=1"), "a whole snapshot did not end it", REBUILT_WAIT_S)
        truth = SqlTruth.read(demo.dsn)
        wait_fresh(client, truth.lsn)
        assert list(profile_differences(client, truth)) == []
        assert reasons(demo) == [""] * 4
        # Under a definition that no longer fits another snapshot ends nothing.
        demo.sql("ALTER TABLE users RENAME COLUMN phone TO tel")
        assert demo.command("rebuild", "--epoch").returncode == 0
        lacking = "every answer is suspect: rows come of table users without phone, which earlier ones had"
        wait_until(
            lambda: all(reason.startswith(lacking) for reason in reasons(demo)),
            "a definition that no longer fits was trusted again",
            REBUILT_WAIT_S,
        )
