"""A shard whose list cannot be read, found while all shards are read at once: who is told, and of which."""

import logging
import mmap
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from kycache.actors.order import reader as order_reader
from kycache.actors.order.layout import ROOT_KEY, decode_root, encode
from kycache.http.exchange import sparing_log
from kycache.model.errors import Refused
from support.http_stand import Stand, User, people, problem, serving

PAGE_BYTES = mmap.PAGESIZE
FLAGS_AT = 10
"""Of an LMDB page: behind its number and two bytes of padding."""


@pytest.fixture
def users(tmp_path: Path) -> list[User]:
    del tmp_path
    return people(300)


@pytest.fixture
def stand(tmp_path: Path, users: list[User]) -> Stand:
    made = Stand(tmp_path / "data")
    made.load(users)
    return made


def garble_pages(stand: Stand, shard: int) -> None:
    """Of the list: what they are is not said any more."""
    generation = stand.directory.shard(shard).current()
    assert generation is not None
    with (generation / "data.mdb").open("r+b") as file:
        data = file.read()
        pages = [at for at in range(0, len(data), PAGE_BYTES) if b'{"userId"' in data[at : at + PAGE_BYTES]]
        assert pages
        for at in pages:
            file.seek(at + FLAGS_AT)
            file.write(b"\0\0")


def lose_rows(stand: Stand, shard: int) -> None:
    """The index counts rows that are not there."""
    environment, databases = stand.environments.lease(stand.stores[shard].generation, shard)
    with environment.begin(write=True) as txn, txn.cursor(databases.rows) as cursor:
        while cursor.first():
            cursor.delete()
    stand.environments.release(stand.stores[shard].generation)


def spoil_root(stand: Stand, shard: int) -> None:
    """The root of the index is another version's: what is refused as soon as the index is opened."""
    environment, databases = stand.environments.lease(stand.stores[shard].generation, shard)
    with environment.begin(write=True) as txn:
        raw = txn.get(ROOT_KEY, db=databases.order)
        assert raw is not None
        root = decode_root(raw)
        txn.put(ROOT_KEY, encode(msgspec.structs.replace(root, format=root.format + 1)), db=databases.order)
    stand.environments.release(stand.stores[shard].generation)


def garble_root(stand: Stand, shard: int) -> None:
    environment, databases = stand.environments.lease(stand.stores[shard].generation, shard)
    with environment.begin(write=True) as txn:
        txn.put(ROOT_KEY, b"\xc1" * 20, db=databases.order)
    stand.environments.release(stand.stores[shard].generation)


@pytest.mark.parametrize("damage", [garble_pages, lose_rows, spoil_root, garble_root])
@pytest.mark.parametrize("shard", [0, 1, 2])
def test_the_shard_that_cannot_be_read_is_named(
    stand: Stand, damage: Callable[[Stand, int], None], shard: int
) -> None:
    router = stand.router()
    assert router.shard_count == 3
    damage(stand, shard)
    with pytest.raises(Refused, match=rf"^shard {shard}: .* --shard {shard}`"), router.all_snapshots() as taken:
        order_reader.page([s.order for s in taken], (None, None), newest=True, skip=0, size=500)
    router.close()


async def test_a_detail_needs_no_list(stand: Stand, users: list[User]) -> None:
    """The index is opened by whoever asks for it: its root grows with the shard, and a detail reads none of it."""
    async with serving(stand) as client:
        spoil_root(stand, 1)
        for user in users:
            assert (await client.get(f"/users/{user.id}")).status_code == 200
        problem(await client.get("/users"), 503, "unreadable")


async def test_the_log_tells_once(
    stand: Stand, users: list[User], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is told nothing of our files; who runs them is told all, and not at every request."""

    def told() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "kycache.http" and r.levelno == logging.ERROR]

    async with serving(stand) as client:
        lose_rows(stand, 1)
        for _ in range(3):
            body = problem(await client.get("/users?size=500"), 503, "unreadable")
            assert "shard" not in str(body)
        assert [text.split(":")[0] for text in told()] == ["shard 1"]
        assert not [user for user in users if user.id in told()[0] or user.key.hex() in told()[0]]
        monkeypatch.setattr(sparing_log, "AGAIN_S", 0.0)
        problem(await client.get("/users?size=500"), 503, "unreadable")
        assert len(told()) == 2
