"""Opening a shard's store for an assignment: a file for it where there is none, checked, and fit for its topic."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import trio

from kycache.actors.files.directory import Node
from kycache.actors.files.environment import DamagedFile
from kycache.actors.files.home import Home
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.generations.takeover import take_over_when_due
from kycache.actors.integrity.vouching import Checker
from kycache.actors.partition import Partition
from kycache.actors.rules.reports import SUSPECT
from kycache.actors.rules.state import Identity
from kycache.actors.shard import Opened
from kycache.actors.store.store import FORMAT, Store
from kycache.actors.store.turn import Turn
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.consuming.refusals import another_topic, another_unit, check_partitions, log_cut
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.topic import describe_topic
from kycache.ingest.remedies.bring import bring
from kycache.ingest.remedies.rebuild import start_over

WarmStart = Callable[[int], Awaitable[str | None]]
"""Where a shard without a file comes from: the name of a whole generation to bring into use, None: the log.

Asked with the shard's lock held. Raises `KycacheError` where the log alone will not do."""


class Opening:
    """Opens the shards of one data directory; the caller holds the shard's lock."""

    def __init__(
        self,
        settings: KafkaSettings,
        home: Home,
        node: Node,
        checker: Checker,
        turn: Turn,
        warm_start: WarmStart | None = None,
    ) -> None:
        """Args:
        node: the data directory as it was when ingest began.
        turn: shared with whatever else of this process computes.
        """
        self.topic_ids: dict[int, str] = {}
        """Per shard, the id of the topic that its store was read from. Not there until it is opened."""
        self._settings = settings
        self._home = home
        self._node = node
        self._checker = checker
        self._turn = turn
        self._warm_start = warm_start

    def hold(self, partition: Partition) -> ShardHolder:
        """A holder of the partition's shard, for one assignment."""
        self.topic_ids.pop(partition.number, None)  # another process may have held it since
        folder = self._home.directory.shard(partition.number)
        return ShardHolder(folder, partial(self.open, partition.number), partition)

    async def open(self, shard: int) -> Opened:
        """Open a shard's store; where it has no file, make one first.

        Raises:
            Unreachable: the broker does not answer.
            HaltShard, KycacheError: it must not be opened; what and which next stand in it.
        """
        self.topic_ids.pop(shard, None)  # a remedy may have started it over
        await self._fill(shard)
        return await trio.to_thread.run_sync(self._open, shard)

    async def _fill(self, shard: int) -> None:
        """Give a shard without a file one from elsewhere than the log, where there is one."""
        folder = self._home.directory.shard(shard)
        if self._warm_start is None or folder.current() is not None or folder.building() is not None:
            return
        await trio.to_thread.run_sync(folder.clean)  # what a killed one left must not be in the way of the next
        name = await self._warm_start(shard)
        if name is not None:
            await trio.to_thread.run_sync(partial(bring, self._home, shard, name, replace=True))

    def _open(self, shard: int) -> Opened:
        """Open the store and check that the topic still fits it. Blocking."""
        directory, environments, view = self._home.directory, self._home.environments, self._home.view
        topic = describe_topic(self._settings)
        check_partitions(topic, self._node)
        folder = directory.shard(shard)
        folder.prepare()
        if folder.current() is None:
            start_over(self._home, directory.node() or self._node, topic, shard)
        self._look_at_files(folder)
        until = take_over_when_due(environments, folder)
        folder.clean()
        generation = folder.current() if until is None else folder.building()
        assert generation is not None
        store = Store(
            environments,
            generation,
            view,
            Identity(FORMAT, shard, self._node.shards, view.hash),
            directory.add_doubts,
            halt_on_poison=self._settings.halt_on_poison,
            turn=self._turn,
        )
        position = store.opened_at.position
        try:
            # Also after a kill between a batch, or a command, and its mark.
            if until is None and not store.opened_at.doubts:
                directory.clear_doubt(SUSPECT, shard)
            self.topic_ids[shard] = position.topic_id
            if self._settings.times not in (None, store.times):
                raise another_unit(shard, store.times)
            if position.topic_id != topic.id:
                raise another_topic(topic, shard)
            if position.offset < topic.starts[shard]:
                raise log_cut(shard, position.offset)
        except BaseException:
            store.close()
            raise
        return Opened(store, topic.id, position.offset, until)

    def _look_at_files(self, folder: ShardFolder) -> None:
        """See to it that a shard's generations may be mapped, after an unclean stop too.

        Raises:
            DamagedFile: the one that is to be written must not. The other one just serves no more.
        """
        written = folder.building() or folder.current()
        assert written is not None
        self._checker.ensure(written, folder.number, trio.from_thread.check_cancelled)
        served = folder.current()
        if served is not None and served != written:
            with suppress(DamagedFile):
                self._checker.ensure(served, folder.number, trio.from_thread.check_cancelled)
