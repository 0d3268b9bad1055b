"""`kycache ingest` against a real Apache Kafka: what it refuses and why, quarantine, halts, several members."""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import NewPartitions

from kycache.actors.files.directory import DataDirectory
from kycache.cli.doctor.command import Look, diagnose
from kycache.cli.settings.loading import load_settings
from support.pipeline.ingest_process import Home, delete_topic, make_topic, offset
from support.pipeline.scene import PARTITIONS, Scene
from support.pipeline.stack import Pipeline
from support.waiting import wait_until


@pytest.fixture
def scene(apache_stack: Pipeline, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    topic = f"t-{request.node.name.replace('[', '-').replace(']', '')[-60:]}-{time.time_ns() % 10**9}"
    made = Scene(tmp_path, apache_stack.bootstrap, topic)
    yield made
    made.feed.close()
    print(made.home.log())  # pytest shows it where the test failed


def test_reads_ends_and_goes_on_where_it_was(scene: Scene) -> None:
    scene.begin()
    with scene.home.ingest():
        shards = scene.wait_caught_up()
        assert {s["state"] for s in shards} == {"stale"}  # the fake source's clock stands in the past
    scene.assert_equals_source()
    scene.live()
    with scene.home.ingest():
        scene.wait_caught_up()
    scene.assert_equals_source()
    assert [s["owner"] for s in scene.home.status()] == [None] * PARTITIONS


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_every_compression_is_read(apache_stack: Pipeline, tmp_path: Path, codec: str) -> None:
    """By the topic's setting, so Kafka's own libraries compress; one value is larger than their blocks."""
    topic = f"t-{codec}-{time.time_ns() % 10**9}"
    scene = Scene(tmp_path, apache_stack.bootstrap, topic, compression=codec)
    try:
        scene.begin()
        scene.feed.raw(0, b"k", b'{"a": "' + b"x" * 900_000 + b'"}')
        with scene.home.ingest():
            scene.wait_caught_up(more=1)
        scene.assert_equals_source()
        assert sum(shard["quarantined"] for shard in scene.home.status()) == 1
    finally:
        scene.feed.close()


def test_killed_again_and_again_loses_and_doubles_nothing(scene: Scene) -> None:
    scene.begin()
    for _ in range(4):
        with scene.home.ingest() as process:
            scene.live(20)
            scene.home.wait(lambda shards: any(offset(s) for s in shards), "reads nothing")
            process.kill()
            process.wait()
    with scene.home.ingest():
        scene.wait_caught_up()
    scene.assert_equals_source()


def test_two_members_divide_the_shards_and_take_over(scene: Scene) -> None:
    """One data directory, two processes; one is killed in mid-load and started again."""
    scene.begin()

    def owners(shards: list[dict[str, Any]]) -> set[str]:
        return {s["owner"] for s in shards if s["owner"]}

    with scene.home.ingest("first"), scene.home.ingest("second") as second:
        scene.home.wait(lambda shards: len(owners(shards)) == 2, "the shards are not divided")
        for _ in range(3):
            scene.live(10)
            second.kill()
            second.wait()
            with scene.home.ingest("second again") as again:
                scene.live(10)
                scene.wait_caught_up()
                again.kill()
                again.wait()
        # A static member that stays away loses its shards when its session ends.
        scene.live()
        shards = scene.wait_caught_up()
        assert len(owners(shards)) == 1
    scene.assert_equals_source()


def test_a_stalled_member_is_fenced_off(scene: Scene) -> None:
    """FAULTS 4 and 20: it loses its partitions while it stands still; whoever has them then waits for its lock."""
    scene.begin()
    with scene.home.ingest("first") as first, scene.home.ingest("second"):
        scene.home.wait(lambda s: len({x["owner"] for x in s} - {None}) == 2, "the shards are not divided")
        mine = [s["shard"] for s in scene.wait_caught_up() if (s["owner"] or "").endswith(f":{first.pid}")]
        assert mine
        first.send_signal(signal.SIGSTOP)
        try:
            scene.live(10)
            shards = scene.home.wait(lambda s: all(s[n]["state"] == "halted" for n in mine), "nobody says so")
            assert f":{first.pid}" in shards[mine[0]]["reason"]
        finally:
            first.send_signal(signal.SIGCONT)
        scene.wait_caught_up()
        scene.home.wait(lambda s: not any(x["state"] == "halted" for x in s), "a shard stays halted")
    scene.assert_equals_source()


def test_poison_is_quarantined_replayed_and_dropped(scene: Scene) -> None:
    scene.begin()
    user = next(iter(scene.source.users))
    partition = scene.source._partition(user)
    with scene.home.ingest():
        scene.wait_caught_up()
        scene.feed.raw(partition, user.encode(), b"not json, says Lovelace-3141")
        scene.feed.raw(0, None, b"no key and no json")
        scene.wait_caught_up(more=2)
        shards = {s["shard"]: s for s in scene.home.status()}
        assert sum(s["quarantined"] for s in shards.values()) == 2
        assert shards[partition]["suspect"] == 1

        listed = json.loads(scene.home.run("quarantine", "list", "--json").stdout)
        assert [fact["scope"] for fact in listed] in (["profile", "shard"], ["shard", "profile"])
        bad = next(fact for fact in listed if fact["scope"] == "profile")
        shown = scene.home.run("quarantine", "show", str(bad["shard"]), str(bad["offset"])).stdout
        assert "Lovelace-3141" in shown  # on demand only
        kept = json.loads(scene.home.run("quarantine", "replay", "--json").stdout)
        assert {k["outcome"].split(":")[0] for k in kept} == {"kept"}
        assert sum(s["quarantined"] for s in scene.home.status()) == 2

        done = scene.home.run("quarantine", "drop", "--yes", "--json")
        assert {k["outcome"] for k in json.loads(done.stdout)} == {"dropped"}, done.stderr
        assert all(s["quarantined"] == s["suspect"] == 0 for s in scene.home.status())
        scene.live()
        scene.wait_caught_up(more=2)
    scene.assert_equals_source()
    assert "Lovelace" not in scene.home.log()
    assert user not in scene.home.log()


def test_halt_instead_of_quarantine(scene: Scene, tmp_path: Path) -> None:
    scene.begin()
    home = Home(tmp_path, scene.home.bootstrap, scene.home.topic, ingest={"poison": "halt"})
    with home.ingest():
        scene.wait_caught_up()
        scene.feed.raw(1, b"x", b"not json")
        shards = home.wait(lambda shards: shards[1]["state"] == "halted", "shard 1 does not halt")
        assert "[ingest] poison" in shards[1]["reason"]
        scene.live()
        home.wait(lambda s: s[0]["lag"] == s[2]["lag"] == 0 and offset(s[0]) > 0, "others stopped")


def test_a_wrong_key_halts_its_shard_and_no_other(scene: Scene) -> None:
    """FAULTS 21: the first such change, naming table, key form and setting."""
    scene.begin()
    with scene.home.ingest():
        before = scene.wait_caught_up()
        user = next(iter(scene.source.users.values()))
        wrong = (scene.source._partition(user["user_id"]) + 1) % PARTITIONS
        value = {
            "op": "c",
            "before": None,
            "after": {**user, "user_id": scene.source.new_id()},
            "source": {
                "table": "users",
                "ts_ms": 2_000_000_000_000,
                "lsn": 1 << 40,
                "sequence": f'["{1 << 40}","{1 << 40}"]',
            },
        }
        scene.feed.raw(wrong, user["user_id"].encode(), json.dumps(value).encode())
        shards = scene.home.wait(lambda s: s[wrong]["state"] == "halted", "the shard does not halt")
        assert "'users'" in shards[wrong]["reason"]
        assert "[kafka] key" in shards[wrong]["reason"]
        assert user["user_id"] not in shards[wrong]["reason"]
        assert shards[wrong]["position"] == before[wrong]["position"]
        scene.live()
        ends = scene.feed.end_offsets()
        others = [n for n in range(PARTITIONS) if n != wrong]
        scene.home.wait(lambda s: all(offset(s[n]) == ends[n] for n in others), "others stopped")
        assert f"`kycache rebuild --shard {wrong} --epoch`" in shards[wrong]["reason"]
        (found,) = scene.doctor(Look.TOPIC, Look.LOG)
        assert found.problem.startswith(f"partition {wrong}: offset ")
        assert user["user_id"] not in found.problem
        scene.start_over_by_hand("--shard", str(wrong))
        scene.wait_equal(more=1)


def test_records_deleted_below_the_position_halt_the_shard(scene: Scene) -> None:
    """FAULTS 16: never skips, never resets by itself."""
    scene.begin()
    with scene.home.ingest():
        before = scene.wait_caught_up()
    scene.live()
    admin = KafkaAdminClient(bootstrap_servers=scene.home.bootstrap)
    ends = scene.feed.end_offsets()
    admin.delete_records({TopicPartition(scene.home.topic, 0): ends[0]})
    admin.close()
    with scene.home.ingest():
        shards = scene.home.wait(lambda s: s[0]["state"] == "halted", "the shard does not halt")
        assert f"no longer holds offset {before[0]['position']['offset']}" in shards[0]["reason"]
        assert "`kycache rebuild --shard 0 --epoch`" in shards[0]["reason"]
        assert shards[0]["position"] == before[0]["position"]
        scene.home.wait(lambda s: all(offset(s[n]) == ends[n] for n in (1, 2)), "the others do not go on")
        (found,) = scene.doctor(Look.TOPIC, Look.LOG)
        assert found.problem.startswith(f"partition 0 begins at offset {ends[0]}, its shard reads on from ")
        refused = scene.home.run("rebuild", "--shard", "0", "--yes")
        assert refused.returncode == 5
        assert "no longer holds offset 0" in refused.stderr
        scene.start_over_by_hand("--shard", "0")
        scene.wait_equal()
        # Where the log is whole is remembered: the same shard can be read again without another snapshot.
        again = scene.home.run("rebuild", "--shard", "0", "--yes")
        assert again.returncode == 0, again.stderr
        scene.wait_equal()
        ends = scene.feed.end_offsets()
    # A log that starts above 0 and no store at all: refused as well (DESIGN 6.5).
    other = Home(_folder(scene, "other"), scene.home.bootstrap, scene.home.topic)
    other.configuration.write_text(other.configuration.read_text().replace("group-", "other-"))
    with other.ingest():
        other.wait(lambda s: s[0]["state"] == "halted" and offset(s[1]) == ends[1], "not halted")


def _folder(scene: Scene, name: str) -> Path:
    made = scene.home.folder / name
    made.mkdir()
    return made


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_recreated_topic_halts_every_shard_and_rebuild_mends(scene: Scene, meanwhile: bool) -> None:
    """FAULTS 17. To an ingest that runs it looks like a log that was cut at first, and is told as what it is."""
    scene.begin()
    with ExitStack() as running:
        running.enter_context(scene.home.ingest())
        scene.wait_caught_up()
        if not meanwhile:
            running.close()
        delete_topic(scene.home.bootstrap, scene.home.topic)
        _make_again(scene)
        if not meanwhile:
            running.enter_context(scene.home.ingest())
        scene.home.wait(
            lambda s: all("is not the one that was read" in (x["reason"] or "") for x in s), "not halted"
        )
        (found,) = scene.doctor(Look.TOPIC)
        assert "is not the one that was read" in found.problem
        scene.source.snapshot()
        scene.live()
        done = scene.home.run("rebuild", "--yes")
        assert done.returncode == 0, done.stderr
        scene.wait_equal()


def test_a_source_that_moved_back_halts_every_shard_and_an_epoch_mends(scene: Scene) -> None:
    """FAULTS 19: a restored backup, say. Nothing is swallowed; the log read again would only halt again."""
    scene.begin()
    with scene.home.ingest():
        before = scene.wait_caught_up()
        scene.source._lsn //= 2
        scene.source._last_commit = scene.source._lsn
        scene.live()
        shards = scene.home.wait(lambda s: all(x["state"] == "halted" for x in s), "not halted")
        assert "the source moved back" in shards[0]["reason"]
        assert "`kycache rebuild --epoch`" in shards[0]["reason"]
        assert [s["position"] for s in shards] == [s["position"] for s in before]
        again = scene.home.run("rebuild", "--shard", "0", "--yes")
        assert again.returncode == 0, again.stderr
        scene.home.wait(lambda s: "moved back" in (s[0]["reason"] or ""), "it does not halt again")
        assert scene.home.status()[0]["users"] == before[0]["users"]  # what served goes on serving
        scene.start_over_by_hand()
        scene.wait_equal()


def test_another_source_is_noticed_by_asking_it(scene: Scene, apache_stack: Pipeline) -> None:
    """Kafka shows nothing of it where Debezium kept its offsets. A doubt outlives the halt, an epoch ends both."""
    scene.home = Home(scene.home.folder, scene.home.bootstrap, scene.home.topic, source={"dsn": apache_stack.dsn})
    data = scene.home.folder / "data"
    scene.begin()
    with scene.home.ingest():
        scene.wait_caught_up()
        wait_until(lambda: (data / "source.json").exists(), "the source is not looked at")
        assert not DataDirectory(data).doubts()
    known = json.loads((data / "source.json").read_bytes())
    (data / "source.json").write_text(json.dumps({**known, "system": "7"}), encoding="utf-8")

    def halted(shards: list[dict[str, Any]]) -> bool:
        return all(s["state"] == "halted" and "another database cluster" in s["reason"] for s in shards)

    with scene.home.ingest():
        scene.home.wait(halted, "is not halted")
    assert all("another database cluster" in s["reason"] for s in scene.home.status())
    with scene.home.ingest():
        scene.start_over_by_hand()
        scene.wait_equal()
        begun = {**known, "epoch": 1}
        wait_until(lambda: json.loads((data / "source.json").read_bytes()) == begun, "the new source is not taken")
        scene.wait_equal()


def test_a_topic_that_still_grows_begins_no_epoch(scene: Scene) -> None:
    scene.begin()
    with scene.home.ingest():
        scene.wait_caught_up()
    going, stopped = threading.Event(), threading.Event()

    def beat() -> None:
        while not stopped.wait(0.2):
            scene.source.beat()
            scene.feed.send()
            going.set()

    beating = threading.Thread(target=beat)
    beating.start()
    going.wait()
    try:
        refused = scene.home.run("rebuild", "--epoch", "--by-hand", "--yes")
    finally:
        stopped.set()
        beating.join()
    assert refused.returncode == 5
    assert "Debezium is not stopped" in refused.stderr
    nobody = scene.home.run("rebuild", "--epoch", "--yes")
    assert nobody.returncode == 5
    assert "`kycache rebuild --epoch --by-hand`" in nobody.stderr


def _make_again(scene: Scene) -> None:
    """The broker takes a moment to forget a topic."""
    deadline = time.monotonic() + 30
    while True:
        try:
            make_topic(scene.home.bootstrap, scene.home.topic, PARTITIONS)
            break
        except Exception:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    scene.source.log.clear()
    scene.feed.sent = 0


def test_added_partitions_end_the_process(scene: Scene) -> None:
    scene.begin()
    with scene.home.ingest():
        scene.wait_caught_up()
    admin = KafkaAdminClient(bootstrap_servers=scene.home.bootstrap)
    admin.create_partitions({scene.home.topic: NewPartitions(total_count=PARTITIONS + 1)})
    admin.close()
    (found,) = scene.doctor(Look.TOPIC)
    assert f"has {PARTITIONS + 1} partitions" in found.problem
    refused = scene.home.run("ingest")
    assert refused.returncode == 5
    assert f"has {PARTITIONS + 1} partitions" in refused.stderr
    assert "next:" in refused.stderr


def test_a_data_directory_removed_under_it_ends_the_process(scene: Scene) -> None:
    scene.begin()
    with scene.home.ingest() as process:
        scene.wait_caught_up()
        shutil.rmtree(scene.home.folder / "data")
        assert process.wait(timeout=40) == 5
    assert "was removed or replaced while ingest ran" in scene.home.log()
    with scene.home.ingest():
        scene.wait_caught_up()
    scene.assert_equals_source()


def test_another_view_is_refused_until_rebuilt(scene: Scene, tmp_path: Path) -> None:
    scene.begin()
    with scene.home.ingest():
        scene.wait_caught_up()
    text = (Path(__file__).parents[2] / "model" / "kyc.toml").read_text(encoding="utf-8")
    (tmp_path / "other.toml").write_text(text.replace("pii", "open"), encoding="utf-8")
    scene.home.configuration.write_text(
        scene.home.configuration.read_text(encoding="utf-8") + '[view]\nfile = "other.toml"\n', encoding="utf-8"
    )
    for command in ("ingest", "web"):
        refused = scene.home.run(command)
        assert refused.returncode == 5
        assert "view definition" in refused.stderr
        assert "kycache rebuild" in refused.stderr
    (found,) = scene.doctor(Look.TOPIC, Look.LOG)
    assert (found.check, "view definition" in found.problem) == ("view", True)
    assert scene.home.run("rebuild", "--shard", "0", "--yes").returncode == 5
    rebuilt = scene.home.run("rebuild", "--yes")
    assert rebuilt.returncode == 0, rebuilt.stderr
    with scene.home.ingest():
        scene.home.wait(lambda s: {x["state"] for x in s} == {"stale"}, "not built")
        scene.wait_caught_up()


def test_a_member_of_another_data_directory_is_refused(scene: Scene) -> None:
    scene.begin()
    other = Home(_folder(scene, "other"), scene.home.bootstrap, scene.home.topic)
    with scene.home.ingest():
        scene.wait_caught_up()
        refused = other.run("ingest")
        assert refused.returncode == 5
        assert "members of another data directory" in refused.stderr
        found = diagnose(load_settings(other.configuration), [Look.TOPIC]).findings
        (foreign,) = [f for f in found if f.check == "group"]
        assert "or of a copy of this one: kycache-" in foreign.problem
        scene.live()
        scene.wait_caught_up()


def test_a_member_of_a_copy_of_the_data_directory_is_refused(scene: Scene) -> None:
    """Its id and its slot are the same: it would fence the other off, or take half of its shards."""
    scene.begin()
    copied = Home(_folder(scene, "copied"), scene.home.bootstrap, scene.home.topic)
    with scene.home.ingest():
        scene.wait_caught_up()
        data, sockets = scene.home.folder / "data", shutil.ignore_patterns("*.sock")
        shutil.copytree(data, copied.folder / "data", symlinks=True, ignore=sockets)
        refused = copied.run("ingest")
        assert refused.returncode == 5
        assert "or of a copy of this one: kycache-" in refused.stderr
        scene.live()
        scene.wait_caught_up()


def test_a_missing_topic_and_a_missing_broker(apache_stack: Pipeline, tmp_path: Path) -> None:
    """With nothing stored there is nothing to serve: exit 4 and the reason."""
    no_topic = Home(tmp_path, apache_stack.bootstrap, "never-made").run("ingest")
    assert no_topic.returncode == 4
    assert "has no topic 'never-made'" in no_topic.stderr
    no_broker = Home(tmp_path, "127.0.0.1:9", "never-made").run("ingest")
    assert no_broker.returncode == 4
    assert "no Kafka broker answers at 127.0.0.1:9" in no_broker.stderr


def test_a_stopped_member_does_not_hold_up_a_reader(scene: Scene) -> None:
    """SIGSTOP of the writer in mid-load: readers of other processes go on."""
    scene.begin()
    with scene.home.ingest() as process:
        scene.wait_caught_up()
        process.send_signal(signal.SIGSTOP)
        try:
            assert len(scene.home.status()) == PARTITIONS
        finally:
            process.send_signal(signal.SIGCONT)
        assert os.getpgid(process.pid)
