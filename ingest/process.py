"""The life of an ingest process: what it finds, what it starts, and in which order that ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
import trio

from kycache.actors.files.directory import DataDirectory, Node, slot
from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.integrity.vouching import Checker
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import describe_topic
from kycache.ingest.remedies.control import serve_control
from kycache.ingest.remedies.protocol import socket_of
from kycache.ingest.remedies.work import carry_out
from kycache.model.errors import KycacheError, Unreachable
from kycache.model.view import View

from .service import Ingest, WarmStart

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
        try:
            topic = await trio.to_thread.run_sync(describe_topic, settings)
        except Unreachable as error:
            log.warning("starting without the broker; reads go on", problem=error.problem)
            return node
    else:
        topic = await trio.to_thread.run_sync(describe_topic, settings)
    return directory.found(view.hash, topic.name, topic.id, topic.partitions)


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
async def _thread(ingest: Ingest, nursery: trio.Nursery) -> AsyncIterator[None]:
    """The consumer thread runs inside; it has ended when this is left."""
    ended = trio.Event()

    async def body() -> None:
        with trio.CancelScope(shield=True):
            try:
                await trio.to_thread.run_sync(ingest.thread.run)
            finally:
                ended.set()

    nursery.start_soon(body)
    try:
        yield
    finally:
        ingest.thread.stop()
        with trio.CancelScope(shield=True):
            await ended.wait()


async def run_ingest(
    settings: KafkaSettings,
    directory: DataDirectory,
    environments: Environments,
    view: View,
    warm_start: WarmStart | None = None,
    source: str | None = None,
    *,
    task_status: "trio.TaskStatus[Ingest]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Ingest until cancelled: batches in hand are committed, the shards closed.

    Raises:
        Unreachable: nothing is stored here yet, and the broker does not answer or has no such topic.
        Refused: the directory belongs to another view, topic or partition count.
    """
    directory.prepare()
    checker = Checker(view)
    known = directory.node()
    with slot(directory.run) as number:
        # Shards outlive the consumer thread, so that what it delivered last is applied or fenced off.
        async with trio.open_nursery() as nursery, trio.open_nursery() as shards:
            if known is not None:
                nursery.start_soon(_walk_ahead, directory, checker, known.shards)
            node = await found_node(settings, directory, view)
            instance_id = f"kycache-{node.id}-{number}"
            about = (settings, directory, environments, view, checker, node, shards, instance_id)
            ingest = Ingest(*about, warm_start)
            async with _thread(ingest, nursery):
                nursery.start_soon(ingest.watch)
                nursery.start_soon(ingest.hint_positions)
                if source is not None:
                    nursery.start_soon(ingest.watch_source, source)
                nursery.start_soon(ingest.free_readers)
                work = partial(carry_out, settings=settings, home=Home(directory, environments, view))
                nursery.start_soon(serve_control, ingest, work, socket_of(directory.run, number))
                task_status.started(ingest)
                await trio.sleep_forever()
