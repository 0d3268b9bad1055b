"""FAULTS 13: one flipped byte in any file of a snapshot, or a missing one, and nothing of it is believed."""

import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import pyrage
import pytest

from kycache.actors.files.environment import used_bytes
from kycache.model.errors import Refused
from kycache.snapshots.storage.listing import Condition, read_manifest, survey
from kycache.snapshots.storage.manifest import Manifest, opened_manifest
from support.faults import seeds
from support.snapshot_stand import Stand

FLIPS = len(seeds(25))
GARBLINGS = len(seeds(8, at_most=60))  # each is a command of its own, a second


def read_back(stand: Stand, manifest_id: str) -> Manifest:
    """As restore and verify do: the manifest, then every shard."""
    manifest = read_manifest(stand.store(), stand.keys(), manifest_id)
    for entry in manifest.shards:
        generation = stand.fetched(manifest, entry.shard)
        (generation / "data.mdb").unlink()
    return manifest


def flip(path: Path, at: int, bit: int) -> bytes:
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[at] ^= 1 << bit
    path.write_bytes(changed)
    return whole


@pytest.mark.parametrize("encrypted", [False, True])
def test_one_flipped_byte_anywhere(tmp_path: Path, encrypted: bool) -> None:
    stand = Stand.make(tmp_path, 2)
    if encrypted:
        identity = pyrage.x25519.Identity.generate()
        (tmp_path / "identity").write_text(str(identity))
        stand.set(recipients=(str(identity.to_public()),), identity=tmp_path / "identity")
    manifest = stand.take()
    read_back(stand, manifest.id)
    rng = Random(13)
    files = sorted((tmp_path / "store" / manifest.id).iterdir())
    assert len(files) == 3
    for path in files:
        size = path.stat().st_size
        edges = {0, 1, 2, 100, size // 2, size - 1, size - 2, size - 3}
        places = sorted({*edges, *(rng.randrange(size) for _ in range(FLIPS))})
        for at in places:
            whole = flip(path, at, rng.randrange(8))
            with pytest.raises(Refused, match=r"damaged|checksum|unfolds"):
                read_back(stand, manifest.id)
            assert not list(tmp_path.glob("fetched-*/data.mdb")), f"{path.name} byte {at} left a file"
            path.write_bytes(whole)
    read_back(stand, manifest.id)
    stand.close()


def test_every_byte_of_a_manifest(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path)
    manifest = stand.take()
    data = (tmp_path / "store" / manifest.id / "manifest.json").read_bytes()
    key = stand.keys().mac
    assert opened_manifest(data, key, manifest.id, "") == manifest
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        for wrong in (bytes(changed), data[:at], data[:at] + data[at + 1 :], data[:at] + b" " + data[at:]):
            with pytest.raises(Refused, match="damaged"):
                opened_manifest(wrong, key, manifest.id, "")
    stand.close()


def test_missing_cut_and_moved_files(tmp_path: Path) -> None:
    stand = Stand.make(tmp_path, 2)
    first, second = stand.take(), stand.take()
    folder = tmp_path / "store" / first.id
    file = folder / first.entry(0).file
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(Refused, match="is missing"):
        read_back(stand, first.id)
    file.write_bytes(whole[:-1])
    with pytest.raises(Refused, match="another size"):
        read_back(stand, first.id)
    file.write_bytes(whole + b"\0")
    with pytest.raises(Refused, match="another size"):
        read_back(stand, first.id)
    conditions = {found.id: found.condition for found in survey(stand.store(), stand.keys())}
    assert conditions == {first.id: Condition.DAMAGED, second.id: Condition.WHOLE}
    # Another shard's file, another snapshot's manifest: whole, and not what was asked for.
    file.write_bytes((folder / first.entry(1).file).read_bytes()[: len(whole)].ljust(len(whole), b"\0"))
    with pytest.raises(Refused, match="checksum"):
        read_back(stand, first.id)
    manifest = folder / "manifest.json"
    manifest.write_bytes((tmp_path / "store" / second.id / "manifest.json").read_bytes())
    with pytest.raises(Refused, match="is the manifest of"):
        read_back(stand, first.id)
    manifest.unlink()
    with pytest.raises(Refused, match="holds no finished snapshot"):
        read_back(stand, first.id)
    stand.close()


def test_a_garbled_file_is_not_copied_and_ends_no_process(tmp_path: Path) -> None:
    """FAULTS 12: after an unclean stop a child walks it first. The command refuses, or what it copied is whole."""
    stand = Stand.make(tmp_path, rounds=40)
    stand.close()
    generation = stand.shards[0].folder.current()
    assert generation is not None
    file = generation / "data.mdb"
    whole, used = file.read_bytes(), used_bytes(generation)
    (tmp_path / "kycache.toml").write_text('[data]\ndir = "data"\nmap_size_gib = 1.0\n')
    store = (tmp_path / "store").as_uri()
    refused = 0
    for seed in range(GARBLINGS):
        rng = Random(seed)
        page = rng.randrange(2, used // 4096) * 4096
        file.write_bytes(whole[:page] + rng.randbytes(4096) + whole[page + 4096 :])
        command = [sys.executable, "-m", "kycache.cli.main", "snapshot", "create", "--store", store]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            assert done.returncode == 5, f"seed {seed}: {done.stderr}"
            assert str(file) in done.stderr
            assert "`kycache rebuild --shard 0`" in done.stderr
            assert Condition.WHOLE not in [found.condition for found in survey(stand.store(), stand.keys())]
            refused += 1
        else:  # nobody reads the page: it was free
            manifest = read_manifest(stand.store(), stand.keys(), done.stdout.partition(":")[0])
            (stand.fetched(manifest) / "data.mdb").unlink()
            shutil.rmtree(tmp_path / "store" / manifest.id)
    assert refused > GARBLINGS // 2
