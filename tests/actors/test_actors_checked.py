"""FAULTS 12: what an unclean stop leaves is walked by a child process before anybody maps it."""

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import DamagedFile, Environments, used_bytes
from kycache.actors.integrity import vouching as checked
from kycache.actors.integrity.child_walk import Facts, walk_in_child
from kycache.actors.integrity.vouching import MARK, Checker, Unchecked, Walks, mark_of, vouch, vouched
from kycache.actors.reader import ShardReader
from kycache.model.change import Beat, Change, Origin, Snapshot
from kycache.model.values import Value
from kycache.model.view import View
from support.faults import seeds
from support.shards import DEFAULT_VIEW as VIEW
from support.shards import MAP_BYTES, ShardUnderTest, filled
from support.waiting import until

GARBLINGS = seeds(60, at_most=500)
WALK_EACH = """
import os, sys, signal
from pathlib import Path
from kycache.actors.files.environment import Environments
from kycache.actors.integrity.walk_program import walk
from kycache.model.errors import KycacheError
from kycache.model.definition import default_view
for name in sys.argv[1:]:
    for depth, view in (("quick", None), ("full", default_view())):
        child = os.fork()
        if child == 0:
            try:
                walk(Path(name), 0, view)
                print(name, depth, "passed", "", sep="|", flush=True)
                environments = Environments(readonly=True, map_size=1 << 30)
                environment, databases = environments.lease(Path(name), 0)
                with environment.begin() as txn:
                    for database in databases:
                        for _ in txn.cursor(database):
                            pass
            except KycacheError as error:
                print(name, depth, "found", error, sep="|", flush=True)
            except BaseException as error:
                print(name, depth, "raised", type(error), sep="|", flush=True)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.wait()[1])
        if code:
            print(name, depth, signal.Signals(-code).name, "", sep="|", flush=True)
"""
WRITE_AND_STOP = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.shards import ShardUnderTest
from kycache.model.definition import default_view
shard = ShardUnderTest(Path(sys.argv[1]), default_view())
shard.apply([])
print("written", flush=True)
time.sleep(60)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ShardUnderTest:
    """A store of some hundred users, closed in order."""
    shard, _ = filled(tmp_path_factory.mktemp("whole"), 200)
    shard.close()
    return shard


def generation_of(shard: ShardUnderTest) -> Path:
    generation = shard.folder.current()
    assert generation is not None
    return generation


def copy_of(shard: ShardUnderTest, folder: Path) -> Path:
    """Its file alone, in a generation of its own."""
    generation = folder / "gen-000001"
    generation.mkdir()
    shutil.copy(generation_of(shard) / "data.mdb", generation)
    return generation


def garble(path: Path, rng: Random) -> str:
    """Damages a file somewhere: a byte, some, a page, or its end."""
    used = used_bytes(path.parent)
    kind = rng.choice(["byte", "bytes", "page", "end"])
    with path.open("r+b") as file:
        at = rng.randrange(used)
        if kind == "end":
            file.truncate(at)
        elif kind == "page":
            file.seek(at // 4096 * 4096)
            file.write(rng.randbytes(4096))
        else:
            file.seek(at)
            file.write(rng.randbytes(1 if kind == "byte" else 64))
    return f"{kind} at {at}"


def test_garbled_and_truncated_files_end_no_server(whole: ShardUnderTest, tmp_path: Path) -> None:
    """60 seeded damages, walked as at start. What is found names file and remedy; what is not harms no reader."""
    damages = {}
    for seed in GARBLINGS:
        folder = tmp_path / f"{seed:02}"
        folder.mkdir()
        generation = copy_of(whole, folder)
        damages[str(generation)] = f"seed {seed}: {garble(generation / 'data.mdb', Random(seed))}"
    done = subprocess.run(
        [sys.executable, "-c", WALK_EACH, *damages], stdout=subprocess.PIPE, text=True, timeout=120, check=True
    )
    walked: set[tuple[str, str]] = set()
    endings: dict[str, Counter[str]] = {"quick": Counter(), "full": Counter()}
    for line in done.stdout.splitlines():
        generation_name, depth, ended, problem = line.split("|", 3)
        if ended == "found":
            assert generation_name in problem, damages[generation_name]
            assert "kycache rebuild --shard 0" in problem, damages[generation_name]
        assert ended in ("found", "passed", "SIGABRT", "SIGBUS", "SIGSEGV"), f"{damages[generation_name]}: {line}"
        assert (generation_name, depth) not in walked, f"{damages[generation_name]}: passed, then {ended}"
        walked.add((generation_name, depth))
        endings[depth][ended] += 1
    assert endings["full"]["found"] > len(GARBLINGS) // 2, endings
    # A full walk looks at the bytes before LMDB does, so that even the child lives.
    assert set(endings["full"]) == {"found", "passed"}, endings


def test_a_whole_file_passes_both_walks(whole: ShardUnderTest) -> None:
    quick, full = (walk_in_child(generation_of(whole), 0, view) for view in (None, VIEW))
    assert quick.state == full.state
    assert (quick.full, full.full) == (False, True)
    assert full.identity == whole.identity
    assert full.state.users > 100


def test_a_profile_that_shrank_within_its_batch_is_whole(tmp_path: Path) -> None:
    """A truncate has what is before it written; LMDB leaves the shorter value on the pages that it had."""
    shard = ShardUnderTest(tmp_path, VIEW)
    user = b"u" * 16

    def named(offset: int, name: str) -> Change:
        given: dict[int, Value] = {0: user, 1: name}
        values = tuple(given.get(n) for n in range(len(VIEW.root.columns)))
        return Change(offset, Origin(Snapshot.STREAMED, 9, 10, 1, 1), 0, user, user, None, values)

    truncate = Beat(1, Origin(Snapshot.STREAMED, 9, 10, 1, 1), (2,))
    shard.apply([named(0, "long" * 4096), truncate, named(2, "short")])
    shard.close()
    for view in (None, VIEW):
        assert walk_in_child(generation_of(shard), 0, view).state.users == 1


def test_a_walk_that_is_killed_or_hangs_is_a_refusal(whole: ShardUnderTest) -> None:
    def kill_child() -> None:
        children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
        for pid in " ".join(path.read_text() for path in children).split():
            os.kill(int(pid), signal.SIGABRT)

    with pytest.raises(DamagedFile, match="SIGABRT"):
        walk_in_child(generation_of(whole), 0, VIEW, look=kill_child)
    with pytest.raises(DamagedFile, match="could not be walked within 0 s"):
        walk_in_child(generation_of(whole), 0, VIEW, timeout_s=0.0)


class TestWhoVouches:
    def test_closing_in_order_does(self, tmp_path: Path) -> None:
        shard, _ = filled(tmp_path, 5)
        generation = generation_of(shard)
        assert vouched(generation)  # it is open: its writer looked
        assert (generation / MARK).read_bytes() == b""
        shard.close()
        assert vouched(generation)
        os.utime(generation / "data.mdb")  # a stranger's hand
        assert not vouched(generation)
        with pytest.raises(Unchecked):
            shard._open()

    def test_a_killed_writer_does_not_and_the_next_one_walks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with subprocess.Popen(
            [sys.executable, "-c", WRITE_AND_STOP, str(tmp_path), str(Path(__file__).parents[1])],
            stdout=subprocess.PIPE,
        ) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"written\n"
            generation = DataDirectory(tmp_path).shard(0).current()
            assert generation is not None
            assert vouched(generation)
            writer.kill()
            writer.wait()
        assert not vouched(generation)
        walks: list[Path] = []

        def counted(
            generation: Path,
            shard: int,
            view: View | None,
            *,
            look: Callable[[], None] | None = None,
            timeout_s: float | None = None,
        ) -> Facts:
            walks.append(generation)
            return walk_in_child(generation, shard, view, look=look, timeout_s=timeout_s)

        monkeypatch.setattr(checked, "walk_in_child", counted)
        checker = Checker(VIEW)
        checker.ensure(generation, 0)
        checker.ensure(generation, 0)
        assert walks == [generation]
        ShardUnderTest(tmp_path, VIEW).close()

    def test_damage_is_said_again_without_another_walk(
        self, whole: ShardUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        generation = copy_of(whole, tmp_path)
        garbled = Random(1).randbytes(8 * 4096)
        with (generation / "data.mdb").open("r+b") as file:
            file.seek(2 * 4096)
            file.write(garbled)
        checker = Checker(VIEW)
        with pytest.raises(DamagedFile) as first:
            checker.ensure(generation, 0)
        monkeypatch.setattr(checked, "walk_in_child", None)
        with pytest.raises(DamagedFile) as second:
            checker.ensure(generation, 0)
        assert second.value is first.value

    def test_a_word_for_an_earlier_file_is_none(self, whole: ShardUnderTest, tmp_path: Path) -> None:
        generation = copy_of(whole, tmp_path)
        seen = mark_of(generation)
        os.truncate(generation / "data.mdb", seen.size + 4096)
        vouch(generation, seen)
        assert not vouched(generation)


async def test_a_server_walks_beside_its_event_loop(whole: ShardUnderTest, tmp_path: Path) -> None:
    """Its readers say that the shard is not there yet, and then that it is."""
    shutil.copytree(whole.directory.root, tmp_path / "data", symlinks=True)
    folder = type(whole.directory)(tmp_path / "data").shard(0)
    generation = folder.current()
    assert generation is not None
    (generation / MARK).unlink()
    walks = Walks(Checker(VIEW))
    reader = ShardReader(Environments(readonly=True, map_size=MAP_BYTES), folder, VIEW, 1, walks.miss)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walks.run)
            with pytest.raises(Unchecked), reader.snapshot():
                pass
            await until(lambda: vouched(generation))
            with reader.snapshot() as snapshot:
                assert snapshot.state.users > 100
            reader.close()
            nursery.cancel_scope.cancel()
