"""Which shard answers, and all shards of a data directory as a reader sees them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.environment import Environments
from kycache.actors.generations.takeover import state_of
from kycache.actors.integrity.vouching import Unchecked
from kycache.actors.rules.freshness import Limits
from kycache.actors.rules.reports import Doubt, WriterState
from kycache.actors.rules.standing import Facts, ShardStatus, status
from kycache.actors.rules.state import ShardState
from kycache.model.errors import Refused
from kycache.model.partition import KeyForm, key_bytes, partition_of
from kycache.model.scalars.refused import ValueRefused
from kycache.model.values import (
    USER_KEY_BYTES_MAX,
    id_decoder,
    key_of_order_bytes,
    key_order_bytes,
    printer,
)
from kycache.model.view import Kind, View

from .reader import Miss, NoStore, ShardReader, ShardSnapshot, refuse_unchecked, snapshots

LOOK_INTERVAL_S = 0.004
"""How often waiters look for commits: a look costs a microsecond, a batch takes longer than this."""


class UserId:
    """A user id in its forms: as stored key, and as Kafka key."""

    __slots__ = ("kafka_key", "key", "text")

    def __init__(self, text: str, key: bytes, kafka_key: bytes) -> None:
        self.text = text
        self.key = key
        self.kafka_key = kafka_key


class Router:
    """Reads of one data directory. One per process; its methods are for the trio thread only."""

    def __init__(
        self,
        directory: DataDirectory,
        environments: Environments,
        view: View,
        limits: Limits,
        key_form: KeyForm = KeyForm.PLAIN,
        miss: Miss = refuse_unchecked,
    ) -> None:
        self.view = view
        self.limits = limits
        self._directory = directory
        self._environments = environments
        self._key_form = key_form
        self._miss = miss
        self._decode_id = id_decoder(view.root.key_type)
        self._print_id = printer(view.root.key_type)
        self._numeric = view.root.key_type.kind is Kind.INT
        self._node: Node | None = None
        self._readers: list[ShardReader] = []
        self._doubts: tuple[tuple[int, int], tuple[Doubt, ...]] = ((-1, 0), ())

    @property
    def directory(self) -> DataDirectory:
        """The data directory that is read."""
        return self._directory

    @property
    def shard_count(self) -> int | None:
        """The number of shards; None while nothing was ever ingested here.

        Raises:
            Refused: the directory was made with another view definition.
        """
        if self._node is None:
            node = self._directory.node()
            if node is None:
                return None
            self._directory.check_view(node, self.view.hash)
            self._node = node
            self._readers = [
                ShardReader(
                    self._environments,
                    self._directory.shard(n),
                    self.view,
                    node.shards,
                    self._miss,
                    partial(self._belongs, n, node.shards),
                )
                for n in range(node.shards)
            ]
        return self._node.shards

    @property
    def topic(self) -> str | None:
        """The topic the shards were read from; None while nothing was."""
        return None if self.shard_count is None or self._node is None else self._node.topic

    def user_id(self, text: str) -> UserId | None:
        """The id that `text` writes, None where it writes none. A uuid may come in any case."""
        try:
            stored = self._decode_id(text)
        except ValueRefused:
            return None
        shown = str(self._print_id(stored))
        key = key_order_bytes(stored)
        if not 0 < len(key) <= USER_KEY_BYTES_MAX:
            return None
        return UserId(shown, key, self._kafka_key(shown))

    def _kafka_key(self, shown: str) -> bytes:
        return key_bytes(self._key_form, self.view.root.key, shown, self._numeric)

    def _belongs(self, shard: int, shards: int, user: bytes) -> bool:
        """Whether the user of a stored key is looked for in a shard."""
        try:
            stored = key_of_order_bytes(self.view.root.key_type, user)
        except ValueError:
            return False
        return partition_of(self._kafka_key(str(self._print_id(stored))), shards) == shard

    def shard_of(self, user: UserId) -> int:
        """The shard that holds a user: Kafka's own partitioner says."""
        count = self.shard_count
        assert count is not None
        return partition_of(user.kafka_key, count)

    @contextmanager
    def snapshot(self, shard: int) -> Iterator[ShardSnapshot]:
        """One shard as it is now.

        Raises:
            NoStore: it was never ingested.
            Refused: its file is damaged, or another's.
        """
        with self._readers[shard].snapshot() as snapshot:
            yield snapshot

    def look_up(self, shard: int, user: bytes) -> tuple[ShardState, bytes | None]:
        """A shard's state and a user's stored profile, of one moment: all that a detail needs.

        Raises:
            NoStore: it was never ingested.
            Refused: its file is damaged, or another's.
        """
        return self._readers[shard].look_up(user)

    @contextmanager
    def all_snapshots(self) -> Iterator[list[ShardSnapshot]]:
        """All shards as they are now, every transaction begun before the first row is read."""
        if self.shard_count is None:
            raise NoStore("no shard has a store yet", "start `kycache ingest`")
        with snapshots(self._readers) as taken:
            yield taken

    def state(self, shard: int) -> ShardState | None:
        """What a shard knows about itself; None where it has no store."""
        try:
            with self.snapshot(shard) as snapshot:
                return snapshot.state
        except NoStore:
            return None

    def has_store(self, shard: int) -> bool:
        """Whether a shard was ever ingested, be its file readable or not."""
        return self._directory.shard(shard).current_name() is not None

    def commit_id(self, shard: int) -> tuple[str, int]:
        """Changes with each commit of a shard, of whatever process; costs a microsecond.

        Raises:
            NoStore: it was never ingested.
            Refused: its file is damaged, or another's.
        """
        return self._readers[shard].commit_id()

    def commit_ids(self) -> tuple[tuple[str, int], ...]:
        """The commit ids of all shards.

        Raises:
            NoStore: one was never ingested.
            Refused: the file of one is damaged, or another's.
        """
        return tuple(reader.commit_id() for reader in self._readers)

    def doubts(self) -> tuple[Doubt, ...]:
        """What puts every shard here in doubt; read again only when the file changes."""
        stamp = self._directory.doubts_stamp()
        if stamp != self._doubts[0]:
            self._doubts = (stamp, self._directory.doubts())
        return self._doubts[1]

    def status(self, shard: int) -> ShardStatus:
        """One shard's standing."""
        folder = self._directory.shard(shard)
        report = folder.report()
        state, why = None, ""
        try:
            state = self.state(shard)
        except Unchecked as error:
            # Its holder walks it, or has, and halted the shard; what a former holder said is not known to hold.
            if report is None or report.state is not WriterState.HALTED or folder.holder() is None:
                why = error.problem
        except Refused as error:
            report = folder.damaged(error)
        building = folder.building()
        built = None if building is None else state_of(self._environments, folder, building)
        return status(
            Facts(
                shard,
                state,
                time.time(),
                self.limits,
                report,
                self.doubts(),
                held=folder.holder() is not None,
                building=building is not None,
                built=built,
                unchecked=why,
            )
        )

    def statuses(self) -> list[ShardStatus]:
        """Every shard's standing; empty while nothing was ever ingested."""
        return [self.status(n) for n in range(self.shard_count or 0)]

    def close(self) -> None:
        """Close every reader."""
        for reader in self._readers:
            reader.close()
