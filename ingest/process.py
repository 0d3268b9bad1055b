"""The life of an ingest process: what it finds, what it starts, and in which order that ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial

import structlog
import trio

from kycache.actors.files.directory import DataDirectory, Node, slot
from kycache.actors.files.home import Home
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.integrity.vouching import Checker
from kycache.actors.store.turn import Turn
from kycache.ingest.consuming.holders import Holders
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.thread import ConsumerThread
from kycache.ingest.consuming.topic import describe_topic
from kycache.ingest.remedies.control import serve_control
from kycache.ingest.remedies.protocol import socket_of
from kycache.ingest.remedies.work import carry_out
from kycache.model.errors import KycacheError, Unreachable
from kycache.model.view import View

from .opening import Opening, WarmStart
from .upkeep import hint_positions, look_after_files
from .watching import Watch, watch_source

log = structlog.get_logger()


async def found_node(settings: KafkaSettings, directory: DataDirectory, view: View) -> Node:
    """The data directory's identity; a first start asks the broker what to make of it.

    Raises:
        Unreachable: first start, and the broker does not answer or has no such topic.
        Refused: the directory belongs to another view, topic or partition count.
    """
    node = directory.node()
    if node is not None:
        directory.check_view(node, view.hash)
        directory.check_times(node, settings.times)
        try:
            topic = await trio.to_thread.run_sync(describe_topic, settings)
        except Unreachable as error:
            log.warning("starting without the broker; reads go on", problem=error.problem)
            return node
    else:
        topic = await trio.to_thread.run_sync(describe_topic, settings)
    return directory.found(view.hash, topic.name, topic.id, topic.partitions, settings.times)


async def _walk_ahead(directory: DataDirectory, checker: Checker, shards: int) -> None:
    """Walk what an unclean stop left while the broker is still being asked and the group joined."""
    async with trio.open_nursery() as nursery:
        for number in range(shards):
            nursery.start_soon(_walk_one_ahead, directory.shard(number), checker)


async def _walk_one_ahead(folder: ShardFolder, checker: Checker) -> None:
    generation = folder.current()
    if generation is None or folder.holder() is not None:
        return
    with suppress(KycacheError, OSError):  # opening the shard says it, where it can be acted upon
        if await trio.to_thread.run_sync(
            checker.ensure, generation, folder.number, trio.from_thread.check_cancelled
        ):
            log.info("walked a shard's file after an unclean stop", shard=folder.number)


@asynccontextmanager
async def _running(thread: ConsumerThread, nursery: trio.Nursery) -> AsyncIterator[None]:
    """The consumer thread runs inside; it has ended when this is left."""
    ended = trio.Event()

    async def body() -> None:
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(thread.run)
            finally:
                ended.set()

    nursery.start_soon(body)
    try:
        yield
    finally:
        thread.stop()
        with trio.CancelScope(shield=True):
            await ended.wait()


async def run_ingest(
    settings: KafkaSettings,
    home: Home,
    warm_start: WarmStart | None = None,
    source: str | None = None,
    *,
    task_status: "trio.TaskStatus[Holders]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Ingest until cancelled: batches in hand are committed, the shards closed.

    Args:
        source: the source's connection string; None: the source is not looked at.

    Raises:
        Unreachable: nothing is stored here yet, and the broker does not answer or has no such topic.
        Refused: the directory belongs to another view, topic or partition count.
    """
    directory = home.directory
    directory.prepare()
    checker = Checker(home.view)
    known = directory.node()
    with slot(directory.run) as number:
        # Shards outlive the consumer thread, so that what it delivered last is applied or fenced off.
        async with trio.open_nursery() as nursery, trio.open_nursery() as shards:
            if known is not None:
                nursery.start_soon(_walk_ahead, directory, checker, known.shards)
            node = await found_node(settings, directory, home.view)
            reading = replace(settings, times=node.times)
            turn = Turn()
            opening = Opening(reading, home, node, checker, turn, warm_start)
            holders = Holders(opening.hold, shards, node.shards)
            instance_id = f"kycache-{node.id}-{number}"
            thread = ConsumerThread(reading, home.view, instance_id, directory.place(), holders, turn)
            async with _running(thread, nursery):
                nursery.start_soon(Watch(settings, directory, node, opening, holders).run)
                nursery.start_soon(hint_positions, holders, thread)
                if source is not None:
                    nursery.start_soon(watch_source, source, directory, node, holders)
                nursery.start_soon(look_after_files, holders)
                work = partial(carry_out, settings=settings, home=home)
                nursery.start_soon(serve_control, holders, work, socket_of(directory.run, number))
                task_status.started(holders)
                await trio.sleep_forever()
