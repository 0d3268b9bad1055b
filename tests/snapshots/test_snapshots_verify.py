"""`snapshot verify`: what it finds beside wrong hashes, and the commands as an operator types them."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import msgspec
import pytest

from kycache.ingest.consuming.topic import Topic
from kycache.model.errors import Unreachable
from kycache.snapshots.prune import remove
from kycache.snapshots.scratch import scratch_folder, sweep
from kycache.snapshots.storage.listing import survey
from kycache.snapshots.storage.manifest import Manifest
from kycache.snapshots.verify import verify
from support.command_line import RunCommand
from support.snapshot_stand import VIEW, Stand


def problems(stand: Stand, manifest: Manifest, *, full: bool = True) -> list[str]:
    scratch = stand.root / "scratch"
    scratch.mkdir(exist_ok=True)
    found = verify(stand.store(), stand.keys(), manifest, scratch, VIEW if full else None)
    assert list(scratch.iterdir()) == []  # nothing of anybody is left behind
    return [verdict.problem for verdict in found]


@pytest.mark.parametrize("full", [False, True])
def test_good_ones_and_one_bad_shard(tmp_path: Path, full: bool) -> None:
    stand = Stand.make(tmp_path, 2)
    manifest = stand.take()
    assert problems(stand, manifest, full=full) == ["", ""]
    file = tmp_path / "store" / manifest.id / manifest.entry(0).file
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    bad, good = problems(stand, manifest, full=full)
    assert "shard 0" in bad
    assert good == ""
    stand.close()


def test_one_that_is_pruned_while_it_is_read(tmp_path: Path) -> None:
    """Nothing is known about it: it is not there any more."""
    stand = Stand.make(tmp_path, 2)
    manifest = stand.take()
    (found,) = survey(stand.store(), stand.keys())

    def gone(_: object) -> None:
        remove(stand.store(), manifest.id, [file.path for file in found.files])

    with pytest.raises(Unreachable, match="was removed"):
        verify(stand.store(), stand.keys(), manifest, tmp_path, None, begin=gone)
    stand.close()


def test_a_manifest_that_never_was_right(tmp_path: Path) -> None:
    """Hashes and MAC are right, and yet the file is not what the manifest says: a bug, found by reading."""
    stand = Stand.make(tmp_path)
    manifest = stand.take()
    (entry,) = manifest.shards
    for wrong in (
        msgspec.structs.replace(entry, users=entry.users + 1),
        msgspec.structs.replace(entry, position=msgspec.structs.replace(entry.position, offset=7)),
    ):
        (problem,) = problems(stand, msgspec.structs.replace(manifest, shards=(wrong,)))
        assert "its manifest says" in problem
    (problem,) = problems(stand, msgspec.structs.replace(manifest, view="another"))
    assert "its manifest says" in problem
    stand.close()


def test_what_a_restore_would_refuse_is_not_good(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    manifest = stand.take()
    (entry,) = manifest.shards
    young = msgspec.structs.replace(manifest, shards=(msgspec.structs.replace(entry, bootstrapped=False),))
    (problem,) = problems(stand, young)
    assert "still bootstrapping" in problem
    stand.close()


def test_a_copy_of_a_shard_whose_index_is_wrong(tmp_path: Path) -> None:
    """Damage that was there when the copy was made: every hash fits, the full walk finds it."""
    stand = Stand.make(tmp_path)
    generation = stand.shards[0].folder.current()
    assert generation is not None
    environment, databases = stand.shards[0].environments.lease(generation, 0)
    with environment.begin(write=True) as txn:
        cursor = txn.cursor(databases.rows)
        assert cursor.first()
        cursor.delete()
    stand.shards[0].environments.release(generation)
    (problem,) = problems(stand, stand.take())
    assert "shard 0" in problem
    assert isinstance(environment, lmdb.Environment)


def test_what_a_killed_one_left_goes_and_what_is_used_stays(tmp_path: Path) -> None:
    """A shard's file in the clear: the next one removes it, and a start of ingest."""
    code = """
import os, signal, sys
from pathlib import Path
from kycache.snapshots.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "data.mdb").write_bytes(b"personal")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "data.mdb").exists()
    with scratch_folder(tmp_path) as used:
        assert list(tmp_path.iterdir()) == [used]
        assert used.stat().st_mode & 0o777 == 0o700
        sweep(tmp_path)
        assert list(tmp_path.iterdir()) == [used]
    assert list(tmp_path.iterdir()) == []


def test_the_commands(tmp_path: Path, kycache: RunCommand) -> None:
    """create, list, verify, prune as typed: facts on stdout, exit codes by kind of failure."""
    stand = Stand.make(tmp_path / "node", 2)
    root = stand.root
    stand.close()
    config = root / "kycache.toml"
    config.write_text(
        f'[data]\ndir = "data"\nmap_size_gib = 1.0\n[snapshots]\nstore = "{(root / "store").as_uri()}"\n'
    )

    def run(*words: str) -> tuple[int, object, str]:
        ended = kycache("--config", config, "snapshot", *words)
        return ended.code, json.loads(ended.out) if ended.out.startswith(("[", "{")) else ended.out, ended.err

    assert run("list", "--json")[:2] == (0, [])
    assert run("verify", "20261125T000000.000Z-00000000")[0] == 5
    assert run("create", "--store", "")[0] == 3  # a variable that is not set is not the configured store
    code, made, _ = run("create", "--json")
    assert code == 0
    assert isinstance(made, dict)
    assert [entry["shard"] for entry in made["shards"]] == [0, 1]
    code, listed, _ = run("list", "--json")
    assert code == 0
    assert isinstance(listed, list)
    assert [(s["id"], s["condition"], s["shards"]) for s in listed] == [(made["id"], "whole", made["shards"])]
    assert run("verify", made["id"])[0] == 0
    code, verdict, _ = run("verify", made["id"], "--full", "--json")
    assert (code, isinstance(verdict, dict) and verdict["good"]) == (0, True)
    assert run("prune")[0] == 2
    assert run("prune", "--older-than", "soon")[0] == 2
    assert run("prune", "--older-than", "999999999999w")[0] == 2
    code, pruned, _ = run("prune", "--keep", "1", "--dry-run", "--json")
    assert (code, pruned) == (0, {"dryRun": True, "removed": [], "kept": [made["id"]]})
    assert run("create", "--shard", "7")[0] == 5
    assert run("verify", "nothing")[0] == 5
    assert run("create", "--store", "ftp://host/x")[0] == 3
    file = root / "store" / made["id"] / "shard-0001.mdb.zst"
    file.write_bytes(b"?" + file.read_bytes()[1:])
    code, verdict, said = run("verify", made["id"], "--json")
    assert code == 5
    assert isinstance(verdict, dict)
    assert [entry["good"] for entry in verdict["shards"]] == [True, False]
    assert "1 of 2 shards" in said


def test_what_a_snapshot_lacks_is_said(
    tmp_path: Path, kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By verify and restore of all of it: each shard that it holds being good does not make it all."""
    stand = Stand.make(tmp_path / "node", 4)
    manifest = stand.take([0, 2])
    position = manifest.entry(0).position
    topic = Topic(position.topic, position.topic_id, 4, (0,) * 4, (1 << 40,) * 4)
    monkeypatch.setattr("kycache.ingest.consuming.topic.describe_topic", lambda _: topic)
    stand.close()
    config = stand.root / "kycache.toml"
    config.write_text(f'[data]\ndir = "data"\n[snapshots]\nstore = "{stand.settings.store}"\n')

    def said(*words: str) -> str:
        ended = kycache("--config", config, "snapshot", words[0], manifest.id, *words[1:])
        assert ended.code == 0
        return ended.err

    missing = f"snapshot {manifest.id} does not hold shard 1, 3 of 4\n"
    assert said("verify") == missing
    assert said("verify", "--shard", "2") == ""
    assert said("restore", "--dry-run") == missing
    assert said("restore", "--dry-run", "--shard", "2") == ""
    ended = kycache("--config", config, "snapshot", "verify", manifest.id, "--json")
    assert (ended.json["good"], ended.json["lacking"]) == (True, [1, 3])
