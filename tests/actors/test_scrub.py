"""What was deleted is not in a copy: neither in freed pages nor in what LMDB leaves lying in used ones."""

import contextlib
import os
import tempfile
from contextlib import closing
from pathlib import Path
from random import Random

import lmdb
import pytest

from kycache.actors.files.environment import PAGE_SIZE
from kycache.actors.generations import scrub
from kycache.actors.generations.hot_copy import copied_pages
from kycache.actors.generations.scrub import BadPages, Scrubber
from support.snapshot_stand import Stand

MARK = b"ERASED-"


def plain_copy(environment: lmdb.Environment, folder: Path) -> bytes:
    """LMDB's own compacting copy."""
    with tempfile.TemporaryFile(dir=folder) as file:
        environment.copyfd(file.fileno(), compact=True)
        return os.pread(file.fileno(), file.seek(0, os.SEEK_END), 0)


def random_history(environment: lmdb.Environment, rng: Random) -> dict[bytes, bytes]:
    """Values of all sizes are written, shortened and deleted; what must be gone carries a mark."""
    names = [b"a", b"b"]
    databases = [environment.open_db(name) for name in names]
    rows: dict[bytes, bytes] = {}
    for _ in range(60):
        with environment.begin(write=True) as txn:
            for _ in range(rng.randrange(40)):
                key = b"%d-%05d" % (rng.randrange(2), rng.randrange(400))
                database = databases[key[0] - ord("0")]
                if rng.random() < 0.3:
                    txn.delete(key, db=database)
                    rows.pop(key, None)
                    continue
                size = rng.choice([10, 100, 700, 1900, 2100, 3000, 4079, 4080, 4081, 9000, 40_000])
                txn.put(key, MARK * (size // len(MARK)), db=database)
                rows[key] = MARK * (size // len(MARK))
    with environment.begin(write=True) as txn:  # and everything that stays is overwritten by something shorter
        for key, value in rows.items():
            rows[key] = b"kept" * (rng.randrange(len(value) // 4) + 1)
            txn.put(key, rows[key], db=databases[key[0] - ord("0")])
    return rows


@pytest.mark.parametrize("seed", range(6))
def test_no_stale_byte_is_copied(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against LMDB's own copy of the same file: the same records, and nothing of what they were."""
    monkeypatch.setattr(scrub, "HELD_BYTES_MAX", 64 << 10)  # so that pages are held on disk too
    environment = lmdb.open(str(tmp_path / "live"), max_dbs=2, map_size=1 << 28)
    rows = random_history(environment, Random(seed))
    plain = plain_copy(environment, tmp_path)
    with environment.begin() as txn:
        clean = b"".join(copied_pages(0, environment, txn, spill=tmp_path))
    environment.close()
    assert MARK in plain, "the test shows nothing"
    assert MARK not in clean
    assert len(clean) == len(plain)
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "data.mdb").write_bytes(clean)
    copy = lmdb.open(str(tmp_path / "copy"), max_dbs=2, readonly=True)
    with copy.begin() as txn:
        found = {bytes(k): bytes(v) for name in (b"a", b"b") for k, v in txn.cursor(copy.open_db(name, txn))}
    assert found == rows
    copy.close()


def test_blocks_may_be_cut_anywhere(tmp_path: Path) -> None:
    environment = lmdb.open(str(tmp_path), max_dbs=2, map_size=1 << 28)
    random_history(environment, Random(7))
    plain = plain_copy(environment, tmp_path)
    environment.close()
    whole = b"".join(Scrubber().feed(plain))
    rng = Random(8)
    scrubber, pieces, at = Scrubber(), [], 0
    while at < len(plain):
        step = rng.choice([1, 100, PAGE_SIZE - 1, PAGE_SIZE, 3 * PAGE_SIZE + 5])
        pieces += [bytes(piece) for piece in scrubber.feed(plain[at : at + step])]
        at += step
    scrubber.finish()
    assert b"".join(pieces) == whole
    scrubber = Scrubber()
    list(scrubber.feed(plain[:-1]))
    with pytest.raises(BadPages, match="middle of a page"):
        scrubber.finish()


@pytest.mark.parametrize("seed", range(3))
def test_garbled_pages_end_in_words(tmp_path: Path, seed: int) -> None:
    environment = lmdb.open(str(tmp_path), max_dbs=2, map_size=1 << 28)
    random_history(environment, Random(seed))
    plain = plain_copy(environment, tmp_path)
    environment.close()
    rng = Random(seed)
    for _ in range(40):
        garbled = bytearray(plain)
        page = rng.randrange(2, len(garbled) // PAGE_SIZE) * PAGE_SIZE
        for _ in range(8):
            garbled[page + rng.choice([10, 12, 13, 14, 15, 16, 17, rng.randrange(PAGE_SIZE)])] = rng.randrange(256)
        with closing(Scrubber()) as scrubber, contextlib.suppress(BadPages):
            for _ in scrubber.feed(bytes(garbled)):
                pass
            scrubber.finish()


def test_an_erased_person_is_not_in_a_new_snapshot(tmp_path: Path) -> None:
    """The source deletes a user: nothing of the rows is in the next snapshot's file, as the disk has it."""
    stand = Stand.make(tmp_path, rounds=60)
    source, shard = stand.source, stand.shards[0]
    user = source.new_id()
    secrets = [f"Erasmus{n}" for n in range(30)]
    source.users[user] = {**next(iter(source.users.values())), "user_id": user, "first_name": secrets[0]}
    events = [("c", "users", user, None, source.users[user])]
    for secret in secrets[1:]:  # enough of them that the profile has pages of its own
        key = source.new_id()
        row = {**next(iter(source.accounts.values())), "account_id": key, "user_id": user, "account_no": secret}
        source.accounts[key] = row
        events.append(("c", "accounts", key, None, row))
    source._commit([(source._lsn + n, *event) for n, event in enumerate(events, 1)])
    stand.go_on(1)
    generation = shard.folder.current()
    assert generation is not None
    assert secrets[7].encode() in (generation / "data.mdb").read_bytes()
    before = (stand.fetched(stand.take()) / "data.mdb").read_bytes()
    assert all(secret.encode() in before for secret in secrets)
    if user in source.users:
        source._commit([(source._lsn + n, *event) for n, event in enumerate(source._delete_user(user), 1)])
    stand.go_on(1)
    after = (stand.fetched(stand.take()) / "data.mdb").read_bytes()
    assert not [secret for secret in secrets if secret.encode() in after]
    stand.close()
