"""Whether topic, data directory and source are still those that ingest began with, for as long as it runs."""

from functools import partial

import structlog
import trio

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.rules.standing import SOURCE_REMEDY
from kycache.ingest.consuming.holders import Holders
from kycache.ingest.consuming.refusals import another_topic, check_partitions
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import describe_topic
from kycache.model.errors import HaltShard, KycacheError, Refused, Unreachable

from .history import compare, until_next_look
from .opening import Opening

LOOK_S = 10.0
"""How often the topic's id and partition count, and the data directory's, are compared with the stores'."""

log = structlog.get_logger()


class Watch:
    """Compares topic and data directory with what ingest began with, every `LOOK_S` and when there is a reason."""

    def __init__(
        self, settings: KafkaSettings, directory: DataDirectory, node: Node, opening: Opening, holders: Holders
    ) -> None:
        self._settings = settings
        self._directory = directory
        self._node = node
        self._opening = opening
        self._holders = holders
        self._answers = True

    async def run(self) -> None:
        """Look until cancelled.

        Raises:
            Refused: the partition count changed, or the directory is not there any more, or another.
        """
        while True:
            with trio.move_on_after(LOOK_S):
                await self._holders.wait_topic_doubted()
            self._look_at_directory()
            await self._look_at_topic()

    def _look_at_directory(self) -> None:
        node = self._directory.node()
        if node is None or node.id != self._node.id:
            raise Refused(
                f"data directory {self._directory.root} was removed or replaced while ingest ran",
                "put it back if it is lost by mistake, then start ingest again",
            )

    async def _look_at_topic(self) -> None:
        try:
            topic = await trio.to_thread.run_sync(describe_topic, self._settings)
        except Unreachable as error:
            if self._answers:
                log.warning("Kafka does not answer; reads go on, retrying", problem=error.problem)
            self._answers = False
            return
        if not self._answers:
            log.info("Kafka answers again", bootstrap=self._settings.bootstrap)
        self._answers = True
        check_partitions(topic, self._node)
        for shard, holder in self._holders.by_shard.items():
            if self._opening.topic_ids.get(shard, topic.id) != topic.id:
                found = another_topic(topic, shard)
                if holder.halted is None or holder.halted.problem != found.problem:
                    holder.halt(found)


async def watch_source(dsn: str, directory: DataDirectory, node: Node, holders: Holders) -> None:
    """Halt every shard when the source is another than what was read, for as long as ingest runs.

    Args:
        node: the data directory as it was when ingest began.
    """
    answers = True
    while True:
        epoch = (directory.node() or node).epoch
        states = [actor.state for _, actor in holders.actors()]
        read = max((state.watermark for state in states if state.epoch == epoch), default=0)
        look = partial(compare, dsn, directory, epoch, read)
        try:
            reason = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
        except (KycacheError, OSError) as error:  # of a full disk, perhaps: then nothing new is claimed either
            if answers:
                problem = error.problem if isinstance(error, KycacheError) else error.strerror
                log.warning("the source cannot be looked at, retrying", problem=problem)
            answers = False
        else:
            answers = True
            for shard, holder in holders.by_shard.items() if reason else ():
                if holder.halted is None:
                    holder.halt(HaltShard(f"shard {shard}: {reason}", SOURCE_REMEDY))
        await until_next_look(dsn, LOOK_S)
