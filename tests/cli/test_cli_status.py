"""`kycache status` against real shard files, whoever holds them and whatever became of them."""

import os
from pathlib import Path
from typing import Any

import pytest

from kycache.actors.files.directory import DataDirectory
from kycache.actors.rules.freshness import Limits
from kycache.actors.rules.reports import Doubt, Report, WriterState
from kycache.actors.rules.standing import Facts, Standing, status
from kycache.actors.rules.state import Position, ShardState
from kycache.cli.commands.status import describe
from kycache.model.change import Beat, Change, Origin, Poison, Scope, Snapshot
from kycache.model.definition import default_view, load_view
from kycache.model.values import uuid_bytes
from kycache.model.view import View
from support.command_line import RunCommand
from support.shards import TOPIC, TOPIC_ID, ShardUnderTest

USER = "00000000-0000-0000-0000-00000000000b"
AS_OF_MS = 1_700_000_000_123

VIEW = """
name = "people"
[root]
table = "users"
key = "user_id"
[root.columns]
user_id = { name = "userId", type = "uuid" }
born = { name = "born", type = "date" }
[list]
order = "born"
fields = ["userId"]
"""


@pytest.fixture
def view(tmp_path: Path) -> View:
    (tmp_path / "view.toml").write_text(VIEW, encoding="utf-8")
    (tmp_path / "kycache.toml").write_text(
        # Nobody listens on TCP port 1: what the stores say must do.
        "[view]\nfile = 'view.toml'\n[kafka]\nbootstrap = '127.0.0.1:1'\n",
        encoding="utf-8",
    )
    return load_view(tmp_path / "view.toml")


def whole(lsn: int = 100) -> Origin:
    return Origin(Snapshot.WHOLE, None, lsn, AS_OF_MS - 1000, None)


def streamed(lsn: int = 0x3168A10) -> Origin:
    return Origin(Snapshot.STREAMED, 110, lsn, AS_OF_MS, 7)


BEATS = [Beat(0, whole(), ()), Beat(2, streamed(), ())]


def fill(shard: ShardUnderTest) -> None:
    """One user, a beat, a streamed change, and one record in quarantine."""
    user = uuid_bytes(USER)
    applied = shard.apply(
        [
            Beat(0, whole(), ()),
            Change(1, whole(), 0, USER.encode(), user, user, (user, 1)),
            Beat(2, streamed(), ()),
            Poison(3, AS_OF_MS, USER.encode(), b"{", "not JSON", Scope.PROFILE, user, 0),
        ]
    )
    assert applied.halt is None


def entries(kycache: RunCommand) -> list[dict[str, Any]]:
    ended = kycache("status", "--json")
    assert ended.code == 0
    assert ended.err == ""
    shards: list[dict[str, Any]] = ended.json["shards"]
    return shards


def test_status_of_a_stopped_ingest(kycache_process: RunCommand, tmp_path: Path, view: View) -> None:
    shard = ShardUnderTest(tmp_path / "data", view, shard=0, shards=2)
    fill(shard)
    shard.close()
    ended = kycache_process("status", "--json")
    assert ended.code == 0
    assert ended.json["view"] == view.hash
    first, second = ended.json["shards"]
    assert first.pop("stalenessSeconds") >= 0
    reason = first.pop("reason")
    assert reason.startswith("the last commit seen is ")
    assert reason.endswith("; no ingest holds the shard: see its log for why it ended, and start it")
    assert first == {
        "shard": 0,
        "state": "stale",
        "users": 1,
        "position": {"topic": TOPIC, "partition": 0, "offset": 4},
        "lag": 0,
        "watermark": "0/3168A10",
        "asOf": "2023-11-14T22:13:20.123Z",
        "quarantined": 1,
        "suspect": 1,
        "owner": None,
    }
    assert second["state"] == "bootstrapping"
    assert second["position"] is None
    assert second["users"] == 0


def test_status_names_the_holder(kycache_process: RunCommand, tmp_path: Path, view: View) -> None:
    shard = ShardUnderTest(tmp_path / "data", view)
    fill(shard)
    lock = shard.folder.lock()
    assert lock is not None
    try:
        # The store stays open and locked here, as in an ingest that runs.
        (entry,) = entries(kycache_process)
    finally:
        lock.release()
        shard.close()
    assert entry["owner"].endswith(f":{os.getpid()}")


def test_status_tells_what_halted_a_shard(kycache_process: RunCommand, tmp_path: Path, view: View) -> None:
    shard = ShardUnderTest(tmp_path / "data", view)
    fill(shard)
    shard.close()
    shard.folder.write_report(Report(WriterState.HALTED, "the log is cut", "run `kycache rebuild`"))
    (entry,) = entries(kycache_process)
    assert (entry["state"], entry["reason"]) == ("halted", "the log is cut; run `kycache rebuild`")
    assert entry["users"] == 1
    table = kycache_process("status").out
    assert "halted" in table
    assert "shard 0: the log is cut; run `kycache rebuild`" in table


def test_what_a_process_said_that_was_killed_is_not_so_any_more(
    kycache_process: RunCommand, tmp_path: Path, view: View
) -> None:
    directory = DataDirectory(tmp_path / "data")
    directory.found(view.hash, TOPIC, TOPIC_ID, 2)
    for number in (0, 1):
        directory.shard(number).prepare()
        directory.shard(number).write_report(
            Report(WriterState.RESTORING, "comes back from snapshot X", holder="there:1")
        )
    lock = directory.shard(0).lock()
    assert lock is not None
    try:
        held, left = entries(kycache_process)
    finally:
        lock.release()
    assert (held["state"], held["reason"]) == ("restoring", "comes back from snapshot X")
    assert left["state"] == "bootstrapping"
    assert left["reason"].startswith(
        "there:1, which had it come back from a snapshot, is gone; start `kycache ingest`"
    )
    shard = ShardUnderTest(tmp_path / "data", view, shard=1, shards=2)
    shard.apply(BEATS)
    shard.close()
    shard.folder.write_report(Report(WriterState.OPEN, "the disk is full", "free some space", "there:1"))
    assert "disk" not in entries(kycache_process)[1]["reason"]


def test_a_doubt_about_every_shard_shows_on_every_shard(
    kycache_process: RunCommand, tmp_path: Path, view: View
) -> None:
    """Answers of all shards say `Kycache-Suspect`: an operator must see why, whichever one he looks at."""
    for number in (0, 1):
        shard = ShardUnderTest(tmp_path / "data", view, shard=number, shards=2)
        shard.apply(BEATS)
        shard.close()
    found = entries(kycache_process)
    assert all("suspect" not in entry["reason"] for entry in found)
    shard.directory.add_doubts((Doubt("suspect", 1, 7, "a delete that names no user"),))
    why = "every answer is suspect: a delete that names no user, at offset 7 of shard 1; mend what `kycache"
    for entry in entries(kycache_process):
        assert why in entry["reason"]
        assert "`kycache rebuild --epoch`" in entry["reason"]  # no replay tells whose the deleted row was
    shard = ShardUnderTest(tmp_path / "data", view, shard=0, shards=2)
    shard.apply([Poison(9, AS_OF_MS, b"", b"{", "not JSON", Scope.SHARD, None, None)])
    shard.close()
    shard.directory.clear_doubt("suspect", 1)
    first, second = entries(kycache_process)
    assert "1 records in quarantine that name no user" in first["reason"]
    assert "suspect" not in second["reason"]


@pytest.mark.parametrize("keep_bytes", [0, 100, 8192])
def test_status_of_a_truncated_file(
    kycache_process: RunCommand, tmp_path: Path, view: View, keep_bytes: int
) -> None:
    shard = ShardUnderTest(tmp_path / "data", view)
    fill(shard)
    shard.close()
    generation = shard.folder.current()
    assert generation is not None
    os.truncate(generation / "data.mdb", keep_bytes)
    (entry,) = entries(kycache_process)
    assert entry["state"] == "halted"
    assert "data.mdb" in entry["reason"]
    assert entry["users"] is None
    if keep_bytes == 0:
        assert kycache_process("status").out.count("shard 0: ") == 1


def test_status_of_nothing(kycache: RunCommand, view: View) -> None:
    ended = kycache("status", "--json")
    assert (ended.code, ended.json) == (0, {"view": view.hash, "shards": []})
    assert "start `kycache ingest`" in kycache("status").out


def test_another_view_is_refused(kycache: RunCommand, tmp_path: Path, view: View) -> None:
    ShardUnderTest(tmp_path / "data", view).close()
    (tmp_path / "kycache.toml").unlink()
    ended = kycache("status", "--json")
    assert ended.code == 5
    assert default_view().hash in ended.err
    assert view.hash in ended.err


def test_damaged_node_file_is_refused(kycache: RunCommand, tmp_path: Path, view: View) -> None:
    ShardUnderTest(tmp_path / "data", view).close()
    (tmp_path / "data" / "node.json").write_text("{", encoding="utf-8")
    ended = kycache("status")
    assert ended.code == 5
    assert "node.json is damaged" in ended.err


@pytest.mark.parametrize(
    ("as_of_s", "ahead_s", "standing", "reason"),
    [
        (1000, 0, Standing.READY, ""),
        (1000, 3600, Standing.READY, "is dated 3600.0 s ahead of this machine's clock"),
        (1000, 0.05, Standing.READY, ""),
        (900, 3600, Standing.STALE, "is dated 3500.0 s ahead of this machine's clock"),
        (0, 1005, Standing.STALE, "is dated 5.0 s ahead of this machine's clock"),
        (
            900,
            50,
            Standing.STALE,
            "was dated ahead of this machine's clock when it came: how fresh it is cannot be told",
        ),
        (900, 0, Standing.STALE, "the last commit seen is 100.1 s old"),
    ],
)
def test_a_source_whose_clock_runs_ahead(as_of_s: float, ahead_s: float, standing: Standing, reason: str) -> None:
    state = ShardState(Position("t", "id", 0, 10), bootstrapped=True, heartbeat=True)
    state.as_of_ms, state.ahead_ms, state.disbelieved = int(as_of_s * 1000), int(ahead_s * 1000), ahead_s > 0
    found = status(Facts(0, state, 1000.0, Limits()))
    assert found.standing is standing
    assert reason in found.reason
    assert bool(reason) is bool(found.reason)
    state.disbelieved = False  # one came that is dated right
    assert "ahead" not in status(Facts(0, state, 1000.0, Limits())).reason


@pytest.mark.parametrize(
    ("high_water", "ends", "lag"),
    [(40, None, 30), (10, {3: 50}, 40), (40, {3: 20}, 30), (40, {0: 99}, 30), (10, {3: 5}, 0)],
)
def test_lag_takes_the_greater_end(tmp_path: Path, high_water: int, ends: dict[int, int] | None, lag: int) -> None:
    state = ShardState(Position("t", "id", 3, 10), bootstrapped=True, high_water=high_water)
    standing = status(Facts(3, state, 0.0, Limits()))
    assert standing.standing is Standing.READY
    entry = describe(DataDirectory(tmp_path), standing, ends)
    assert entry["lag"] == lag
    # No heartbeat row came: how fresh it is in the source's time cannot be known.
    assert (entry["asOf"], entry["stalenessSeconds"], entry["watermark"]) == (None, None, None)
