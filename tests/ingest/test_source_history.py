"""Whether the source is the one that was read: a backup put back, a promoted standby, another cluster."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from kycache.actors.files.directory import DataDirectory
from kycache.actors.rules.freshness import Limits
from kycache.actors.rules.reports import NO_SHARD, Doubt
from kycache.actors.rules.standing import SOURCE_REMEDY, Facts, Standing, status
from kycache.actors.rules.state import Position, ShardState
from kycache.demo.servers import postgres
from kycache.demo.servers.children import stopping
from kycache.ingest.history import AWAY_LOOK_S, Found, Known, compare, look, moved, until_next_look
from kycache.model.definition import default_view
from kycache.model.errors import Unreachable
from kycache.model.lsn import parse_lsn
from support.pipeline.cluster import Cluster
from support.waiting import until

KNOWN = Known("7000", 2, 0)


@pytest.mark.parametrize(
    ("found", "read", "reason"),
    [
        (Found("7000", 2, 1_000, ()), 999, ""),
        (Found("7000", 2, 1_000, ()), 1_000, ""),
        (Found("7000", 2, 1_000, ()), 1_001, "before 0/3E9"),
        (Found("7001", 2, 1_000, ()), 0, "another database cluster"),
        (Found("7000", None, None, ()), 10**9, ""),  # a standby follows whatever its primary does
        (Found("7001", None, None, ()), 0, "another database cluster"),
        (Found("7000", 3, 1_000, ((1, 100), (2, 900))), 900, ""),
        (Found("7000", 3, 1_000, ((1, 100), (2, 900))), 901, "parted from it before"),
        (Found("7000", 4, 1_000, ((1, 100), (2, 900), (3, 950))), 900, ""),
        (Found("7000", 3, 1_000, ((1, 800),)), 800, "parted from it"),  # a sibling: the fork lies before ours
        (Found("7000", 3, 1_000, ()), 0, "parted from it"),
        (Found("7000", 3, 1_000, None), 0, "may not read which"),
    ],
)
def test_what_counts_as_moved(found: Found, read: int, reason: str) -> None:
    said = moved(KNOWN, found, read)
    assert reason in said if reason else said == ""


def test_a_source_that_moved_puts_every_shard_in_doubt() -> None:
    doubt = Doubt("stale", NO_SHARD, 0, "the source is another", epoch=2)
    state = ShardState(Position("t", "id", 3, 10), bootstrapped=True, streamed=True, generation=10**9, epoch=2)
    held = status(Facts(3, state, 0.0, Limits(), doubts=(doubt,)))
    assert (held.standing, held.reason) == (Standing.STALE, f"the source is another; {SOURCE_REMEDY}")
    state.epoch = 3
    assert status(Facts(3, state, 0.0, Limits(), doubts=(doubt,))).standing is Standing.READY


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("history"))
    with stopping(made.server):
        made.start(wal_level="logical", max_wal_senders="4")
        made.run("CREATE TABLE t (n int)")
        yield made


def end_of_log(cluster: Cluster) -> int:
    with psycopg.connect(cluster.settings.dsn) as db:
        row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return parse_lsn(row[0]) or 0


def write(cluster: Cluster) -> int:
    """Some transactions; where the log ends behind them."""
    cluster.run(*["INSERT INTO t SELECT generate_series(1, 500)"] * 5)
    return end_of_log(cluster)


def home(folder: Path) -> DataDirectory:
    directory = DataDirectory(folder)
    directory.prepare()
    directory.found(default_view().hash, "t", "id", 1)
    return directory


def test_a_backup_put_back(cluster: Cluster, tmp_path: Path) -> None:
    """The files of before, as a disk's snapshot has them: same cluster, same timeline, less log."""
    directory, dsn = home(tmp_path / "data"), cluster.settings.dsn
    assert compare(dsn, directory, 0, write(cluster)) == ""
    cluster.server.stop()
    cluster.server.wait_stopped()
    subprocess.run(["cp", "-a", cluster.settings.data, cluster.folder / "backup"], check=True)
    cluster.start()
    read = write(cluster)
    assert compare(dsn, directory, 0, read) == ""
    cluster.server.stop()
    cluster.server.wait_stopped()
    shutil.rmtree(cluster.settings.data)
    (cluster.folder / "backup").rename(cluster.settings.data)
    with pytest.raises(Unreachable, match="does not answer"):
        compare(dsn, directory, 0, read)
    cluster.start()
    assert "before" in compare(dsn, directory, 0, read)
    assert "before" in compare(dsn, home(tmp_path / "never-looked"), 0, read)
    while write(cluster) <= read:
        pass
    assert compare(dsn, directory, 0, read) == ""  # it has come that far again: nobody can tell any more,
    (doubt,) = directory.doubts()  # so it was written down
    assert (doubt.kind, doubt.shard) == ("stale", NO_SHARD)
    assert compare(dsn, directory, 1, 0) == ""  # an epoch begins with whatever there is
    assert compare(dsn, directory, 1, end_of_log(cluster)) == ""


async def test_a_server_that_ends_is_looked_at_at_once(cluster: Cluster) -> None:
    """What starts in its place may have come as far as what was read before the next look, and looks well then."""
    over = trio.Event()

    async def look() -> None:
        await until_next_look(cluster.settings.dsn, 600)
        over.set()

    def others() -> int:
        with psycopg.connect(cluster.settings.dsn) as db:
            row = db.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            return int((row.fetchone() or (0,))[0]) - 1

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await until(lambda: others() == 1)
            assert not over.is_set()
            await trio.to_thread.run_sync(cluster.server.stop)
            await over.wait()
        await until_next_look(cluster.settings.dsn, 600)  # nobody there: again at once


async def test_a_server_that_ends_every_session_is_not_asked_without_end(cluster: Cluster) -> None:
    impatient = f"{cluster.settings.dsn}?options=-c%20idle_session_timeout%3D1"
    began = trio.current_time()
    with trio.fail_after(20):
        await until_next_look(impatient, 600)
    assert trio.current_time() - began >= AWAY_LOOK_S


def test_a_standby_that_took_over(cluster: Cluster, tmp_path: Path) -> None:
    """Harmless where nothing behind the fork was read; the role must be allowed to see where that is."""
    directory, dsn = home(tmp_path / "data"), cluster.settings.dsn
    kept = write(cluster)
    assert compare(dsn, directory, 0, kept) == ""
    taken = cluster.folder / "taken"
    binary = str(postgres.binary("pg_basebackup"))
    subprocess.run([binary, "-d", dsn, "-D", taken, "-X", "stream", "-c", "fast"], check=True)
    lost = write(cluster)
    cluster.server.stop()
    cluster.server.wait_stopped()
    was = cluster.settings.data.stat()
    shutil.rmtree(cluster.settings.data)
    taken.rename(cluster.settings.data)
    (cluster.settings.data / "recovery.signal").touch()  # to the end of what the backup holds, then a new timeline
    for path in (cluster.settings.data, *cluster.settings.data.rglob("*")):
        os.chown(path, was.st_uid, was.st_gid)
    cluster.start(restore_command="false")
    while write(cluster) <= lost:
        pass
    assert look(dsn, 1).timeline == 2
    assert "parted from it before" in compare(dsn, directory, 0, lost)
    cluster.run("CREATE ROLE plain LOGIN PASSWORD 'plain'")
    plain = make_conninfo(dsn, user="plain", password="plain")
    assert "may not read which" in compare(plain, directory, 0, kept)
    assert compare(dsn, directory, 0, kept) == ""
    assert compare(plain, directory, 0, lost) == ""  # it is known by now
