"""The consumer thread: the one place that speaks to Kafka while ingest runs.

kafka-python blocks, so it has a thread of its own. Everything it learns it hands to the `Holders` on the trio
side, with one call for what a poll brought of a partition. Orders to it are data in a queue, which it empties
between polls. The position to read from is always the store's: a freshly assigned partition is parked (paused, at
a made-up position) until its shard is open and orders a run. Each batch carries the number of the run that it was
polled for. Offsets committed to the group are a hint for lag tools and never read.
"""

import queue
import time
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, NamedTuple, TypeVar

import structlog
import trio
from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import (
    CorruptRecordError,
    FencedInstanceIdError,
    KafkaError,
    LogTruncationError,
    OffsetOutOfRangeError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata

from kycache.actors.partition import Order, Partition, Pause, ReadFrom, Resume
from kycache.actors.shard import Batch
from kycache.actors.store.turn import Turn
from kycache.ingest.decoding.decode import RecordDecoder
from kycache.model.errors import HaltShard, Refused
from kycache.model.partition import KeyForm
from kycache.model.scalars.times import TimePrecision
from kycache.model.view import View

from .client import SESSION_TIMEOUT_MS, go_on, joining, open_consumer, seek
from .holders import Holders
from .refusals import log_cut
from .settings import KafkaSettings
from .topic import foreign_members

POLL_WAIT_MS = 50
"""How long an order to the thread may wait; a poll returns at once when there are records."""

JOIN_WAIT_MS = 1_000
"""The same while the group is being joined, when there is nothing to order but to stop.

kafka-python 3.0 throws away a join that is done while nobody polls, and joins again (seen, on busy cores)."""

RETRY_WAIT_S = 1.0
"""Between tries while the broker is away."""

HINT_INTERVAL_S = 5.0
"""How often the positions are told to the group, for lag tools."""


log = structlog.get_logger()
_T = TypeVar("_T")


class Hint(NamedTuple):
    """Order: tell the group how far the stores are."""

    offsets: dict[int, int]
    """Per partition, of the next change to read."""


class _Session(NamedTuple):
    consumer: KafkaConsumer
    runs: dict[int, int]
    """Per partition, the number of the run that is delivered. A partition that is not in it is parked."""


class ConsumerThread:
    """Reads the topic as a member of the group. `run` is the thread; the other methods are the trio side's."""

    def __init__(
        self,
        settings: KafkaSettings,
        view: View,
        instance_id: str,
        place: str,
        holders: Holders,
        turn: Turn,
    ) -> None:
        self._settings = settings
        times = settings.times or TimePrecision.MICROSECONDS
        self._decoder = RecordDecoder(view, KeyForm(settings.key_form), settings.heartbeat_table, times)
        self._instance_id = instance_id
        self._place = place
        self._holders = holders
        self._turn = turn
        self._orders: queue.SimpleQueue[Order | Hint] = queue.SimpleQueue()
        self._runs = count(1)
        """The numbers of runs to come: one counter for all partitions, holders and sessions."""
        self._stopping = False
        self._well: bool | None = None

    def stop(self) -> None:
        """End the thread; the group keeps this member's place for the session's time."""
        self._stopping = True

    def hint(self, offsets: dict[int, int]) -> None:
        """Order: tell the group how far the stores are."""
        self._orders.put(Hint(offsets))

    def run(self) -> None:
        """The thread's body: until `stop`. Reconnects for ever while the broker is away.

        Raises:
            Refused: another process is the same member of the group.
        """
        while not self._stopping:
            try:
                consumer = self._connect()
            except (KafkaError, OSError) as error:
                self._say(well=False, error=error)
                time.sleep(RETRY_WAIT_S)
                continue
            try:
                self._session(_Session(consumer, {}))
            finally:
                # Without its listener: the trio side is closing the shards by itself.
                consumer.close(autocommit=False, timeout_ms=1000)

    def _refuse_foreign_members(self) -> None:
        """Members of another data directory would take partitions whose shards are then nowhere to be read here.

        One of a copy of this directory too, or one of them would fence the other off.

        Raises:
            KafkaError, OSError: the group cannot be asked; then it is not joined either.
            Refused: there is one, and it outlived the time after which a dead one is gone.
        """
        deadline = time.monotonic() + SESSION_TIMEOUT_MS / 1000 + RETRY_WAIT_S
        ours = self._instance_id.rpartition("-")[0]
        while others := foreign_members(self._settings, ours, self._place):
            if self._stopping:
                return
            if time.monotonic() > deadline:
                raise Refused(
                    f"group {self._settings.group!r} has members of another data directory, or of a copy of this "
                    f"one: {', '.join(others)}",
                    "give this node a `[kafka] group` of its own, or let it share their data directory",
                )
            time.sleep(RETRY_WAIT_S)

    def _connect(self) -> KafkaConsumer:
        self._refuse_foreign_members()
        return open_consumer(self._settings, self._instance_id, self._place)

    def _session(self, session: _Session) -> None:
        session.consumer.subscribe([self._settings.topic], listener=_Listener(self, session))
        alive = time.monotonic()
        while not self._stopping:
            stood_still_s, alive = time.monotonic() - alive, time.monotonic()
            if stood_still_s > SESSION_TIMEOUT_MS / 1000:
                # The broker has given its partitions away, and the client does not always notice (seen).
                log.warning(
                    "stood still for longer than the session, joining the group anew", seconds=stood_still_s
                )
                self.revoked([tp.partition for tp in session.consumer.assignment()])
                return
            self._obey(session)
            try:
                polled = session.consumer.poll(
                    timeout_ms=JOIN_WAIT_MS if joining(session.consumer) else POLL_WAIT_MS
                )
            except OffsetOutOfRangeError as error:
                self._cut(session, error.args[0])
            except LogTruncationError as error:
                self._truncated(session, error.divergent_offsets)
            except CorruptRecordError as error:
                self._corrupt(session, error)
            except UnsupportedCodecError as error:
                self._unreadable(session, error)
            except FencedInstanceIdError:
                raise Refused(
                    f"another process is member {self._instance_id!r} of group {self._settings.group!r}",
                    "stop it, or give this node a data directory of its own",
                ) from None
            except (KafkaError, OSError) as error:
                self._say(well=False, error=error)
                time.sleep(RETRY_WAIT_S)
            else:
                self._say(well=True)
                for tp, records in polled.items():
                    self._deliver(session, tp.partition, records)

    def _obey(self, session: _Session) -> None:
        while True:
            try:
                order = self._orders.get_nowait()
            except queue.Empty:
                return
            self._obey_one(session, order)

    def _obey_one(self, session: _Session, order: Order | Hint) -> None:
        ours = session.consumer.assignment()
        match order:
            case ReadFrom(partition, run, offset, leader_epoch):
                tp = self._tp(partition)
                if tp in ours:
                    session.runs[partition] = run
                    seek(session.consumer, tp, offset, leader_epoch)
                    go_on(session.consumer, tp)
            case Pause(partition, run):
                if session.runs.get(partition) == run:
                    del session.runs[partition]
                    self._pause(session, partition)
            case Resume(partition, run):
                tp = self._tp(partition)
                if session.runs.get(partition) == run and tp in ours:
                    go_on(session.consumer, tp)
            case Hint(offsets):
                known = {
                    self._tp(p): OffsetAndMetadata(offset, "", -1)
                    for p, offset in offsets.items()
                    if self._tp(p) in ours
                }
                if known:
                    session.consumer.commit_async(known)

    # What the trio side is asked and hears. The thread goes on when that has taken it.

    def assigned(self, partition: int) -> None:
        """The partition is this member's, and parked until its shard orders a run."""
        self._on_trio(self._holders.assigned, Partition(partition, self._runs, self._orders.put))

    def revoked(self, partitions: list[int]) -> None:
        """They go to another member; returns when their shards are closed, or in bounded time."""
        trio.from_thread.run(self._holders.revoked, partitions, trio_token=self._holders.token)

    def _on_trio(self, run: Callable[..., _T], *args: object) -> _T:
        return trio.from_thread.run_sync(run, *args, trio_token=self._holders.token)

    def _deliver(self, session: _Session, partition: int, records: list[Any]) -> None:
        run = session.runs.get(partition)
        if run is None or not records:
            return
        tp = self._tp(partition)
        decode = self._decoder.decode
        with self._turn.taken():
            items = [decode(record) for record in records]
        last = records[-1]
        epoch = getattr(last, "leader_epoch", None)
        batch = Batch(
            run,
            items,
            sum(len(r.value or b"") for r in records),
            last.offset + 1,
            -1 if epoch is None else epoch,
            session.consumer.highwater(tp) or 0,
        )
        if not self._on_trio(self._holders.offer, partition, batch):
            self._pause(session, partition)

    def _pause(self, session: _Session, partition: int) -> None:
        tp = self._tp(partition)
        if tp in session.consumer.assignment():
            session.consumer.pause(tp)

    def _park(self, session: _Session, partition: int, error: HaltShard) -> None:
        session.runs.pop(partition, None)
        tp = self._tp(partition)
        session.consumer.seek(tp, 0)
        session.consumer.pause(tp)
        self._on_trio(self._holders.halt, partition, error)

    def _cut(self, session: _Session, offsets: dict[TopicPartition, int]) -> None:
        for tp, offset in offsets.items():
            self._park(session, tp.partition, log_cut(tp.partition, offset))

    def _truncated(self, session: _Session, divergent: Iterable[TopicPartition]) -> None:
        for tp in divergent:
            self._park(
                session,
                tp.partition,
                HaltShard(
                    f"shard {tp.partition}: the broker lost records that were read (unclean leader election)",
                    # Debezium was told that the broker has them, and sends them no second time.
                    "run `kycache rebuild --epoch`",
                ),
            )

    def _corrupt(self, session: _Session, error: CorruptRecordError) -> None:
        """A record batch fails its checksum: its partition is the one named in the message."""
        for tp in self._concerned(session, error):
            at = session.consumer.position(tp)
            self._park(
                session,
                tp.partition,
                HaltShard(
                    f"shard {tp.partition}: a record batch at or behind offset {at} is corrupt",
                    "restore the partition from another replica, then run "
                    f"`kycache rebuild --shard {tp.partition}`",
                ),
            )

    def _unreadable(self, session: _Session, error: UnsupportedCodecError) -> None:
        """A batch is compressed in a way that kafka-python needs a library for, and this installation has none."""
        for tp in self._concerned(session, error):
            self._park(
                session,
                tp.partition,
                HaltShard(
                    f"shard {tp.partition}: records are compressed in a way that cannot be read here: {error}",
                    "install all that kycache depends on (lz4, python-snappy, zstandard) and restart ingest, "
                    "or let connector and topic use compression.type gzip or none, then run "
                    f"`kycache rebuild --shard {tp.partition} --epoch`",
                ),
            )

    def _concerned(self, session: _Session, error: KafkaError) -> list[TopicPartition]:
        """The partition that a message names, or all."""
        ours = list(session.consumer.assignment())
        return [tp for tp in ours if str(tp) in str(error)] or ours

    def _say(self, *, well: bool, error: Exception | None = None) -> None:
        if well is self._well:
            return
        self._well = well
        if well:
            log.info("connected to Kafka", bootstrap=self._settings.bootstrap, topic=self._settings.topic)
        else:
            log.warning(
                "Kafka does not answer; reads go on, retrying",
                bootstrap=self._settings.bootstrap,
                error=type(error).__name__,
            )

    def _tp(self, partition: int) -> TopicPartition:
        return TopicPartition(self._settings.topic, partition)

    @property
    def stopping(self) -> bool:
        """`stop` was called."""
        return self._stopping


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Kafka's callbacks; they run on the consumer thread, inside `poll`."""

    def __init__(self, thread: ConsumerThread, session: _Session) -> None:
        self._thread = thread
        self._session = session

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        for tp in assigned:
            # Any position keeps the client from looking for a committed one; it is paused, so none is read.
            self._session.consumer.seek(tp, 0)
            self._session.consumer.pause(tp)
            self._session.runs.pop(tp.partition, None)
            self._thread.assigned(tp.partition)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        gone = [tp.partition for tp in revoked]
        if gone and not self._thread.stopping:
            self._thread.revoked(gone)

    def on_partitions_lost(self, lost: Iterable[TopicPartition]) -> None:
        self.on_partitions_revoked(lost)
