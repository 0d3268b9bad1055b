"""A data directory, the members that share it, and what a death leaves behind."""

import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.actors.integrity.vouching import mark_of, vouch
from kycache.actors.reader import ShardReader, snapshots
from kycache.ingest.consuming.topic import Topic
from kycache.ingest.decoding.decode import Record, RecordDecoder
from kycache.ingest.remedies import quarantine
from kycache.ingest.remedies.acknowledge import acknowledge
from kycache.model.change import Change, Item
from kycache.model.definition import default_view
from kycache.model.errors import Refused
from kycache.model.view import View
from simulation.check import Promise, check_index, check_profile, check_sql, check_state, require
from simulation.log import TIMESTAMP_MS, Log
from simulation.member import SETTINGS, Member
from simulation.model import ShardModel, placed
from simulation.seams import Died, Fate, Violation
from support.pipeline.fake_source import FakeSource, Sent
from support.shards import TOPIC, TOPIC_ID

VIEW = default_view()
DECODER = RecordDecoder(VIEW)
PAGE = 4096
META_BYTES = 2 * PAGE
"""LMDB's two meta pages: the newer one is the last commit."""

RECOUNT_SHARE = 0.05
"""Of the commits after which the whole index is counted anew."""

FAILURES_MAX = 4
"""Unforeseen failures of one shard in a history: at five within a minute the supervisor halts it, rightly."""

TURN_S = 0.05
"""A turn of the schedule, on the mock clock."""

CATCH_UP_TURNS = 4_000
"""Turns in which any backlog of a history is read; a shard that is not through then has stopped for good."""


class Known(NamedTuple):
    """A shard's disk just before its last commit."""

    meta: bytes
    last_transaction: int
    model: ShardModel


class World:
    """What is outside of the processes, and outlives them (`member.Disk`)."""

    def __init__(self, root: Path, source: FakeSource, rng: random.Random, map_bytes: int) -> None:
        self.rng = rng
        self.source = source
        self.log = Log(source)
        self.promise = Promise(self.log)
        self.view: View = VIEW
        self.map_bytes = map_bytes
        self.directory = DataDirectory(root)
        self.node = self.directory.found(VIEW.hash, TOPIC, TOPIC_ID, source.partitions)
        self.models = [ShardModel() for _ in range(source.partitions)]
        self.members: list[Member] = []
        self.owners: list[Member | None] = [None] * source.partitions
        """Who the group says has a partition."""
        self.stale: list[tuple[Member, int]] = []
        """Members that do not know yet that a partition was taken from them."""
        self.fates: list[deque[Fate]] = [deque() for _ in range(source.partitions)]
        self._before: list[Known | None] = [None] * source.partitions
        self._frozen: dict[int, bytes] = {}
        self._failures = [0] * source.partitions
        self._files: dict[int, str] = {}
        self._items: dict[int, Item] = {}
        self._born = 0

    def topic(self, _settings: object) -> Topic:
        """In place of asking the broker."""
        return Topic(TOPIC, TOPIC_ID, self.source.partitions, (0,) * self.source.partitions)

    # Members: born, and gone.

    async def live(self, *, task_status: "trio.TaskStatus[Member]") -> None:
        """One member's life."""
        self._born += 1
        member = None
        try:
            async with trio.open_nursery() as nursery:
                member = Member(self, f"member-{self._born}", nursery)
                self.members.append(member)
                task_status.started(member)
                await trio.sleep_forever()
        except* Died:
            pass
        finally:
            if member is not None:
                self.members.remove(member)
            self.owners = [None if owner is member else owner for owner in self.owners]
            self.stale = [(who, shard) for who, shard in self.stale if who is not member]

    def living(self) -> list[Member]:
        """Members that are not in the midst of dying."""
        return [member for member in self.members if not member.dead]

    # The disk (`member.Disk`).

    def fate(self, shard: int) -> Fate | None:
        if not self.fates[shard]:
            return None
        fate = self.fates[shard].popleft()
        if fate is Fate.FAILS:
            self._failures[shard] += 1
            if self._failures[shard] > FAILURES_MAX:
                return None
        return fate

    def about_to_commit(self, shard: int) -> None:
        with open(self._file(shard), "rb", buffering=0) as file:  # noqa: PTH123 (once a commit)
            meta = file.read(META_BYTES)
        self._before[shard] = Known(meta, _transaction(meta), self.models[shard].copy())

    def committed(self, member: Member, shard: int) -> None:
        """Compare what was committed with the model at the same position."""
        model = self.models[shard]
        reader = self._reader(member, shard)
        try:
            with reader.snapshot() as snapshot:
                offset = snapshot.state.position.offset
                require(offset >= model.position, f"shard {shard} went back from {model.position} to {offset}")
                for at in range(model.position, offset):
                    model.apply(*self._item(shard, at))
                touched = model.rows.keys() | model.suspicions.keys() if model.touched is None else model.touched
                for user in touched:
                    check_profile(shard, user, snapshot.profile(user), model)
                model.touched = set()
                check_state(shard, snapshot.state, model)
                self.promise.check(shard, snapshot.state)
                if self.rng.random() < RECOUNT_SHARE:
                    check_index(shard, snapshot, VIEW)
        finally:
            reader.close()
        for doubtful in model.quarantine.values():
            if doubtful.scope.value == "directory":
                marks = {(doubt.kind, doubt.shard) for doubt in self.directory.doubts()}
                require(("suspect", shard) in marks, f"shard {shard}: a nameless delete put nothing in doubt")

    def opened(self, shard: int, offset: int) -> None:
        known = self.models[shard].position
        require(offset == known, f"shard {shard} was opened at {offset}, committed was {known}")

    def broken(self, what: str) -> None:
        raise Violation(what)

    def freeze(self, shards: list[int]) -> None:
        """Keep a copy of files as they are: the process that has them open is gone."""
        for shard in shards:
            with Path(self._file(shard)).open("rb") as file:
                meta = file.read(META_BYTES)
                last_page = max(int.from_bytes(meta[at + 136 : at + 144], "little") for at in (0, PAGE))
                self._frozen[shard] = meta + file.read((last_page + 1) * PAGE - META_BYTES)

    def lose_last_commit(self, shard: int) -> None:
        """Power loss: the last commit's meta page never reached the disk (MDB_NOMETASYNC)."""
        frozen, before = self._frozen.get(shard), self._before[shard]
        if frozen is None or before is None:
            return
        if _transaction(frozen) == before.last_transaction + 1:
            self._frozen[shard] = before.meta + frozen[META_BYTES:]
            self.models[shard] = before.model
            self._before[shard] = None

    def thaw(self, shard: int) -> None:
        """The next process opens the copy."""
        frozen = self._frozen.pop(shard, None)
        if frozen is not None:
            path = Path(self._file(shard))
            path.unlink()
            path.write_bytes(frozen)
            vouch(path.parent, mark_of(path.parent))

    def _file(self, shard: int) -> str:
        """A history never leaves its first generation, so it is looked up once."""
        path = self._files.get(shard)
        if path is None:
            generation = self.directory.shard(shard).current()
            assert generation is not None
            path = self._files[shard] = os.fspath(generation / "data.mdb")
        return path

    def _item(self, shard: int, offset: int) -> tuple[Item, Sent]:
        sent = self.log.partitions[shard][offset]
        known = self._items.get(id(sent))  # what comes again is the same object
        if known is None:
            known = self._items[id(sent)] = DECODER.decode(Record(offset, TIMESTAMP_MS, sent.key, sent.value))
        known.offset = offset
        return known, sent

    def _reader(self, member: Member, shard: int) -> ShardReader:
        return ShardReader(member.environments, self.directory.shard(shard), VIEW, self.source.partitions)

    # Quarantine.

    async def replay(self, shard: int) -> None:
        """As `kycache quarantine replay` after the view learned to read what was poison; the rest is dropped."""
        owner = self.owners[shard]
        offsets = sorted(self.models[shard].quarantine)
        contested = any(number == shard for _, number in self.stale)  # the command would wait for its turn in vain
        if owner is None or owner.dead or not offsets or contested:
            return
        meant = {offset: sent for offset, sent in self.log.meant[shard].items() if offset in offsets}

        def work(offsets: list[int], *, drop: bool) -> Callable[[], None]:
            return lambda: self._settle(owner, shard, offsets, drop=drop)

        rest = [offset for offset in offsets if offset not in meant]
        try:
            if meant:
                await owner.holders.carry_out(shard, work(sorted(meant), drop=False))
            if rest and not owner.dead:
                await owner.holders.carry_out(shard, work(rest, drop=True))
        except Refused:
            if not owner.dead:  # then nobody hears the answer
                raise

    def _settle(self, owner: Member, shard: int, offsets: list[int], *, drop: bool) -> None:
        if owner.dead:
            raise Died
        self.thaw(shard)
        self.about_to_commit(shard)
        with patch.object(quarantine, "RecordDecoder", lambda *_: _Mended(self.log, shard)):
            home = Home(self.directory, owner.environments, VIEW)
            settled = quarantine.settle(SETTINGS, home, shard, offsets, drop=drop)
        model = self.models[shard]
        for one in settled:
            require(one.gone, f"shard {shard}: offset {one.offset} stays in quarantine: {one.outcome}")
            meant = self.log.meant[shard].get(one.offset)
            if one.offset not in model.quarantine:
                continue
            if meant is not None and not drop:
                item = _Mended(self.log, shard).decode(Record(one.offset, TIMESTAMP_MS, meant.key, meant.value))
                if isinstance(item, Change):
                    model.row(item, placed(item, meant))
            model.settle(one.offset)
        self.committed(owner, shard)

    async def acknowledge(self, shard: int) -> None:
        """As `kycache rebuild --acknowledge` of a shard whose tables were altered."""
        owner = self.owners[shard]
        contested = any(number == shard for _, number in self.stale)
        if owner is None or owner.dead or contested or self.models[shard].altered is None:
            return
        try:
            await owner.holders.carry_out(shard, lambda: self._acknowledge(owner, shard))
        except Refused:
            if not owner.dead:
                raise

    def _acknowledge(self, owner: Member, shard: int) -> None:
        if owner.dead:
            raise Died
        self.thaw(shard)
        self.about_to_commit(shard)
        acknowledge(Home(self.directory, owner.environments, VIEW), shard)
        self.models[shard].altered = None
        self.committed(owner, shard)

    # The end.

    async def turn(self) -> None:
        """Every member polls once, and time passes."""
        for member in self.living():
            await member.poll(self.rng)
        await trio.sleep(TURN_S)

    async def catch_up(self) -> None:
        """Until every shard has read its partition to the end."""
        for _ in range(CATCH_UP_TURNS):
            if [model.position for model in self.models] == self.log.ends():
                return
            await self.turn()
        how = [fact for member in self.living() for fact in member.describe()]
        raise Violation(f"no progress: at {[m.position for m in self.models]} of {self.log.ends()}: {how}")

    def check_end(self) -> None:
        """The view is what SQL says, and nothing is in doubt."""
        readers = [self._reader(self._owner(shard), shard) for shard in range(self.source.partitions)]
        try:
            with snapshots(readers) as taken:
                for shard, snapshot in enumerate(taken):
                    check_state(shard, snapshot.state, self.models[shard])
                    check_index(shard, snapshot, VIEW)
                    require(snapshot.state.bootstrapped, f"shard {shard} is not bootstrapped at the end")
                    require(not snapshot.state.suspects, f"shard {shard}: someone is suspect at the end")
                    require(snapshot.state.altered is None, f"shard {shard}: an alteration stays at the end")
                check_sql(self.source, taken, VIEW)
        finally:
            for reader in readers:
                reader.close()
        require(not self.directory.doubts(), f"in doubt at the end: {self.directory.doubts()}")

    def _owner(self, shard: int) -> Member:
        owner = self.owners[shard]
        assert owner is not None
        return owner


class _Mended(RecordDecoder):
    """Understands what was poison."""

    def __init__(self, log: Log, shard: int) -> None:
        self._meant = log.meant[shard]

    def decode(self, record: Record) -> Item:
        meant = self._meant.get(record.offset)
        return DECODER.decode(record if meant is None else record._replace(key=meant.key, value=meant.value))


def _transaction(meta: bytes) -> int:
    """The number of the last commit, from the file's two meta pages."""
    return max(int.from_bytes(meta[at + 144 : at + 152], "little") for at in (0, PAGE))


def scratch() -> str | None:
    """Where files are memory: a history is thousands of fsyncs."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
