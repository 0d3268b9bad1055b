"""The main job on the real stacks: what is written in Postgres is what both APIs answer, whatever is killed."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from kycache.demo.servers.ports import free_ports
from kycache.demo.servers.stack import Kind
from support.faults import seeds
from support.pipeline.freshness_checker import FreshnessChecker
from support.pipeline.list_comparison import ListComparison
from support.pipeline.running_demo import KYCACHE, RunningDemo, running_demo
from support.pipeline.sql_truth import SqlTruth, profile_differences, wait_fresh
from support.pipeline.stack import require_apache
from support.pipeline.workload import Workload
from support.waiting import wait_until

USERS = 300


@pytest.fixture(scope="module", params=list(Kind))
def demo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDemo]:
    """The demo on each stack in turn, for all tests here."""
    if request.param is Kind.APACHE:
        require_apache()
    folder = tmp_path_factory.mktemp(f"demo-{request.param}")
    arguments = ("--stack", request.param, "--users", str(USERS), "--port", str(free_ports(1)[0]))
    with running_demo(folder, *arguments) as running:
        yield running


@pytest.fixture
def client(demo: RunningDemo) -> Iterator[httpx.Client]:
    with demo.client() as made:
        yield made


def assert_equals_sql(demo: RunningDemo, client: httpx.Client, sizes: tuple[int, ...] = (97,)) -> None:
    truth = SqlTruth.read(demo.dsn)
    wait_fresh(client, truth.lsn)
    assert list(profile_differences(client, truth)) == []
    assert list(ListComparison(client, demo.dsn).at_rest(truth, sizes)) == []


def test_the_demo_starts_equal_to_sql(demo: RunningDemo, client: httpx.Client) -> None:
    assert client.get("/users").json()["page"]["total"] == USERS
    assert_equals_sql(demo, client)


def test_every_operation_on_every_table_is_read_back(demo: RunningDemo, client: httpx.Client) -> None:
    user, kyc, account = (str(uuid.uuid4()) for _ in range(3))

    def detail(token: str) -> httpx.Response:
        return client.get(f"/users/{user}", headers={"Kycache-Min-LSN": token})

    def listed(token: str) -> dict[str, str] | None:
        rows = client.get("/users?size=5", headers={"Kycache-Min-LSN": token}).json()["data"]
        return next((row for row in rows if row["userId"] == user), None)

    token = demo.sql(
        "INSERT INTO users(user_id, first_name, last_name, created_at)"
        " VALUES (%s, 'Ada', 'Lovelace', '9999-01-01')",
        user,
    )
    row = {"userId": user, "firstName": "Ada", "lastName": "Lovelace", "kycStatus": "NONE"}
    assert listed(token) == row
    assert detail(token).json()["kyc"] == []

    token = demo.sql("UPDATE users SET first_name = 'Augusta' WHERE user_id = %s", user)
    assert detail(token).json()["firstName"] == "Augusta"
    assert listed(token) == {**row, "firstName": "Augusta"}

    token = demo.sql("INSERT INTO kyc_records(kyc_id, user_id, status) VALUES (%s, %s, 'PENDING')", kyc, user)
    assert detail(token).json()["kycStatus"] == "PENDING"
    token = demo.sql("UPDATE kyc_records SET status = 'VERIFIED' WHERE kyc_id = %s", kyc)
    assert detail(token).json()["kyc"][0]["status"] == "VERIFIED"
    assert (listed(token) or {})["kycStatus"] == "VERIFIED"
    token = demo.sql("DELETE FROM kyc_records WHERE kyc_id = %s", kyc)
    assert detail(token).json()["kycStatus"] == "NONE"

    token = demo.sql(
        "INSERT INTO accounts(account_id, user_id, account_type, account_no) VALUES (%s, %s, 'SAVINGS', 'S-9')",
        account,
        user,
    )
    assert detail(token).json()["accounts"][0]["balance"] == "0.0000"
    token = demo.sql("UPDATE accounts SET balance = 12.5 WHERE account_id = %s", account)
    assert detail(token).json()["accounts"][0]["balance"] == "12.5000"
    token = demo.sql("DELETE FROM accounts WHERE account_id = %s", account)
    assert detail(token).json()["accounts"] == []

    token = demo.sql("DELETE FROM users WHERE user_id = %s", user)
    gone = detail(token)
    assert (gone.status_code, gone.headers["content-type"]) == (404, "application/problem+json")
    assert listed(token) is None


def test_truncate_empties_every_shard(demo: RunningDemo, client: httpx.Client) -> None:
    demo.sql("TRUNCATE accounts")
    truth = SqlTruth.read(demo.dsn)
    assert truth.accounts == {}
    assert_equals_sql(demo, client)
    answer = client.get("/users?size=1")
    assert "Kycache-Suspect" not in answer.headers


@pytest.mark.parametrize("seed", seeds(1, at_most=20))
def test_lists_while_others_write(demo: RunningDemo, client: httpx.Client, seed: int) -> None:
    """Who is not touched stands in every walk once, in SQL's order; afterwards every page equals SQL."""
    rng = random.Random(seed)
    comparison = ListComparison(client, demo.dsn)
    comparison.watch()
    load = Workload(demo.dsn, seed, transactions=50).start()
    differences: list[str] = []
    while load.running:
        differences += comparison.under_writes(rng, rng.choice((7, 50, 97)))
    load.join()
    assert differences == []
    assert comparison.compared["walks"] > 0
    assert_equals_sql(demo, client, sizes=(7, 50, 500))


@pytest.mark.parametrize("seed", seeds(1, at_most=20))
def test_killed_processes_lose_and_double_nothing(demo: RunningDemo, client: httpx.Client, seed: int) -> None:
    """kill -9 of ingest and web, again and again, under random concurrent transactions."""
    rng = random.Random(seed)
    load = Workload(demo.dsn, seed, transactions=120).start()
    for name in rng.sample(["ingest", "ingest", "web"], 3):
        time.sleep(rng.uniform(0.3, 1.5))  # where in the load it strikes; nothing is waited for
        gone = demo.kill(name)
        demo.wait_revived(name, gone)
    load.join()
    wait_until(lambda: _answers(demo), "web does not answer again")
    assert_equals_sql(demo, client)


def _answers(demo: RunningDemo) -> bool:
    try:
        with demo.client() as client:
            # Ready means that the list answers too: each file was walked.
            return client.get("/readyz").status_code == 200 and client.get("/users").status_code == 200
    except httpx.TransportError:
        return False


def test_status_and_doctor_speak_of_the_running_demo(demo: RunningDemo, client: httpx.Client) -> None:
    status = json.loads(demo.command("status", "--json").stdout)
    assert [s["shard"] for s in status["shards"]] == [0, 1, 2, 3]
    assert {s["state"] for s in status["shards"]} == {"ready"}
    assert sum(s["users"] for s in status["shards"]) == client.get("/users").json()["page"]["total"]
    for shard in status["shards"]:
        assert shard["position"]["topic"] == "kyc.changes"
        assert shard["position"]["partition"] == shard["shard"]
        assert shard["position"]["offset"] > 0
        assert shard["quarantined"] == shard["suspect"] == 0
        assert shard["owner"].endswith(f":{demo.facts['pids']['ingest']}")
    doctor = demo.command("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_several_web_workers_read_one_data_directory(demo: RunningDemo, tmp_path: Path) -> None:
    """A second `web`, with two workers on one port, beside the demo's own processes."""
    truth = SqlTruth.read(demo.dsn)
    with (tmp_path / "web.log").open("wb") as log:
        web = subprocess.Popen(
            [*KYCACHE, "--config", str(demo.configuration), "web", "--workers", "2", "--port", "18473"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        with httpx.Client(base_url="http://127.0.0.1:18473", timeout=30) as client:

            def up() -> bool:
                try:
                    return client.get("/readyz").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(up, "the second web does not answer")
            wait_fresh(client, truth.lsn)
            assert list(profile_differences(client, truth)) == []
            assert list(ListComparison(client, demo.dsn).at_rest(truth, (97,))) == []
    finally:
        web.send_signal(signal.SIGTERM)
        assert web.wait(30) == 0, (tmp_path / "web.log").read_text()


def test_no_log_holds_personal_data(demo: RunningDemo) -> None:
    truth = SqlTruth.read(demo.dsn)
    logs = "".join(
        (Path(demo.facts["dir"]) / "logs" / f"{name}.log").read_text(encoding="utf-8")
        for name in ("ingest", "web")
    )
    for user in truth.users.values():
        assert user[0] not in logs  # the id is pii of its own where logs are kept for years
        assert not any(value and len(value) > 5 and value in logs for value in user[1:5])


def test_rebuild_beside_a_running_ingest(demo: RunningDemo, client: httpx.Client) -> None:
    """The holder carries it out; the shard reads its partition again from offset 0 and converges."""
    generation = Path(demo.facts["dir"]) / "data" / "shards" / "0001"
    before = os.readlink(generation / "CURRENT")  # noqa: PTH115
    rebuilt = demo.command("rebuild", "--shard", "1", "--yes")
    assert rebuilt.returncode == 0, rebuilt.stderr
    assert client.get("/users").status_code == 200  # what it had goes on serving
    assert_equals_sql(demo, client)
    after = os.readlink(generation / "CURRENT")  # noqa: PTH115
    assert after != before
    wait_until(lambda: [p.name for p in generation.glob("gen-*")] == [after], "the former one stays")


def test_destroyed_files_come_back_from_a_snapshot(demo: RunningDemo, client: httpx.Client) -> None:
    """Under load: one shard's by `snapshot restore`, then every shard's by themselves when ingest starts again."""
    load = Workload(demo.dsn, 21, transactions=60).start()
    taken = demo.command("snapshot", "create", "--json")
    assert taken.returncode == 0, taken.stderr
    snapshot = json.loads(taken.stdout)["id"]
    verified = demo.command("snapshot", "verify", snapshot, "--full")
    assert verified.returncode == 0, verified.stderr
    shards = Path(demo.facts["dir"]) / "data" / "shards"
    shutil.rmtree(shards / "0001")
    restored = demo.command("snapshot", "restore", snapshot, "--shard", "1")
    assert restored.returncode == 0, restored.stderr
    load.join()
    assert_equals_sql(demo, client)
    before = came_back(demo)  # one, where ingest noticed sooner than the command came
    load = Workload(demo.dsn, 22, transactions=60).start()
    for shard in shards.iterdir():
        shutil.rmtree(shard)
    demo.wait_revived("ingest", demo.kill("ingest"))
    load.join()
    wait_until(lambda: _answers(demo), "the shards do not come back")
    assert_equals_sql(demo, client)
    assert came_back(demo) >= before + 4  # more, where ingest noticed before it was killed


def came_back(demo: RunningDemo) -> int:
    """How many shards ingest has had come back by itself."""
    log = (Path(demo.facts["dir"]) / "logs" / "ingest.log").read_text(encoding="utf-8")
    return log.count("a shard came back from a snapshot")


@pytest.mark.parametrize("seed", seeds(1, at_most=20))
def test_no_read_is_older_than_its_label(demo: RunningDemo, seed: int) -> None:
    """Long and short transactions interleave; ingest and Debezium are killed and started again meanwhile."""
    checker = FreshnessChecker(demo.dsn, demo.facts["http"], seed).start()
    load = Workload(demo.dsn, seed + 1, workers=2, transactions=60).start()
    for name in ["debezium", "ingest"] if demo.facts["connect"] else ["ingest"]:
        time.sleep(1.0)  # while reads are answered; nothing is waited for
        demo.wait_revived(name, demo.kill(name))
    load.join()
    wait_until(lambda: checker.bounded_reads > 100, "bounded reads are not answered again")
    checker.stop()
    assert checker.violations == []


def test_an_epoch_starts_over_from_a_snapshot_that_it_orders(demo: RunningDemo, client: httpx.Client) -> None:
    """`rebuild --epoch` through Kafka Connect, under load: reads go on, and in the end all is as in SQL."""
    if demo.facts["connect"] is None:
        pytest.skip("the embedded stack has no Kafka Connect to tell")
    shards = Path(demo.facts["dir"]) / "data" / "shards"
    before = {link: os.readlink(link) for link in shards.glob("*/CURRENT")}  # noqa: PTH115
    load = Workload(demo.dsn, 11, transactions=60).start()
    done = demo.command("rebuild", "--epoch", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert client.get("/users").status_code == 200
    load.join()
    assert_equals_sql(demo, client)
    assert [link for link, generation in before.items() if os.readlink(link) == generation] == []  # noqa: PTH115
    doctor = demo.command("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr


def test_a_whole_re_snapshot_sweeps_what_is_gone(demo: RunningDemo, client: httpx.Client) -> None:
    """Rows deleted while the connector forgets its offsets come only as absence (DEBEZIUM 2, 22)."""
    connect = demo.facts["connect"]
    if connect is None:
        pytest.skip("the embedded stack has no Kafka Connect to tell")
    connector = f"{connect}/connectors/kycache"
    before = {s["shard"]: s["watermark"] for s in json.loads(demo.command("status", "--json").stdout)["shards"]}
    httpx.put(f"{connector}/stop", timeout=30).raise_for_status()
    wait_until(
        lambda: httpx.get(f"{connector}/status").json()["connector"]["state"] == "STOPPED", "it does not stop"
    )
    demo.sql("DELETE FROM users WHERE user_id IN (SELECT user_id FROM users ORDER BY user_id LIMIT 20)")
    demo.sql("UPDATE users SET last_name = 'Snapshot' WHERE user_id IN (SELECT user_id FROM users LIMIT 20)")
    wait_until(
        lambda: httpx.delete(f"{connector}/offsets", timeout=30).status_code == 200, "offsets are not dropped"
    )
    httpx.put(f"{connector}/resume", timeout=30).raise_for_status()
    assert_equals_sql(demo, client)
    after = {s["shard"]: s["watermark"] for s in json.loads(demo.command("status", "--json").stdout)["shards"]}
    assert all(after[shard] != before[shard] for shard in before)
