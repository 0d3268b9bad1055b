"""Reading a shard: synchronous MVCC snapshots that never wait for the writer.

A snapshot lives for one answer and never across an `await`: a read transaction that stays open keeps LMDB
from reusing pages. Writers in other processes are noticed by the transaction's id, a new generation by the
`CURRENT` link.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path

import lmdb

from kycache.actors.files.environment import (
    Databases,
    Environments,
    begin_read,
    check_before_mapping,
    damage_remedy,
)
from kycache.actors.files.meta import StateMemo, check_identity
from kycache.actors.files.quarantine import Quarantined, read_quarantine
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.integrity.vouching import Unchecked, vouched
from kycache.actors.order.layout import IndexDiffers
from kycache.actors.order.views import OrderSnapshot, Reads
from kycache.actors.rules.state import Identity, ShardState
from kycache.actors.store.store import FORMAT
from kycache.model.errors import Refused
from kycache.model.profile import Profile, unpack_profile
from kycache.model.view import View


class NoStore(Refused):
    """The shard has no generation yet: nothing was ever ingested into it."""


Miss = Callable[[Path, int], None]
"""What to do about a file nobody vouches for: see to it that it may be mapped, or raise."""


def refuse_unchecked(_generation: Path, shard: int) -> None:
    """Leave files that nobody vouches for alone."""
    raise Unchecked(shard)


Belongs = Callable[[bytes], bool]
"""Whether a user is looked for in this shard."""

USERS_LOOKED_AT = 32
"""Of a file that is opened. By chance a wrong setting is right about some: of two shards, about half of them."""


class ShardSnapshot:
    """One shard as of one read transaction."""

    def __init__(
        self,
        shard: int,
        txn: "lmdb.Transaction[bytes]",
        databases: Databases,
        view: View,
        state: ShardState,
    ) -> None:
        self.shard = shard
        self.state = state
        self.reads = Reads()
        """What was read of the order index. Kept here, since the index may fail while it is opened."""
        self._txn = txn
        self._databases = databases
        self._filters = len(view.filters)
        self._order: OrderSnapshot | None = None

    @property
    def order(self) -> OrderSnapshot:
        """The list. Opened when a list or an export asks: its root grows with the shard."""
        if self._order is None:
            databases = self._databases
            self._order = OrderSnapshot(self._filters, self._txn, databases.rows, databases.order, self.reads)
        return self._order

    def profile(self, user: bytes) -> Profile | None:
        """What is known about a user; None where nothing is."""
        data = self._txn.get(user, db=self._databases.profiles)
        return None if data is None else unpack_profile(data)

    def suspects_one_of(self, users: Iterable[bytes]) -> bool:
        """Whether something about one of them could not be applied. Costs nothing where nobody is suspect."""
        if not self.state.suspects:
            return False
        profiles = (self.profile(user) for user in users)
        return any(profile is not None and profile.suspicions for profile in profiles)

    def quarantine(self, first: int = 0) -> list[Quarantined]:
        """A page of the records in quarantine, from offset `first` on."""
        return read_quarantine(self._txn, self._databases, first)


class ShardReader:
    """Opens snapshots of one shard; follows it from generation to generation."""

    def __init__(
        self,
        environments: Environments,
        folder: ShardFolder,
        view: View,
        shards: int,
        miss: Miss = refuse_unchecked,
        belongs: Belongs = lambda _: True,
    ) -> None:
        self.shard = folder.number
        self._belongs = belongs
        self._miss = miss
        self.folder = folder
        self._environments = environments
        self._view = view
        self._identity = Identity(FORMAT, folder.number, shards, view.hash)
        self._link = ""
        self._generation: Path | None = None
        self._environment: lmdb.Environment | None = None
        self._databases: Databases | None = None
        self._state = StateMemo()

    @contextmanager
    def snapshot(self) -> Iterator[ShardSnapshot]:
        """The shard as it is now.

        Raises:
            NoStore: nothing was ever ingested into it.
            Unchecked: nobody vouches for the file yet.
            Refused: the file is damaged, or another shard's.
        """
        environment, databases = self._follow()
        try:
            with begin_read(environment) as txn:
                yield ShardSnapshot(self.shard, txn, databases, self._view, self._state.read(txn, databases))
        except (lmdb.Error, IndexDiffers) as error:
            raise self.unreadable(error) from error

    def look_up(self, user: bytes) -> tuple[ShardState, bytes | None]:
        """The shard's state and a user's stored profile, of one moment. No profile: nothing is known.

        Raises:
            NoStore, Unchecked, Refused: as `snapshot`.
        """
        environment, databases = self._follow()
        try:
            with begin_read(environment) as txn:
                return self._state.read(txn, databases), txn.get(user, db=databases.profiles)
        except lmdb.Error as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: lmdb.Error | IndexDiffers) -> Refused:
        """What a read failed with, as the operator needs it."""
        what = error.problem if isinstance(error, IndexDiffers) else error
        return Refused(f"shard {self.shard}: {self._generation} cannot be read: {what}", damage_remedy(self.shard))

    def commit_id(self) -> tuple[str, int]:
        """Changes with each commit, of whatever process, and with the generation; costs microseconds."""
        environment, _ = self._follow()
        return self._link, environment.info()["last_txnid"]

    def close(self) -> None:
        """Give the environment back."""
        if self._generation is not None:
            self._environments.release(self._generation)
        self._link = ""
        self._generation = self._environment = self._databases = None

    def _follow(self) -> tuple[lmdb.Environment, Databases]:
        link = self._link_now()
        if link == self._link and self._environment is not None and self._databases is not None:
            return self._environment, self._databases
        self.close()
        try:
            return self._open(link)
        except Refused:
            # The generation may have been replaced, and removed, since its name was read.
            newer = self._link_now()
            if newer == link:
                raise
            return self._open(newer)

    def _link_now(self) -> str:
        link = self.folder.current_name()
        if link is None:
            raise NoStore(f"shard {self.shard} has no store yet", "start `kycache ingest`")
        return link

    def _open(self, link: str) -> tuple[lmdb.Environment, Databases]:
        generation = self.folder.path / link
        if not vouched(generation):
            check_before_mapping(generation, self.shard)
            self._miss(generation, self.shard)
        environment, databases = self._environments.lease(generation, self.shard)
        try:
            with begin_read(environment) as txn:
                check_identity(txn, databases, self._identity)
                self._check_places(txn, databases)
        except Refused:
            self._environments.release(generation)
            if self.folder.building() is not None:
                raise NoStore(f"shard {self.shard} is being built for this view", "wait for it") from None
            raise
        except BaseException:
            self._environments.release(generation)
            raise
        self._link, self._generation = link, generation
        self._environment, self._databases = environment, databases
        return environment, databases

    def _check_places(self, txn: "lmdb.Transaction[bytes]", databases: Databases) -> None:
        """Refuse to look for users where they are not: each would be a 404."""
        with txn.cursor(databases.profiles) as cursor:
            users = list(islice(cursor.iternext(values=False), USERS_LOOKED_AT))
        if 4 * sum(map(self._belongs, users)) < 3 * len(users):  # a record that nobody understood may be anyone's
            raise Refused(
                f"shard {self.shard}: its users are not in the shards in which they are looked for",
                "set `[kafka] key` to the form in which the connector writes keys, as ingest read them",
            )


@contextmanager
def snapshots(readers: list[ShardReader]) -> Iterator[list[ShardSnapshot]]:
    """Snapshots of several shards, all of them taken before the first row is read.

    Raises:
        Refused: as `ShardReader.snapshot`; of the shard whose read failed, whichever began first or last.
    """
    with ExitStack() as stack:
        taken = [stack.enter_context(reader.snapshot()) for reader in readers]
        try:
            yield taken
        except (lmdb.Error, IndexDiffers) as error:
            failed = max(range(len(taken)), key=lambda at: taken[at].reads.turn)
            raise readers[failed].unreadable(error) from error
