"""What goes into quarantine is in ingest's log, and what leaves it: where it stood and why, and no value of it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import structlog
import trio

from kycache.actors.files.home import Home
from kycache.actors.shard import POISONS_LOGGED_MAX, Opened, ShardActor
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.remedies.control import answer
from kycache.ingest.remedies.protocol import Drop, Replay
from kycache.ingest.remedies.work import carry_out
from kycache.model.change import Item, Poison, Scope
from kycache.model.definition import default_view
from support.shards import TOPIC, TOPIC_ID, Orders, ShardUnderTest
from support.waiting import until

VIEW = default_view()
WAIT_S = 20.0
COUNT = POISONS_LOGGED_MAX + 5


class Holding:
    """A process that holds every shard, with no actor to stop."""

    def holds(self, shard: int) -> bool:
        return shard == 0

    async def carry_out(self, shard: int, work: Callable[[], None]) -> None:
        assert shard == 0
        await trio.to_thread.run_sync(work)


async def test_quarantined_and_released(tmp_path: Path) -> None:
    shard = ShardUnderTest(tmp_path / "data", VIEW)
    poisons: list[Item] = [
        Poison(n, 1_700_000_000_000, None, b'{"first_name": "Lovelace"', "not JSON", Scope.SHARD, None, None)
        for n in range(COUNT)
    ]
    orders = Orders()
    run = orders.partition.read_from(0, -1)
    actor = ShardActor(Opened(shard.store, TOPIC_ID, 0), shard.fence, orders.partition, run)
    with structlog.testing.capture_logs() as lines, trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(actor.run)
            actor.offer(orders.batch(poisons, 0, COUNT))
            await until(lambda: actor.state.quarantined >= COUNT)
            nursery.cancel_scope.cancel()
    where = {"shard": 0, "topic": TOPIC, "partition": 0, "log_level": "warning"}
    *each, more = lines
    assert each == [
        {**where, "event": "a record was quarantined", "offset": n, "reason": "not JSON"}
        for n in range(POISONS_LOGGED_MAX)
    ]
    assert (more["event"], more["count"]) == ("more records were quarantined", 5)
    shard.store.close()
    home = Home(shard.directory, shard.environments, VIEW)
    work = partial(carry_out, settings=KafkaSettings("nowhere:1"), home=home)
    with structlog.testing.capture_logs() as lines:
        await answer(Holding(), work, Replay(0, (3,)))
        await answer(Holding(), work, Drop(0, (3,)))
    assert [(line["event"], line["offset"], line["outcome"].partition(":")[0]) for line in lines] == [
        ("a record stays in quarantine", 3, "kept"),
        ("a record left quarantine", 3, "dropped"),
    ]
    assert "Lovelace" not in str(lines)
    shard.store = shard._open()
    shard.close()
