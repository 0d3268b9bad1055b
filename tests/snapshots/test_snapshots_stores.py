"""Stores: a bucket of a server that speaks S3, multipart included; and what a store that fails says."""

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyrage
import pytest

from kycache.model.errors import ConfigurationError, Refused, Unreachable
from kycache.snapshots.prune import carry_out, decide, remove
from kycache.snapshots.storage import stores
from kycache.snapshots.storage.listing import Condition, survey
from kycache.snapshots.storage.stores import Missing, Store
from support.command_line import RunCommand
from support.snapshot_stand import KEY, Stand

MIB = 1 << 20
NO_ID = "20261125T000000.000Z-00000000"


def test_a_bucket_holds_snapshots(tmp_path: Path, bucket: str) -> None:
    """Taken, listed, read back, damaged, pruned; encrypted, the key set, parts smaller than the file."""
    stand = Stand.make(tmp_path, 2)
    identity = pyrage.x25519.Identity.generate()
    (tmp_path / "identity").write_text(str(identity))
    stand.set(
        store=f"{bucket}/one", key=KEY, recipients=(str(identity.to_public()),), identity=tmp_path / "identity"
    )
    first = stand.take()
    stand.go_on(2)
    second = stand.take()
    store, keys = stand.store(), stand.keys()
    assert [(s.id, s.condition) for s in survey(store, keys)] == [
        (first.id, Condition.WHOLE),
        (second.id, Condition.WHOLE),
    ]
    for shard in (0, 1):
        assert (stand.fetched(second, shard) / "data.mdb").stat().st_size == second.entry(shard).raw_bytes
    store.put(f"{first.id}/{first.entry(0).file}", b"something else")
    assert survey(store, keys)[0].condition is Condition.DAMAGED
    with pytest.raises(Refused, match="another size"):
        stand.fetched(first)
    there = survey(store, keys)
    carry_out(store, there, decide(there, datetime.now(UTC), keep=1))
    assert [s.id for s in survey(store, keys)] == [second.id]
    stand.close()


def test_parts_of_an_upload(bucket: str) -> None:
    """More than one part, and of any length: what is written is what is read."""
    store = Store(f"{bucket}/parts", part_bytes=5 * MIB)
    data = bytes(range(256)) * (11 * MIB // 256) + b"end"
    writer = store.writer("large")
    for at in range(0, len(data), 300_000):
        writer.write(data[at : at + 300_000])
    with pytest.raises(Missing):
        store.size("large")  # not whole, so not there
    writer.close()
    assert store.size("large") == len(data)
    assert b"".join(store.read("large", len(data))) == data
    store.delete(["large", "never there"])
    assert store.files() == []


def test_a_bucket_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((Refused, Unreachable), match="another-bucket"):
        Store("s3://another-bucket").put("x", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(
        "kycache.snapshots.storage.stores.RETRY", {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
    )
    with pytest.raises(Unreachable, match=r"cannot list it"):
        Store(bucket).files()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x",
        "http://host/x",
        "s3:/x",
        "file://host/x",
        "/some/where",
        "s3://",
        "file:///a#1",
        "file:///a?b",
    ],
)
def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Store(url)


@pytest.mark.parametrize("scheme", ["ftp", "az"])
def test_a_url_hides_its_password(scheme: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Store(f"{scheme}://user:hunter2@host/x?token=hunter2")
    assert "hunter2" not in f"{refused.value.problem} {refused.value.remedy}"


def test_what_killed_uploads_left_in_a_folder(tmp_path: Path) -> None:
    store = Store((tmp_path / "store").as_uri(), writing=True)
    writer = store.writer(f"{NO_ID}/file")
    writer.write(bytes(20 * MIB))  # more than a part: it is staged, and never closed
    (staged,) = (tmp_path / "store" / NO_ID).iterdir()
    assert staged.parent.stat().st_mode & 0o777 == 0o700  # it is its owner's alone only when it is whole
    assert store.files() == []
    assert store.tidy(datetime.now(UTC) - timedelta(days=1)) == []
    assert store.tidy(datetime.now(UTC) + timedelta(days=1)) == [f"{NO_ID}/{staged.name}"]
    assert list((tmp_path / "store").iterdir()) == []
    del writer


def test_what_goes_away_while_a_prune_looks_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload that is under way is finished between the folder's listing and a look at the file (seen)."""
    store = Store((tmp_path / "store").as_uri(), writing=True)
    folder = tmp_path / "store" / NO_ID
    folder.mkdir()
    (folder / "file#1").write_text("")

    def finished(path: Path) -> datetime:
        path.rename(folder / "file")
        return modified(path)

    modified = stores._modified
    monkeypatch.setattr(stores, "_modified", finished)
    assert store.tidy(datetime.now(UTC) + timedelta(days=1)) == []
    assert [path.name for path in folder.iterdir()] == ["file"]
    shutil.rmtree(folder)
    store.unstage(NO_ID)


def test_no_byte_is_anybody_elses_also_where_a_prune_took_the_folder(
    tmp_path: Path, kycache: RunCommand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes an empty one of a run that has just begun; the library then makes it as its process does."""
    stand = Stand.make(tmp_path, rounds=1)
    stand.close()
    monkeypatch.setattr(Store, "_make_folder", lambda *_: None)
    monkeypatch.setattr(Store, "settle", lambda *_: None)
    config = tmp_path / "kycache.toml"
    config.write_text(f'[data]\ndir = "data"\nmap_size_gib = 1.0\n[snapshots]\nstore = "{stand.settings.store}"\n')
    assert kycache("--config", config, "snapshot", "create").code == 0
    made = list((tmp_path / "store").rglob("*"))
    assert len(made) == 4
    assert [path for path in made if path.stat().st_mode & 0o077] == []


def test_what_somebody_else_keeps_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "draft#1").write_text("of somebody")
    assert Store(tmp_path.as_uri()).tidy(datetime.now(UTC) + timedelta(days=1)) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["draft#1", "empty", "notes"]


def test_a_folder_on_a_read_only_disk(tmp_path: Path, disk: Path) -> None:
    stand = Stand.make(tmp_path, rounds=1)
    stand.set(store=(disk / "store").as_uri())
    taken = stand.take()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(Refused, match="Read-only") as refused:
        stand.take()
    assert "for writing" in refused.value.remedy
    stand.fetched(taken)
    found = survey(stand.store(), stand.keys())
    with pytest.raises(Refused, match="Read-only"):
        remove(stand.store(), taken.id, [file.path for file in found[0].files])
    stand.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((Unreachable, Refused), match="cannot open"):
        Store((tmp_path / "file" / "store").as_uri(), writing=True)


@pytest.mark.parametrize(
    "arguments",
    [("list",), ("verify", NO_ID), ("prune", "--keep", "1"), ("restore", NO_ID, "--dry-run"), ("create",)],
)
def test_a_command_that_has_nothing_to_write_makes_no_folder(
    kycache: RunCommand, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    store = (tmp_path / "store").as_uri()
    ended = kycache("snapshot", *arguments, "--store", store)
    assert ended.code == (5 if arguments[0] in ("create", "verify", "restore") else 0)
    assert [*tmp_path.iterdir()] == []
    if arguments == ("list",):
        assert "no such folder" in ended.out
        assert kycache("snapshot", "list", "--json", "--store", store).json == []
