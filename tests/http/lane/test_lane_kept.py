"""Kept bodies and pages: never another answer than one that is made from the view as it is now."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kycache.actors.integrity.vouching import mark_of, vouch
from kycache.actors.rules.reports import CUT_OFF, SUSPECT, Doubt
from kycache.actors.rules.state import Identity
from kycache.actors.store.store import FORMAT, Store
from kycache.http.reads import kept_bodies
from kycache.http.reads.kept_bodies import BODY_BYTES_MAX, KeptBodies, KeptBody
from kycache.model.change import Scope
from kycache.model.lsn import format_lsn
from support.faults import seeds
from support.http_stand import ENDS_AT_ONCE, Stand, User, people
from support.lanes.raw_http import Answered, Raw, get, running

KEEPS = replace(ENDS_AT_ONCE, list_ttl_s=1e-9, freshness_wait_s=0.001)
"""Pages are kept, and looked at again each time."""

KEEPS_NOTHING = replace(KEEPS, list_ttl_s=0.0, body_cache_mib=0, fast_lane=False)

STEPS = 80
ASKED = 5
"""Requests after each step."""


class History:
    """What a writer, and an operator, do to a stand; drawn at random."""

    def __init__(self, stand: Stand, rng: random.Random) -> None:
        self.stand = stand
        self.users = people(12)
        stand.load(self.users)
        self._rng = rng
        self._saved: list[tuple[Path, int]] = []
        """A file of shard 0 from before, and the offset that it was at."""

    def step(self) -> None:
        often: list[Callable[[], object]] = [self._put, self._put, self._delete, self.stand.beat, self._again]
        seldom = [self._suspect, self._heal, self._generation, self._save, self._restore]
        self._rng.choice([*often, *often, *seldom])()

    def _user(self) -> User:
        return self._rng.choice(self.users)

    def _put(self) -> None:
        user = self._user()
        user.first = self._rng.choice(["Ada", "Bea", "Ño", None])
        user.statuses = self._rng.choices(["PENDING", "VERIFIED"], k=self._rng.randrange(3))
        self.stand.put(user)

    def _again(self) -> None:
        self.stand.put(self._user())

    def _delete(self) -> None:
        self.stand.delete(self._user())

    def _suspect(self) -> None:
        user = self._user()
        self.stand.poison(self.stand.shard_of(user), Scope.PROFILE, user)

    def _heal(self) -> None:
        for user in self.users:
            self.stand.put(user)

    def doubt(self, kind: str) -> None:
        self.stand.directory.add_doubts((Doubt(kind, 0, 5, "why"),))

    def _copy(self, source: Path, *, used: bool) -> Path:
        """A copy of a generation's file, in a generation of its own."""
        made = self.stand.directory.shard(0).next_generation()
        if used:
            environment, _ = self.stand.environments.lease(source, 0)
            environment.copy(str(made))
            self.stand.environments.release(source)
        else:
            (made / "data.mdb").write_bytes((source / "data.mdb").read_bytes())
        return made

    def _current(self) -> Path:
        current = self.stand.directory.shard(0).current()
        assert current is not None
        return current

    def _generation(self) -> None:
        self._take(self._copy(self._current(), used=True), self.stand.offsets[0])

    def _save(self) -> None:
        self._saved.append((self._copy(self._current(), used=True), self.stand.offsets[0]))

    def _restore(self) -> None:
        if self._saved:
            saved, offset = self._rng.choice(self._saved)
            self._take(self._copy(saved, used=False), offset)

    def _take(self, generation: Path, offset: int) -> None:
        """The writer goes on in another file."""
        stand = self.stand
        vouch(generation, mark_of(generation))
        stand.stores[0].close()
        stand.directory.shard(0).flip(generation)
        identity = Identity(FORMAT, 0, stand.shards, stand.view.hash)
        stand.stores[0] = Store(stand.environments, generation, stand.view, identity, stand.directory.add_doubts)
        stand.offsets[0] = offset


def drawn(history: History, rng: random.Random, tags: list[str]) -> bytes:
    """A request."""
    user = rng.choice(history.users)
    target = rng.choice([f"/users/{user.id}"] * 3 + ["/users", "/users?size=3", "/users?kycStatus=VERIFIED"])
    headers = []
    if rng.random() < 0.3:
        headers.append(f"If-None-Match: {rng.choice([*tags[-5:], '*'])}")
    if rng.random() < 0.3:
        lsn = history.stand.lsn + rng.choice([0, 0, -100, 1])
        headers.append(f"Kycache-Min-LSN: {format_lsn(lsn)}")
    return get(target, *headers, method=rng.choice(["GET", "GET", "GET", "HEAD"]))


async def asked(raw: Raw, request: bytes) -> Answered:
    """The answer, without its date."""
    answered = await raw.ask(request)
    lines = tuple(line for line in answered.lines if not line.startswith(b"date:"))
    return answered._replace(lines=lines)


@pytest.mark.parametrize("seed", seeds(2, at_most=200))
async def test_what_is_kept_is_what_would_be_made(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    history = History(Stand(tmp_path / "data"), rng)
    tags = ['"x"']
    doubts = {STEPS - 20: SUSPECT, STEPS - 10: CUT_OFF}
    async with (
        running(history.stand, KEEPS) as keeps,
        running(history.stand, KEEPS_NOTHING) as makes,
        keeps.connected() as kept,
        makes.connected() as made,
    ):
        for step in range(STEPS):
            if step in doubts:
                history.doubt(doubts[step])
            history.step()
            for _ in range(ASKED):
                request = drawn(history, rng, tags)
                right = await asked(made, request)
                assert await asked(kept, request) == right, request
                assert await asked(kept, request) == right, request  # now it is kept
                if tag := right.header("etag"):
                    tags.append(tag)
        counted = keeps.counted("bodies")
        assert counted["kept"] > STEPS
        assert counted["rendered"] > STEPS / 2
        assert keeps.counted("list_pages").keys() == {"read", "unchanged"}
        assert makes.gauge("body_cache_bytes") == makes.counted("bodies").get("kept", 0) == 0
        assert makes.counted("list_pages").keys() == {"read"}
    history.stand.close()


async def test_nothing_kept_is_answered_when_the_files_cannot_be_read(tmp_path: Path) -> None:
    user = User(1)
    stand = Stand(tmp_path / "data")
    stand.load([user])
    folder = stand.directory.shard(stand.shard_of(user))
    async with running(stand, KEEPS) as server, server.connected() as raw:
        detail, page = get(f"/users/{user.id}"), get("/users")
        for request in (detail, page) * 2:
            assert (await raw.ask(request)).status == 200
        current = folder.current()
        assert current is not None
        empty = folder.next_generation()
        folder.flip(empty)
        for request in (detail, page) * 2:
            assert (await raw.ask(request)).status == 503
        folder.flip(current)
        for request in (detail, page) * 2:
            assert (await raw.ask(request)).status == 200
    stand.close()


async def test_as_many_spellings_as_are_asked(tmp_path: Path) -> None:
    """An id has many spellings; each is a body of its own, and all of them keep to the bound."""
    rng = random.Random(1)
    user = User(int("abcdefab" * 4, 16), statuses=["VERIFIED"])
    stand = Stand(tmp_path / "data")
    stand.load([user])
    async with running(stand, replace(KEEPS, body_cache_mib=1)) as server, server.connected() as raw:
        right = await raw.ask(get(f"/users/{user.id}"))
        for _ in range(1500):
            spelt = "".join(rng.choice([c, c.upper(), f"%{ord(c):02x}", f"%{ord(c):02X}"]) for c in user.id)
            assert (await raw.ask(get(f"/users/{spelt}"))).body == right.body
            assert server.gauge("body_cache_bytes") <= 1 << 20
        assert server.gauge("body_cache_bytes") > 1 << 19
    stand.close()


def body(size: int, stored: int = 0) -> KeptBody:
    return KeptBody(0, b"u", b"s" * stored, b"b" * size, '"t"', b"", b"")


def test_the_bound_in_bytes() -> None:
    rng = random.Random(2)
    sizes: list[int] = []
    kept = KeptBodies(1 << 18, sizes.append)
    for _ in range(5000):
        kept.put(b"%d" % rng.randrange(400), body(rng.randrange(4000), rng.randrange(2000)))
        kept.get(b"%d" % rng.randrange(400))
        assert 0 <= sum(sizes) <= 1 << 18
    assert sum(sizes) > (1 << 18) - 10_000


def test_the_latest_used_stay() -> None:
    kept = KeptBodies(10_000)
    for name in (b"a", b"b", b"c"):
        kept.put(name, body(2000))
    assert kept.get(b"a")
    kept.put(b"d", body(2000))
    assert [name for name in (b"a", b"b", b"c", b"d") if kept.get(name)] == [b"a", b"c", b"d"]


def test_what_is_not_kept() -> None:
    kept = KeptBodies(1 << 30)
    kept.put(b"large", body(BODY_BYTES_MAX + 1))
    assert kept.get(b"large") is None
    small = KeptBodies(1000)
    small.put(b"a", body(500))
    assert small.get(b"a") is None  # with what an entry takes up beside its texts it is larger than all
    assert 500 + kept_bodies._OVERHEAD_BYTES > 1000
    off = KeptBodies(0)
    off.put(b"a", body(1))
    assert off.get(b"a") is None
