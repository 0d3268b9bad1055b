"""One history of a seed: what the source does, what reaches the shards of it when, and what breaks meanwhile.

Each history has its own mixture: most faults are switched off in it, so that the few that are on meet often.
"""

import json
import random
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from unittest.mock import patch

import structlog
import structlog.testing
import trio

from kycache.ingest import opening
from kycache.ingest.decoding.decode import Record
from kycache.model.change import Poison
from kycache.model.values import PLACEHOLDER
from simulation.limits import small_limits
from simulation.member import Member
from simulation.seams import THREAD_S, Fate, Violation, in_place_of_threads, run_seeded
from simulation.world import DECODER, World, scratch
from support.pipeline.fake_source import FakeSource, Sent

STEPS = (4, 16)
"""Things that happen in a history. Many short ones find more than a few long ones, and are easier to read."""

PARTITIONS = (1, 1, 2, 2, 3)
MAP_BYTES = (96 << 10, 1 << 20)
"""Of a shard: one that fills and grows in most histories, one that does not."""

MEMBERS_MAX = 2
SWITCHED_ON = 0.4
"""The chance of a fault to be part of a history."""

POISONOUS = (0.05, 0.15)
"""Of the records of a history in which some cannot be understood."""

DAYS = 8
"""Longer than a delete is remembered: nothing from before comes again after such a wait."""

UNCHANGING = {"users": "last_name", "kyc_records": "doc_type", "accounts": "account_no"}
"""Per table, a column that no update changes: its placeholder (DEBEZIUM 23) means the value that was."""


class Failed(AssertionError):
    """A history broke a promise; says how to see it again."""


class History:
    """What happens in the world of one seed."""

    def __init__(self, world: World, rng: random.Random, nursery: trio.Nursery) -> None:
        self._world = world
        self._rng = rng
        self._nursery = nursery
        self._source = world.source
        self._source.crowd = rng.random() < 0.5
        self._poisoned: dict[int, Sent] = {}
        """By their place in the source's log."""
        self._placeless: set[int] = set()
        """What, since the latest whole snapshot, came as something that has no place in history; by `id`."""
        self._untellable: set[int] = set()
        """The same from before that snapshot."""
        self._forgotten = 0
        """Records of the source's log that never come again."""
        self._poisonous = rng.choice(POISONOUS) if rng.random() < SWITCHED_ON else 0.0
        self._unmended = False
        """Only a whole snapshot puts it right: the last one was interrupted, or values did not come along."""
        usual: list[tuple[float, Callable[[], Awaitable[None]]]] = [(6, self._transactions), (2, self._beat)]
        faults: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (1.5, self._redelivery),
            (1, self._whole_snapshot),
            (1, self._partial_snapshot),
            (1, self._truncate),
            (1, self._long_wait),
            (1.5, self._kill),
            (1, self._power_loss),
            (2, self._rebalance),
            (1.5, self._doomed_commit),
            (1, self._replay),
        ]
        chosen = usual + [fault for fault in faults if rng.random() < SWITCHED_ON]
        if self._poisonous:
            chosen.append((3, self._redelivery))  # what was spoilt comes again, whole
        if rng.random() < SWITCHED_ON:
            # What beats of before said comes again.
            chosen += [(1, self._alter), (1.5, self._acknowledge), (1.5, self._redelivery)]
        self._weights = [weight for weight, _ in chosen]
        self._actions = [action for _, action in chosen]

    async def run(self) -> None:
        """From an empty directory to a view that equals the source."""
        self._begin()
        for _ in range(self._rng.randint(*STEPS)):
            await self._staff()
            (action,) = self._rng.choices(self._actions, self._weights)
            await action()
            for _ in range(self._rng.choice((0, 1, 1, 2))):
                await self._world.turn()
        await self._end()

    def _begin(self) -> None:
        source = self._source
        source.transactions(self._rng.randint(1, 4))
        source.lost, source.log = source.log, []
        source.snapshot()
        self._heard(whole=True)

    async def _end(self) -> None:
        world = self._world
        for fates in world.fates:
            fates.clear()
        if self._unmended:
            await self._whole_snapshot(spoil=False)
        await self._learn()
        await self._staff(every=True)
        await self._beat()
        await world.catch_up()
        for shard in range(self._source.partitions):
            await world.replay(shard)
        world.check_end()

    def _heard(self, *, whole: bool = False) -> None:
        """The log takes what the source sent, and the watermark's promise learns of it."""
        self._world.log.take(self._poisoned)
        self._world.promise.heard(whole=whole)

    # Members.

    async def _staff(self, *, every: bool = False) -> None:
        """A rebalance gives what nobody has to somebody, some time after."""
        world = self._world
        for shard in range(self._source.partitions):
            owner = world.owners[shard]
            if (owner is None or owner.dead) and (every or self._rng.random() < 0.7):
                await self._give(shard, await self._member())

    async def _member(self, besides: Member | None = None) -> Member:
        others = [member for member in self._world.living() if member is not besides]
        if others and (len(self._world.living()) >= MEMBERS_MAX or self._rng.random() < 0.5):
            return self._rng.choice(others)
        born: Member = await self._nursery.start(self._world.live)
        return born

    async def _give(self, shard: int, member: Member) -> None:
        if (member, shard) in self._world.stale:
            self._world.stale.remove((member, shard))
            await member.revoke(shard)
        if not member.dead:
            self._world.owners[shard] = member
            member.assign(shard)

    async def _learn(self) -> None:
        """Members hear of what was taken from them."""
        for member, shard in list(self._world.stale):
            if not member.dead:
                await member.revoke(shard)
        self._world.stale.clear()

    async def _rebalance(self) -> None:
        world = self._world
        await self._learn()
        shard = self._rng.randrange(self._source.partitions)
        owner = world.owners[shard]
        if owner is None or owner not in world.living():
            return
        await owner.poll(self._rng)  # so that a batch is often in hand
        await trio.sleep(self._rng.random() * THREAD_S)
        if owner.dead:
            return
        if self._rng.random() < 0.3:  # it stands still: the other has the partition before it hears of that
            other = await self._member(besides=owner)
            if other is not owner and not owner.dead:
                world.stale.append((owner, shard))
                await self._give(shard, other)
            return
        if self._rng.random() < 0.2:  # it comes back before what was polled is delivered
            async with owner.poll_across(shard, self._rng):
                await owner.revoke(shard)
                await self._give(shard, owner)
            return
        world.owners[shard] = None
        await owner.revoke(shard)
        if not owner.dead:
            await self._give(shard, owner if self._rng.random() < 0.3 else await self._member(besides=owner))

    async def _kill(self) -> None:
        living = self._world.living()
        if living:
            self._rng.choice(living).die()

    async def _power_loss(self) -> None:
        for member in self._world.living():
            member.die()
        for shard in range(self._source.partitions):
            if self._rng.random() < 0.7:
                self._world.lose_last_commit(shard)

    async def _doomed_commit(self) -> None:
        shard = self._rng.randrange(self._source.partitions)
        fate = self._rng.choice(list(Fate))
        times = self._rng.randint(1, 3) if fate in (Fate.NO_ROOM, Fate.FAILS) else 1
        self._world.fates[shard] += [fate] * times
        owner = self._world.owners[shard]
        if fate is Fate.FAILS and owner is not None and not owner.dead:
            await self._transactions()  # or there might be nothing behind what fails
            await owner.poll_past(shard, self._rng)

    async def _replay(self) -> None:
        shard = self._rng.randrange(self._source.partitions)
        owner = self._world.owners[shard]
        if owner is None or owner.dead:
            return
        if self._rng.random() < 0.5:
            await self._transactions()  # or there might be nothing to poll
        async with owner.poll_across(shard, self._rng):
            await self._world.replay(shard)

    async def _acknowledge(self) -> None:
        for shard in range(self._source.partitions):
            await self._world.acknowledge(shard)

    # The source.

    async def _transactions(self) -> None:
        begin = len(self._source.log)
        self._source.transactions(self._rng.choice((1, 1, 1, 2, 3)))
        self._poison(begin)
        self._heard()

    async def _beat(self) -> None:
        self._source.beat()
        self._heard()

    async def _truncate(self) -> None:
        self._source.truncate(self._rng.choice(list(UNCHANGING)))
        self._heard()

    async def _alter(self) -> None:
        """DDL, mostly told by a beat before anything else happens."""
        self._source.alter()
        self._unmended = True
        if self._rng.random() < 0.7:
            await self._beat()

    async def _whole_snapshot(self, *, spoil: bool = True) -> None:
        begin = len(self._source.log)
        if spoil and self._rng.random() < 0.2:
            self._source.snapshot(lose=0.5, cut=self._rng.random())
            self._poison(begin)
            self._unmended = True
            self._heard()
            begin = len(self._source.log)
        self._source.snapshot(lose=0.5)
        self._untellable |= self._placeless
        self._placeless = set()
        self._unmended = False
        if spoil:
            self._poison(begin)
        self._heard(whole=True)

    async def _partial_snapshot(self) -> None:
        begin = len(self._source.log)
        self._source.incremental(ahead=self._rng.random() < 0.3)
        self._poison(begin)
        self._heard()

    async def _redelivery(self) -> None:
        count = self._rng.choice((1, 5, 30, 200, len(self._source.log)))
        again = self._source.redeliverable(count, after=self._forgotten)
        # Intact, those would pass for new: the one redelivery that no shard can tell (DECISIONS).
        again = [sent for sent in again if id(sent) not in self._untellable]
        while self._rng.random() < 0.6:  # it is killed at that, and restarts once more
            self._source.log += again[: self._rng.randint(0, len(again))]
            self._heard()
            for _ in range(self._rng.randint(1, 5)):
                await self._world.turn()
        self._source.log += again
        self._heard()

    async def _long_wait(self) -> None:
        self._source.wait(DAYS)
        self._forgotten = len(self._source.log)

    def _poison(self, begin: int) -> None:
        """Some of what was sent since `begin` cannot be understood."""
        for at in range(begin, len(self._source.log)):
            sent = self._source.log[at]
            if sent.value is not None and self._rng.random() < self._poisonous:
                value = _spoilt(sent.value, self._rng)
                if value is not None:
                    self._poisoned[at] = sent._replace(value=value)
                    if _has_no_place(value):
                        self._placeless.add(id(sent))
                    self._unmended = self._unmended or PLACEHOLDER.encode() in value


def _has_no_place(value: bytes) -> bool:
    item = DECODER.decode(Record(0, 0, None, value))
    return isinstance(item, Poison) and item.origin is None


def _spoilt(value: bytes, rng: random.Random) -> bytes | None:
    """A value of which nothing, little or all but one column can be understood; None: leave this one."""
    event = json.loads(value)
    if event["source"]["table"] == "kycache_heartbeat" or event["op"] == "t":
        return None
    kind = rng.choice(("text", "operation", "image", "column", "column", "placeholder", "placeholder"))
    if kind == "text":
        return b"\xff not JSON"
    if kind == "operation":
        event["op"] = "z"
    elif kind == "image":
        event["before"] = event["after"] = None
    elif event["after"] is None:
        return None
    elif kind == "column":
        event["after"] |= {"created_at": "x"} if event["source"]["table"] == "users" else {"status": 17}
    else:
        event["before"] = rng.choice((None, event["before"]))
        event["after"] |= {UNCHANGING[event["source"]["table"]]: PLACEHOLDER}
    return json.dumps(event).encode()


def run(seed: int) -> None:
    """Live through the history of a seed.

    Raises:
        Failed: a promise was broken.
    """
    rng = random.Random(seed)
    source = FakeSource(random.Random(f"source {seed}"), rng.choice(PARTITIONS))

    async def main(world: World) -> None:
        with trio.fail_after(1e6):
            async with trio.open_nursery() as nursery:
                await History(world, rng, nursery).run()
                nursery.cancel_scope.cancel()

    with (
        tempfile.TemporaryDirectory(prefix="kycache-simulation-", dir=scratch()) as folder,
        structlog.testing.capture_logs(),
        in_place_of_threads(rng),
        small_limits(rng),
    ):
        world = World(Path(folder), source, rng, rng.choice(MAP_BYTES))
        with patch.object(opening, "describe_topic", world.topic):
            try:
                run_seeded(seed, lambda: main(world))
            except BaseExceptionGroup as group:
                broken, _ = group.split(Violation)
                first = _first(broken or group)
                what = str(first) if broken else repr(first)
                raise Failed(f"seed {seed}: {what} (again: make simulate SEEDS={seed})") from group


def _first(group: BaseException) -> BaseException:
    return _first(group.exceptions[0]) if isinstance(group, BaseExceptionGroup) else group
