"""Snapshots that ingest takes by itself: when, one at a time, tried again, and told."""

import json
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.snapshot_report import (
    SnapshotReport,
    Taken,
    failed,
    read_report,
    succeeded,
    write_report,
)
from kycache.actors.rules.reports import Report, WriterState
from kycache.snapshots.lock import Busy, one_at_a_time
from kycache.snapshots.schedule import RETRY_S, Schedule, _taken, due_at, take_snapshots, wait_s
from kycache.snapshots.storage.listing import survey
from support.command_line import Ended, RunCommand
from support.snapshot_stand import Stand
from support.waiting import until

NOW = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_when_the_next_is_due() -> None:
    """Jittered by a tenth around the interval; the first within a minute; after a failure sooner, ever later."""
    good = SnapshotReport("id", NOW.isoformat())
    assert due_at(good, 3600, NOW, 0.5) == NOW + HOUR
    assert due_at(good, 3600, NOW, 0.0) == NOW + 0.9 * HOUR
    assert due_at(good, 3600, NOW, 1.0) == NOW + 1.1 * HOUR
    assert due_at(SnapshotReport(), 3600, NOW, 0.0) == NOW
    assert due_at(SnapshotReport(), 3600, NOW, 1.0) == NOW + timedelta(seconds=60)
    late = (NOW + HOUR).isoformat()
    waits = [
        due_at(SnapshotReport("id", NOW.isoformat(), failed_in_a_row=n, failed_at=late), 3600, NOW, 0.5)
        - NOW
        - HOUR
        for n in (1, 2, 3, 4, 50)
    ]
    assert waits == [timedelta(seconds=s) for s in (*RETRY_S, RETRY_S[-1])]
    often = SnapshotReport(failed_in_a_row=9, failed_at=NOW.isoformat())
    assert due_at(often, 90, NOW - HOUR, 0.5) == NOW + timedelta(seconds=90)


def test_a_clock_that_was_set_back_stops_no_snapshots() -> None:
    """The newest was taken, or failed, while this machine's clock was a month ahead."""
    ahead = (NOW + timedelta(days=30)).isoformat()
    for report in (
        SnapshotReport("id", ahead),
        SnapshotReport("id", NOW.isoformat(), failed_in_a_row=1, failed_at=ahead),
    ):
        assert wait_s(due_at(report, 3600, NOW, 0.5), 3600, NOW) == 0
    good = SnapshotReport("id", NOW.isoformat())
    assert wait_s(due_at(good, 3600, NOW, 1.0), 3600, NOW) == 3960


def test_the_report_of_a_directory(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, rounds=1)
    directory = stand.shards[0].directory
    assert read_report(directory).age_s(NOW) is None
    failed(directory, "the store is away")
    failed(directory, "the store is away")
    succeeded(directory, Taken("id", 2.0, 100, 1, "file:///store"))
    report = read_report(directory)
    assert (report.failures, report.failed_in_a_row, report.problem, report.id) == (2, 0, "", "id")
    failed(directory, "again")
    report = read_report(directory)
    assert (report.id, report.failures, report.failed_in_a_row, report.problem) == ("id", 3, 1, "again")
    age = report.age_s(datetime.now(UTC))
    assert age is not None
    assert 0 <= age < 60
    (directory.root / "snapshots.json").write_text("{")
    assert read_report(directory) == SnapshotReport()
    stand.close()


def test_one_at_a_time(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, rounds=1)
    directory = stand.shards[0].directory
    with one_at_a_time(directory), pytest.raises(Busy, match="takes a snapshot"), one_at_a_time(directory):
        pass
    with one_at_a_time(directory):
        pass
    stand.close()


def configured(stand: Stand, store: str) -> Path:
    """A configuration file for the commands that the schedule runs."""
    file = stand.root / "kycache.toml"
    file.write_text(f'[data]\ndir = "data"\nmap_size_gib = 1.0\n[snapshots]\nstore = {json.dumps(store)}\n')
    return file


def test_a_damaged_shard_costs_the_others_nothing(tmp_path: Path, kycache_process: RunCommand) -> None:
    """They are taken; the exit code, `status` and the metrics tell; and nothing is taken for whole."""
    stand = Stand.make(tmp_path, 3)
    directory = stand.shards[0].directory
    stand.close()
    generation = directory.shard(1).current()
    assert generation is not None
    os.truncate(generation / "data.mdb", 8192)
    file = configured(stand, stand.settings.store)
    ended = kycache_process("--config", file, "snapshot", "create", "--json")
    assert ended.code == 5
    assert "the snapshot is without shard 1: " in ended.err
    assert "kycache snapshot restore ID --shard 1" in ended.err
    assert [entry["shard"] for entry in ended.json["shards"]] == [0, 2]
    (listed,) = kycache_process("--config", file, "snapshot", "list", "--json").json
    assert (listed["id"], listed["condition"], listed["shardCount"]) == (ended.json["id"], "whole", 3)
    assert len([*(tmp_path / "store" / listed["id"]).iterdir()]) == 3
    assert kycache_process("--config", file, "snapshot", "verify", listed["id"]).code == 0
    report = read_report(directory)
    assert (report.id, report.at, report.shards, report.failures) == (listed["id"], "", 2, 1)
    assert due_at(report, 3600, NOW, 0.5) == datetime.fromisoformat(report.partly_at) + HOUR
    assert "the snapshot is without shard 1" in kycache_process("--config", file, "status").out
    ended = kycache_process("--config", file, "snapshot", "create", "--shard", "1", "--json")
    assert (ended.code, ended.out) == (5, "")
    # An ingest has found it damaged, and says so: there is nothing to wait for.
    locks = [lock for shard in range(3) if (lock := directory.shard(shard).lock()) is not None]
    directory.shard(1).write_report(Report(WriterState.HALTED, "shard 1: it is damaged", "bring it back"))
    ended = kycache_process("--config", file, "snapshot", "create")
    for lock in locks:
        lock.release()
    assert "shard 1: it is damaged" in ended.err
    assert "bring it back" in ended.err


async def test_two_processes_take_them_in_turn(tmp_path: Path) -> None:
    """Of two that keep the time one works; old ones are removed; a store that is away is told, and tried again."""
    stand = Stand.make(tmp_path, 2)
    directory = stand.shards[0].directory
    (tmp_path / "file").write_text("")
    broken, good = (tmp_path / "file" / "store").as_uri(), (tmp_path / "store").as_uri()
    command = (sys.executable, "-m", "kycache.cli.main", "--config", str(configured(stand, broken)), "snapshot")
    ready = False

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                await nursery.start(take_snapshots, Schedule(0.5, 1, command), directory, lambda: ready)
            await trio.sleep(0.1)
            assert read_report(directory) == SnapshotReport()
            ready = True
            await until(lambda: read_report(directory).problem)
            assert "cannot open" in read_report(directory).problem
            configured(stand, good)
            taken: set[str] = set()
            while len(taken) < 2:
                await trio.sleep(0.02)
                taken |= {read_report(directory).id} - {""}
            nursery.cancel_scope.cancel()
    report = read_report(directory)
    assert report.failures >= 1
    assert report.failed_in_a_row == 0
    there = [found.id for found in survey(stand.store(), stand.keys())]
    assert len(there) <= 3  # one, one that is not pruned yet, one that was cut off
    assert set(there) & taken
    stand.close()


def dies(stand: Stand, script: str) -> Schedule:
    """A command that comes to its end without a word in the report, and leaves a line for each time it is run."""
    return Schedule(0.1, None, ("/bin/sh", "-c", f"echo >> {stand.root / 'runs'}; {script}"))


async def first_report(schedule: Schedule, directory: DataDirectory) -> SnapshotReport:
    """What is written down when the schedule has run for the first time."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(take_snapshots, schedule, directory, lambda: True)
            await until(lambda: read_report(directory).failures)
            nursery.cancel_scope.cancel()
    return read_report(directory)


async def test_one_that_is_killed_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For want of memory, say. So is one that could not even be started; and neither ends ingest."""
    stand = Stand.make(tmp_path, rounds=1)
    directory = stand.shards[0].directory
    report = await first_report(dies(stand, "kill -9 $$"), directory)
    assert (report.failed_in_a_row, report.problem) == (1, "`kycache snapshot create` ended with exit code -9")
    write_report(directory, SnapshotReport())
    monkeypatch.setenv("PATH", str(tmp_path))
    report = await first_report(dies(stand, "exit"), directory)
    assert report.problem.endswith("No such file or directory: 'nice'")
    stand.close()


async def test_one_that_finds_another_at_work_is_no_failure(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, rounds=1)
    directory, runs = stand.shards[0].directory, tmp_path / "runs"
    runs.touch()
    with trio.fail_after(60), one_at_a_time(directory):
        async with trio.open_nursery() as nursery:
            await nursery.start(take_snapshots, dies(stand, "exit 5"), directory, lambda: True)
            await until(lambda: runs.stat().st_size >= 2)
            nursery.cancel_scope.cancel()
    assert read_report(directory) == SnapshotReport()
    stand.close()


async def test_what_cannot_be_written_down_is_not_tried_without_end(tmp_path: Path) -> None:
    """On a full disk the report stays as it was: as if another had been at work, each second (seen)."""
    stand = Stand.make(tmp_path, rounds=1)
    directory = stand.shards[0].directory
    (directory.root / "snapshots.json").mkdir()
    schedule = replace(dies(stand, "echo why >&2; exit 5"), every_s=3600.0)
    with trio.fail_after(60), capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_taken, schedule, directory, SnapshotReport())
            await until(lambda: logs)
            nursery.cancel_scope.cancel()
    (told,) = logs
    assert (told["log_level"], told["problem"]) == ("error", "why")
    assert "snapshots.json cannot be written" in told["uncounted"]
    stand.close()


def test_a_store_that_is_not_mounted(tmp_path: Path, kycache: RunCommand) -> None:
    """The folder that it is mounted on is there, and empty: nothing is written to the disk below."""
    stand = Stand.make(tmp_path, rounds=1)
    stand.close()
    mounted, file = tmp_path / "mounted", configured(stand, (tmp_path / "store").as_uri())

    def create(*words: str) -> Ended:
        return kycache("--config", file, "snapshot", "create", *words)

    assert create().code == 0
    (tmp_path / "store").rename(mounted)
    for empty in (tmp_path / "store", None):
        if empty is not None:
            empty.mkdir()
        refused = create()
        assert refused.code == 5
        assert "holds no snapshot, and " in refused.err
        assert [*tmp_path.glob("store/*")] == []
        if empty is not None:
            empty.rmdir()
    assert read_report(stand.shards[0].directory).failed_in_a_row == 2
    mounted.rename(tmp_path / "store")
    assert create().code == 0
    (tmp_path / "store").rename(mounted)
    configured(stand, (tmp_path / "other").as_uri())
    assert create().code == 0  # it was another store
    configured(stand, (tmp_path / "other").as_uri())
    (tmp_path / "other").rename(mounted / "other")
    assert create().code == 5
    assert create("--store", (tmp_path / "other").as_uri()).code == 0  # as the message says
    assert create().code == 0


def test_a_mistake_of_ours_is_counted(
    tmp_path: Path, kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its message, which might name somebody; and where nothing can be written, what led there is told."""
    stand = Stand.make(tmp_path, rounds=1)
    directory = stand.shards[0].directory
    stand.close()
    file = configured(stand, stand.settings.store)

    def fail(*_: object) -> None:
        raise RuntimeError("Ada Lovelace")

    monkeypatch.setattr("kycache.snapshots.take.Taker.take", fail)
    assert kycache("--config", file, "snapshot", "create").code == 1
    report = read_report(directory)
    assert report.failures == 1
    assert report.problem.startswith("RuntimeError < fail ")
    assert "Ada" not in report.problem
    (directory.root / "snapshots.json").unlink()
    (directory.root / "snapshots.json").mkdir()
    assert "RuntimeError" in kycache("--config", file, "snapshot", "create").err
    monkeypatch.undo()
