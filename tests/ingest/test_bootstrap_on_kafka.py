"""A node that starts with empty shards, on a real Apache Kafka: from a snapshot, then the log (DESIGN 8)."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, TopicPartition

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.router import Router
from kycache.actors.rules.freshness import Limits
from kycache.cli.doctor.command import Look
from kycache.cli.doctor.topic_rules import WARNING
from kycache.demo.servers.ports import free_ports
from support.pipeline.ingest_process import Home, offset
from support.pipeline.proxy import Proxy
from support.pipeline.scene import PARTITIONS, VIEW, Scene
from support.pipeline.stack import Pipeline
from support.shards import MAP_BYTES

Node = Callable[..., Home]
GRACE_S = 10.0
KEY = "a key of at least thirty-two characters"


@pytest.fixture
def scene(apache_stack: Pipeline, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    topic = f"b-{request.node.name[-60:]}-{time.time_ns() % 10**9}"
    made = Scene(tmp_path, apache_stack.bootstrap, topic)
    yield made
    made.feed.close()


@pytest.fixture
def node(scene: Scene, tmp_path: Path) -> Node:
    """Makes nodes of the scene's topic, each with a data directory of its own, and all with one store."""

    def make(name: str, **snapshots: str) -> Home:
        folder = tmp_path / name
        folder.mkdir()
        store = (tmp_path / "store").as_uri()
        made = Home(folder, scene.home.bootstrap, scene.home.topic, snapshots={"store": store, **snapshots})
        # Members of one group must share a data directory.
        text = made.configuration.read_text().replace('group = "group-', f'group = "{name}-')
        made.configuration.write_text(text)
        return made

    return make


def read_and_kept(scene: Scene, first: Home) -> str:
    """A first node reads all there is, and a snapshot is taken; its id."""
    scene.home = first
    with first.ingest():
        scene.wait_caught_up()
    done = first.run("snapshot", "create")
    assert done.returncode == 0, done.stderr
    return done.stdout.partition(":")[0]


def test_a_new_node_takes_the_newest_and_reads_on(scene: Scene, node: Node) -> None:
    """FAULTS 15: who was deleted since stays deleted, also where the log from before is gone."""
    scene.begin()
    first = node("first")
    older = read_and_kept(scene, first)
    assert "there are no snapshots in" in first.log()
    scene.live(20)
    newer = read_and_kept(scene, first)
    gone = next(iter(scene.source.users))
    scene.source.delete(gone)
    scene.live(20)
    admin = KafkaAdminClient(bootstrap_servers=first.bootstrap)
    kept = [offset(shard) for shard in first.status()]
    admin.delete_records({TopicPartition(first.topic, n): kept[n] for n in range(PARTITIONS)})
    second = node("second")
    scene.home = second
    with second.ingest():
        scene.wait_equal()
        log = second.log()
        assert log.count("a shard came back from a snapshot") == PARTITIONS
        assert newer in log
        assert older not in log
    opened = Environments(readonly=True, map_size=MAP_BYTES)
    reads = Router(DataDirectory(second.folder / "data"), opened, VIEW, Limits())
    user = reads.user_id(gone)
    assert user is not None
    with reads.snapshot(reads.shard_of(user)) as snapshot:
        profile = snapshot.profile(user.key)
        assert profile is None or not profile.exists
    reads.close()
    # A log that begins behind every snapshot: refused, with what there was and why it would not do.
    ends = scene.feed.end_offsets()
    admin.delete_records({TopicPartition(first.topic, 0): ends[0]})
    admin.close()
    third = node("third")
    with third.ingest():
        shards = third.wait(lambda s: s[0]["state"] == "halted" and offset(s[1]) == ends[1], "not halted")
        assert f"its log begins at offset {ends[0]}, and no snapshot in file:" in shards[0]["reason"]
        assert "`kycache rebuild --shard 0 --epoch`" in shards[0]["reason"]
        assert f"the log begins at {ends[0]}" in third.log()


def test_doctor_says_what_no_snapshot_could_bring_back(scene: Scene, node: Node) -> None:
    """Of a topic that forgets, as these do after the broker's seven days."""
    scene.begin()
    scene.home = first = node("first")
    with first.ingest():
        scene.wait_caught_up()
    looks = (Look.TOPIC, Look.SNAPSHOTS)
    (none,) = scene.doctor(*looks)
    assert none.severity == WARNING
    assert none.problem.endswith("shard 0, 1, 2 could not come back: no snapshot holds it")
    assert first.run("snapshot", "create", "--shard", "0", "--shard", "1").returncode == 0
    (third,) = scene.doctor(*looks)
    assert third.problem.endswith("shard 2 could not come back: no snapshot holds it")
    assert first.run("snapshot", "create").returncode == 0
    assert scene.doctor(*looks) == []
    scene.live()
    end = scene.feed.end_offsets()[1]
    admin = KafkaAdminClient(bootstrap_servers=first.bootstrap)
    admin.delete_records({TopicPartition(first.topic, 1): end})
    admin.close()
    (cut,) = scene.doctor(*looks)
    assert "shard 1 could not come back: snapshot " in cut.problem
    assert cut.problem.endswith(f"and the log begins at {end}")


def test_a_truncate_that_nobody_was_told_of_is_known_to_a_new_node_too(scene: Scene, node: Node) -> None:
    """Its log may begin behind it: no freshness is claimed for what a snapshot carries of it."""
    scene.begin()
    scene.source.trigger = False
    scene.source.truncate("accounts")
    scene.live()
    read_and_kept(scene, node("first"))
    second = node("second")
    scene.home = second
    with second.ingest():
        scene.wait_caught_up()
        shards = second.wait(lambda s: all(x["state"] == "stale" for x in s), "not stale")
        assert all("`kycache rebuild --epoch`" in shard["reason"] for shard in shards)


def test_switched_off_the_log_alone_is_read(scene: Scene, node: Node) -> None:
    scene.begin()
    read_and_kept(scene, node("first"))
    second = node("second")
    text = second.configuration.read_text()
    second.configuration.write_text(text + "bootstrap = false\n")
    scene.home = second
    with second.ingest():
        scene.wait_equal()
        assert "came back" not in second.log()


def test_a_store_that_goes_deaf_holds_up_no_end(scene: Scene, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 28: it accepts connections and says nothing; the shards say that they wait for it."""
    scene.begin()
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        alone = node("alone", key=KEY)
        alone.configuration.write_text(alone.configuration.read_text().replace("file:///", "s3://bucket/"))
        with alone.ingest() as process:
            shards = alone.wait(lambda s: all(x["state"] == "restoring" for x in s), "does not wait")
            assert "looks for a snapshot in s3://bucket/" in shards[0]["reason"]
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(GRACE_S) == 0, alone.log()
            assert time.monotonic() - began < GRACE_S


class Stalling(Proxy):
    """Before a bucket: passes everything on but shards' files, until it hears."""

    def _ask(self, client: socket.socket, broker: socket.socket) -> bool:
        data = client.recv(1 << 16)
        if b".mdb.zst" in data:
            self._hearing.wait()
        broker.sendall(data)
        return bool(data)

    def _answer(self, broker: socket.socket, client: socket.socket) -> bool:
        data = broker.recv(1 << 16)
        client.sendall(data)
        return bool(data)


def test_killed_while_it_fetches(
    scene: Scene, node: Node, bucket: str, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 14: its child ends with it, and the next start removes what it left, and fetches again."""
    scene.begin()
    store = {"store": f"{bucket}/{scene.home.topic}", "key": KEY}
    first = node("first", **store)
    first.configuration.write_text(first.configuration.read_text() + "allow_unencrypted = true\n")
    read_and_kept(scene, first)
    proxy = Stalling(int(s3.rpartition(":")[2]), *free_ports(1))
    proxy.start()
    proxy.deafen()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{proxy.address}")
    second = node("second", **store)
    scene.home = second
    with second.ingest() as process:
        second.wait(lambda s: any("comes back from" in (x["reason"] or "") for x in s), "does not begin")
        left = list(second.folder.glob("data/shards/*/gen-*"))
        assert left
        process.kill()
        process.wait()
        for generation in left:
            with (generation / "ARRIVING").open("rb") as file:
                _wait_unlocked(file.fileno())
    proxy.hear()
    with second.ingest():
        scene.wait_equal()
        assert second.log().count("a shard came back from a snapshot") == PARTITIONS
    assert len(list(second.folder.glob("data/shards/*/gen-*"))) == PARTITIONS
    proxy.stop()


def _wait_unlocked(descriptor: int) -> None:
    """Until the one who filled a generation is gone."""
    import fcntl

    deadline = time.monotonic() + GRACE_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            assert time.monotonic() < deadline, "the child lives on"
            time.sleep(0.02)
