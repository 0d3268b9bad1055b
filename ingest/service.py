"""What an ingest process does: the consumer thread on one side, a holder per assigned shard on the other."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

import structlog
import trio

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.environment import DamagedFile, Environments
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.generations.takeover import take_over_when_due
from kycache.actors.integrity.vouching import Checker
from kycache.actors.rules.standing import SOURCE_REMEDY
from kycache.actors.rules.state import Identity
from kycache.actors.shard import Batch, Opened
from kycache.actors.store.store import FORMAT, Store
from kycache.actors.store.turn import Turn
from kycache.actors.supervisor import ShardHolder
from kycache.ingest.consuming.refusals import another_topic, check_partitions, log_cut
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.consuming.thread import HINT_INTERVAL_S, ConsumerThread
from kycache.ingest.consuming.topic import describe_topic
from kycache.ingest.remedies.bring import bring
from kycache.ingest.remedies.rebuild import start_over
from kycache.model.errors import HaltShard, KycacheError, Refused, Unreachable
from kycache.model.view import View

from .history import compare, until_next_look

REVOKE_WAIT_S = 5.0
"""How long a rebalance waits for a shard's batch in hand: half the session, so the member is not thrown out."""

LOOK_S = 10.0
"""How often the topic's id and partition count, and the data directory's, are compared with the stores'."""

READERS_LOOK_S = 10.0
"""How often slots of killed readers are freed; a shard grows by what it changes meanwhile."""

REMEDY_WAIT_S = 60.0
"""How long a command waits for its turn at a shard; it is then withdrawn, so that it never comes as a surprise."""

WarmStart = Callable[[int], Awaitable[str | None]]
"""Where a shard without a file comes from: the name of a whole generation to bring into use, None: the log.

Asked with the shard's lock held. Raises `KycacheError` where the log alone will not do."""

log = structlog.get_logger()
_T = TypeVar("_T")


class Ingest:
    """The shards this process holds, and what the consumer thread tells them (`consumer.Sink`)."""

    def __init__(
        self,
        settings: KafkaSettings,
        directory: DataDirectory,
        environments: Environments,
        view: View,
        checker: Checker,
        node: Node,
        nursery: trio.Nursery,
        instance_id: str,
        warm_start: WarmStart | None = None,
    ) -> None:
        self.holders: dict[int, ShardHolder] = {}
        self._settings = settings
        self._directory = directory
        self._environments = environments
        self._view = view
        self._checker = checker
        self._node = node
        self._nursery = nursery
        self._warm_start = warm_start
        self._answers = True
        self._topic_ids: dict[int, str] = {}  # of the topic that each shard was read from, as it was opened here
        self._token = trio.lowlevel.current_trio_token()
        self._turn = Turn()
        self.thread = ConsumerThread(settings, view, instance_id, directory.place(), self, self._turn)

    # What the consumer thread calls.

    def assigned(self, partition: int) -> None:
        self._on_trio(self._assigned, partition)

    def revoked(self, partitions: list[int]) -> None:
        trio.from_thread.run(self._revoked, partitions, trio_token=self._token)

    def deliver(self, partition: int, batch: Batch) -> bool:
        return self._on_trio(self._deliver, partition, batch)

    def halt(self, partition: int, error: HaltShard) -> None:
        self._on_trio(self._halt, partition, error)

    def _on_trio(self, run: Callable[..., _T], *args: object) -> _T:
        return trio.from_thread.run_sync(run, *args, trio_token=self._token)

    # The same, on the trio thread.

    def _assigned(self, partition: int) -> None:
        if partition >= self._node.shards:
            self._nursery.start_soon(self._look_at_topic)  # partitions were added: this ends the process
            return
        self._topic_ids.pop(partition, None)
        holder = ShardHolder(
            self._directory.shard(partition),
            partial(self._open, partition),
            partial(self.thread.read_from, partition),
            partial(self.thread.pause, partition),
            partial(self.thread.resume, partition),
            partial(self._fill, partition),
        )
        self.holders[partition] = holder
        self._nursery.start_soon(holder.run)
        log.info("shard assigned", shard=partition)

    async def _revoked(self, partitions: list[int]) -> None:
        with trio.move_on_after(REVOKE_WAIT_S):
            async with trio.open_nursery() as nursery:
                for partition in partitions:
                    holder = self.holders.pop(partition, None)
                    if holder is not None:
                        nursery.start_soon(holder.release)
                        log.info("shard revoked", shard=partition)

    def _deliver(self, partition: int, batch: Batch) -> bool:
        holder = self.holders.get(partition)
        # Not even one that begins where the shard stands: it would be delivered again behind itself, and dropped.
        if holder is None or self.thread.polled_before_order(partition):
            return False
        return holder.offer(batch)

    def _halt(self, partition: int, error: HaltShard) -> None:
        holder = self.holders.get(partition)
        if holder is not None:
            holder.halt(error)
            self._nursery.start_soon(self._look_at_topic)  # one that was made anew looks like a log that was cut

    async def _fill(self, shard: int) -> None:
        """Give a shard without a file one from elsewhere than the log, where there is one."""
        folder = self._directory.shard(shard)
        if self._warm_start is None or folder.current() is not None or folder.building() is not None:
            return
        await trio.to_thread.run_sync(folder.clean)  # what a killed one left must not be in the way of the next
        name = await self._warm_start(shard)
        if name is not None:
            about = (self._directory, self._environments, shard, name, True)
            await trio.to_thread.run_sync(bring, *about)

    def _open(self, shard: int) -> Opened:
        """Open a shard's store and check that the topic still fits it. Runs in a worker thread."""
        topic = describe_topic(self._settings)
        check_partitions(topic, self._node)
        folder = self._directory.shard(shard)
        folder.prepare()
        if folder.current() is None:
            node = self._directory.node() or self._node
            start_over(self._directory, self._environments, self._view, node, topic, shard)
        self._look_at_files(folder)
        until = take_over_when_due(self._environments, folder)
        folder.clean()
        generation = folder.current() if until is None else folder.building()
        assert generation is not None
        identity = Identity(FORMAT, shard, self._node.shards, self._view.hash)
        store = Store(
            self._environments,
            generation,
            self._view,
            identity,
            self._directory.add_doubts,
            halt_on_poison=self._settings.halt_on_poison,
            turn=self._turn,
        )
        position = store.opened_at.position
        try:
            # Also after a kill between a batch, or a command, and its mark.
            if until is None and not store.opened_at.doubts:
                self._directory.clear_doubt("suspect", shard)
            self._topic_ids[shard] = position.topic_id
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

    async def watch(self) -> None:
        """Compare topic and data directory with what ingest began with, for as long as it runs.

        Raises:
            Refused: the partition count changed, or the directory is not there any more, or another.
        """
        while True:
            await trio.sleep(LOOK_S)
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
        for shard, holder in self.holders.items():
            if self._topic_ids.get(shard, topic.id) != topic.id:
                found = another_topic(topic, shard)
                if holder.halted is None or holder.halted.problem != found.problem:
                    holder.halt(found)

    async def watch_source(self, dsn: str) -> None:
        """Halt every shard when the source is another than what was read, for as long as ingest runs."""
        answers = True
        while True:
            epoch = (self._directory.node() or self._node).epoch
            states = [holder.actor.state for holder in self.holders.values() if holder.actor is not None]
            read = max((state.watermark for state in states if state.epoch == epoch), default=0)
            look = partial(compare, dsn, self._directory, epoch, read)
            try:
                reason = await trio.to_thread.run_sync(look, abandon_on_cancel=True)
            except (KycacheError, OSError) as error:  # of a full disk, perhaps: then nothing new is claimed either
                if answers:
                    problem = error.problem if isinstance(error, KycacheError) else error.strerror
                    log.warning("the source cannot be looked at, retrying", problem=problem)
                answers = False
            else:
                answers = True
                for shard, holder in self.holders.items() if reason else ():
                    if holder.halted is None:
                        holder.halt(HaltShard(f"shard {shard}: {reason}", SOURCE_REMEDY))
            await until_next_look(dsn, LOOK_S)

    async def hint_positions(self) -> None:
        """Tell the group how far the stores are, for lag tools."""
        while True:
            await trio.sleep(HINT_INTERVAL_S)
            offsets = {
                shard: holder.actor.state.position.offset
                for shard, holder in self.holders.items()
                if holder.actor is not None
            }
            self.thread.hint(offsets)

    async def free_readers(self) -> None:
        """Free the slots of readers killed in mid-read, which keep LMDB from reusing pages (FAULTS 2)."""
        while True:
            await trio.sleep(READERS_LOOK_S)
            for holder in list(self.holders.values()):
                holder.look_at_lock()
                if holder.actor is not None:
                    holder.actor.store.free_readers()

    def holds_what_is_worth_keeping(self) -> bool:
        """A shard is held that is bootstrapped: a snapshot of this directory is worth being taken."""
        actors = (holder.actor for holder in self.holders.values())
        return any(actor is not None and actor.state.bootstrapped for actor in actors)

    def holds(self, shard: int) -> bool:
        """The shard is held by this process."""
        return shard in self.holders

    async def carry_out(self, shard: int, work: Callable[[], None]) -> None:
        """Run `work` on a shard's files in a worker thread, with its actor stopped meanwhile.

        Raises:
            KycacheError: the shard is not held here, or what `work` raised.
        """
        holder = self.holders.get(shard)
        if holder is None:
            raise Refused(f"shard {shard} is not held by this process", "ask the process that holds it")

        def run() -> None:
            work()
            self._topic_ids.pop(shard, None)  # it is opened anew

        await holder.remedy(run, REMEDY_WAIT_S)
