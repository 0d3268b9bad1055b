"""Snapshots: what is taken is what comes back, while the writer goes on, and what was killed is gone on with."""

import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pyrage
import pytest

from kycache.actors.files.directory import DataDirectory, slot
from kycache.actors.files.environment import Environments, Lease
from kycache.model.errors import ConfigurationError, Refused
from kycache.snapshots.storage import keys
from kycache.snapshots.storage.listing import Condition, survey
from kycache.snapshots.storage.manifest import Manifest
from kycache.snapshots.take import Progress, Taker, ahead
from kycache.snapshots.verify import verify
from support.snapshot_stand import CHECKER, KEY, VIEW, Stand

Contents = dict[str, list[tuple[bytes, bytes]]]


def contents(environments: Environments, generation: Path, shard: int) -> Contents:
    """Every record of every database of a file."""
    environment, databases = environments.lease(generation, shard)
    with environment.begin() as txn:
        found = {name: list(txn.cursor(db).iternext()) for name, db in databases._asdict().items()}
    environments.release(generation)
    return found


def live(stand: Stand, shard: int) -> Contents:
    generation = stand.shards[shard].folder.current()
    assert generation is not None
    return contents(stand.shards[shard].environments, generation, shard)


def fetched(stand: Stand, manifest: Manifest, shard: int) -> Contents:
    generation = stand.fetched(manifest, shard)
    return contents(Environments(readonly=True, map_size=1 << 30), generation, shard)


def encrypt(stand: Stand) -> None:
    identity = pyrage.x25519.Identity.generate()
    path = stand.root / "identity"
    path.write_text(f"# made for a test\n{identity}\n")
    stand.set(recipients=(str(identity.to_public()),), identity=path)


@pytest.mark.parametrize("encrypted", [False, True])
def test_what_is_taken_comes_back(tmp_path: Path, encrypted: bool) -> None:
    stand = Stand.make(tmp_path, 2)
    if encrypted:
        encrypt(stand)
    manifest = stand.take()
    assert [entry.shard for entry in manifest.shards] == [0, 1]
    for number, entry in enumerate(manifest.shards):
        state = stand.shards[number].state
        assert (entry.users, entry.position.offset) == (state.users, state.position.offset)
        assert (entry.watermark_lsn, entry.as_of_ms) == (state.watermark, state.as_of_ms)
        assert fetched(stand, manifest, number) == live(stand, number)
        mode = (stand.root / f"fetched-{manifest.id}-{number}" / "data.mdb").stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    (found,) = survey(stand.store(), stand.keys())
    assert (found.condition, found.manifest) == (Condition.WHOLE, manifest)
    assert [file.path for file in found.files if "json" in file.path] == [f"{manifest.id}/manifest.json"]
    assert "mac" in json.loads((tmp_path / "store" / manifest.id / "manifest.json").read_text())
    stand.close()


def test_a_snapshot_is_of_one_moment_while_the_writer_goes_on(tmp_path: Path) -> None:
    """The writer commits while the pages stream: facts and file stay those of the pinned transaction."""
    stand = Stand.make(tmp_path)
    before = live(stand, 0)
    began = stand.shards[0].state
    commits = 0

    def write(_shard: int, _bytes: int) -> None:
        nonlocal commits
        if commits < 10:
            commits += 1
            stand.go_on(1)

    manifest = stand.take(progress=Progress(begin=write, advance=write))
    assert stand.shards[0].state.position.offset > began.position.offset
    assert manifest.entry(0).position.offset == began.position.offset
    assert fetched(stand, manifest, 0) == before
    stand.close()


class Killed(BaseException):
    """A kill between two shards, as far as the store can tell."""


def killed_at(stand: Stand, shard: int) -> None:
    """A run that ends where it begins with a shard."""

    def die(begun: int, _bytes: int) -> None:
        if begun == shard:
            raise Killed

    with pytest.raises(Killed):
        stand.take(progress=Progress(begin=die))


def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, 3)
    killed_at(stand, 2)
    (unfinished,) = survey(stand.store(), stand.keys())
    assert unfinished.condition is Condition.UNFINISHED
    resumed: list[tuple[int, bool]] = []
    manifest = stand.take(progress=Progress(done=lambda entry, earlier: resumed.append((entry.shard, earlier))))
    assert resumed == [(0, True), (1, True), (2, False)]
    assert manifest.id == unfinished.id
    assert [found.condition for found in survey(stand.store(), stand.keys())] == [Condition.WHOLE]
    assert sorted(p.suffix for p in (tmp_path / "store" / manifest.id).iterdir()) == [".json", *[".zst"] * 3]
    assert fetched(stand, manifest, 1) == live(stand, 1)
    stand.close()


def test_what_was_started_over_since_is_copied_again(tmp_path: Path) -> None:
    """A shard's copy of an earlier epoch could not come back: it is not taken for finished, nor is one made."""
    stand = Stand.make(tmp_path, 2)
    killed_at(stand, 1)
    stand.shards[0].directory.rehome(lambda node: msgspec.structs.replace(node, epoch=node.epoch + 1))
    with pytest.raises(Refused, match="shard 0 is to be built anew from epoch 1, and its file is of 0"):
        stand.take()
    stand.shards[0].directory.rehome(lambda node: msgspec.structs.replace(node, oldest=(1, 0)))
    assert [entry.shard for entry in stand.take().shards] == [1]  # 0 was ordered to start over, alone
    stand.close()


def test_a_shard_that_is_bootstrapping_is_left_out(tmp_path: Path) -> None:
    """Its copy could not come back, and would be told of as a good one."""
    stand = Stand.make(tmp_path, 2, bootstrapped=False)
    with pytest.raises(Refused, match="shard 0 is still bootstrapping"):
        stand.take()
    stand.source.beat()
    stand.follow(stand.shards[1])
    assert [entry.shard for entry in stand.take().shards] == [1]
    stand.close()


def test_a_shard_that_is_restored_while_it_is_begun_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was about to be copied is gone, another generation serves: that one is copied."""
    stand = Stand.make(tmp_path, 2)
    stand.close()
    folder, lease = stand.shards[0].folder, stand.shards[0].environments.lease
    former = folder.current()
    assert former is not None

    def restored(generation: Path, shard: int) -> Lease:
        if generation == former and generation.exists():
            arrived = folder.next_generation()
            shutil.copytree(generation, arrived, dirs_exist_ok=True)
            shutil.copystat(generation / "data.mdb", arrived / "data.mdb")
            folder.flip(arrived)
            folder.clean()
        return lease(generation, shard)

    monkeypatch.setattr(stand.shards[0].environments, "lease", restored)
    assert [entry.shard for entry in stand.take().shards] == [0, 1]
    assert not former.exists()


def test_a_page_that_was_garbled_since_the_file_was_vouched_for(tmp_path: Path) -> None:
    """LMDB itself refuses to read it: one shard is left out, the other is taken."""
    stand = Stand.make(tmp_path, 2)
    stand.close()
    generation = stand.shards[0].folder.current()
    assert generation is not None
    file = generation / "data.mdb"
    before, pages = file.stat(), bytearray(file.read_bytes())
    for start in range(8192, len(pages), 4096):
        if VIEW.hash.encode() in pages[start : start + 4096]:
            pages[start + 10 : start + 12] = b"\0\0"  # its kind
    file.write_bytes(pages)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (entry,) = stand.take().shards
    assert entry.shard == 1
    with pytest.raises(Refused, match=r"shard 0: .* cannot be read: .*CORRUPTED.*restore ID --shard 0"):
        stand.take([0])


def test_a_store_that_is_emptied_under_a_run(tmp_path: Path) -> None:
    """Or unmounted: a whole snapshot was told of that lacked its first shards (seen)."""
    stand = Stand.make(tmp_path, 2)

    def empty(begun: int, _bytes: int) -> None:
        if begun == 1:
            shutil.rmtree(tmp_path / "store")

    with pytest.raises(Refused, match=r"shard-0000\.mdb\.zst of snapshot .* went away"):
        stand.take(progress=Progress(begin=empty))
    stand.set(key=KEY)  # the store's own went away too
    assert stand.take().shards
    assert Condition.WHOLE in [found.condition for found in survey(stand.store(), stand.keys())]
    stand.close()


def test_a_run_is_left_to_those_who_want_its_shards(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, 3)
    killed_at(stand, 2)
    (unfinished,) = survey(stand.store(), stand.keys())
    alone = stand.take([2])
    assert alone.id != unfinished.id
    assert sorted(p.name for p in (tmp_path / "store" / alone.id).iterdir()) == [
        "manifest.json",
        "shard-0002.mdb.zst",
    ]
    assert stand.take().id == unfinished.id
    stand.close()


def test_a_copy_of_the_directory_has_runs_of_its_own(tmp_path: Path) -> None:
    """It has the same id, and may be at work on another machine while this one is."""
    stand = Stand.make(tmp_path, 2)
    directory = stand.shards[0].directory
    with slot(directory.run):
        pass  # an ingest ran
    shutil.copytree(directory.root, tmp_path / "copy", symlinks=True)
    killed_at(stand, 1)
    copied = Environments(readonly=True, map_size=1 << 30)
    about = (copied, stand.store(), stand.keys(), stand.settings, CHECKER.ensure)
    of_copy = Taker(DataDirectory(tmp_path / "copy"), *about).take()
    (unfinished, whole) = survey(stand.store(), stand.keys())
    assert (unfinished.condition, whole.id) == (Condition.UNFINISHED, of_copy.id)
    assert stand.take().id == unfinished.id
    stand.close()


def test_no_run_is_gone_on_with_for_other_readers(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, 2)
    whole = stand.take()
    note = tmp_path / "store" / whole.id / "manifest.json"
    note.unlink()  # its notes are gone with it
    encrypt(stand)
    assert stand.take().id != whole.id
    stand.close()


def test_only_shards_that_exist(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    with pytest.raises(Refused, match="there is no shard 1"):
        stand.take([1])
    assert [entry.shard for entry in stand.take([0, 0]).shards] == [0]
    stand.close()


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand.make(tmp_path)
    assert stand.keys().mac != stand.keys().mac  # there is nothing yet that one could be wrong for
    manifest = stand.take()
    key = (tmp_path / "store" / "store.key").rename(tmp_path / "key")
    with pytest.raises(Refused, match=r"no store\.key"):
        stand.keys()
    key.rename(tmp_path / "store" / "store.key")
    assert stat.S_IMODE((tmp_path / "store" / "store.key").stat().st_mode) == 0o600
    assert stand.keys().mac == stand.keys(writing=True).mac
    stand.set(key=KEY)
    (found,) = survey(stand.store(), stand.keys())
    assert found.condition is Condition.DAMAGED
    assert "another key" in found.reason
    assert KEY not in repr(stand.keys())
    stand.set(key=None, recipients=("age1nobody",))
    with pytest.raises(ConfigurationError, match="no age recipient"):
        stand.keys()
    (tmp_path / "identity").write_text("nothing")
    stand.set(recipients=(), identity=tmp_path / "identity")
    with pytest.raises(ConfigurationError, match="no age identity"):
        stand.keys()
    # A remote store says what is missing before anything is sent.
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    stand.set(store="s3://bucket/prefix", identity=None)
    with pytest.raises(ConfigurationError, match="unencrypted"):
        stand.keys(writing=True)
    stand.set(allow_unencrypted=True)
    with pytest.raises(ConfigurationError, match="has no key"):
        stand.keys(writing=True)
    assert manifest.entry(0)
    stand.close()


def test_two_processes_make_one_key(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    stand.store()
    path = tmp_path / "store" / keys.KEY_FILE
    keys._make_key(path)
    first = path.read_bytes()
    keys._make_key(path)
    assert path.read_bytes() == first
    assert [p.name for p in path.parent.iterdir()] == [keys.KEY_FILE]
    stand.close()


def test_encrypted_files_need_their_identity(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    encrypt(stand)
    manifest = stand.take()
    stand.set(identity=None)
    with pytest.raises(Refused, match="is encrypted"):
        stand.fetched(manifest)
    with pytest.raises(ConfigurationError, match="nothing is known"):  # it may be as good as any
        verify(stand.store(), stand.keys(), manifest, tmp_path, None)
    (tmp_path / "other").write_text(str(pyrage.x25519.Identity.generate()))
    stand.set(identity=tmp_path / "other")
    with pytest.raises(Refused, match="not encrypted for this identity"):
        stand.fetched(manifest)
    stand.close()


def test_pieces_are_made_ahead_and_no_more_than_that() -> None:
    """In order; what fails is told where it stood; who leaves early waits for the thread, not for the rest."""
    made: list[int] = []

    def pieces(end: int) -> Iterator[bytes]:
        for number in range(end):
            made.append(number)
            yield bytes([number])
        if end > 10:
            raise ValueError(end)

    assert [*ahead(pieces(9), 3)] == [bytes([n]) for n in range(9)]
    taken: list[bytes | bytearray] = []
    with pytest.raises(ValueError, match="12"):
        taken += ahead(pieces(12), 3)
    assert len(taken) == 12
    with closing(ahead(pieces(9), 3)) as some:
        made.clear()
        assert [next(some), next(some)] == [b"\0", b"\1"]
    assert len(made) <= 5
