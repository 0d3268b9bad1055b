"""The walk through a shard's file, as a program of its own: `child_walk.py` says why, and starts it.

quick  LMDB's own walk: all trees, page counts and free pages agree; keys ascend; the state can be read.
       About 1 s a million users.
full   first a walk that never maps the file (`page_verifier.py`): every page sound, and reachable once or free.
       Then every profile decodes, its list row and filters are what its values say, the directory of counts
       is recounted, and users, suspects, quarantine and delete markers agree with the state.
       About a minute a million users.
"""

import os
import resource
import sys
from pathlib import Path

import lmdb
import lmdb.verify
import msgspec

from kycache.actors.files.directory import claim_of
from kycache.actors.files.environment import (
    DamagedFile,
    Databases,
    Environments,
    check_before_mapping,
    damage_remedy,
    data_file,
)
from kycache.actors.files.meta import check_identity, read_identity, read_state
from kycache.actors.files.pid_claim import PID_TAKEN_EXIT, PidTaken
from kycache.actors.files.quarantine import read_quarantine
from kycache.actors.order import layout as order
from kycache.actors.order.list_key import list_key
from kycache.actors.order.reader import OrderSnapshot
from kycache.actors.order.recount import check
from kycache.actors.rules.state import Identity, ShardState
from kycache.model.change import SHARD_IN_DOUBT, Scope
from kycache.model.errors import KycacheError
from kycache.model.profile import Profile, unpack_profile
from kycache.model.render import Renderer
from kycache.model.view import View

from .child_walk import Facts, Job, Outcome
from .page_verifier import damages

PROBLEMS_SHOWN = 3
"""Of one file: the first ones say enough."""


class _Differs(Exception):
    """The file is not what it must be; says where, without any value of it."""


def walk(generation: Path, shard: int, view: View | None) -> Facts:
    """Walk a generation that nobody writes. May kill the process: run it by `walk_in_child`.

    Args:
        view: with it the walk is full.

    Raises:
        Refused: what is wrong, and with which file.
        PidTaken: another process can do it.
    """
    path = data_file(generation)
    check_before_mapping(generation, shard)
    try:
        if view is not None:
            problems = damages(path)
            if problems:
                raise _Differs("; ".join(problems[:PROBLEMS_SHOWN]))
        environments = Environments(readonly=True, map_size=path.stat().st_size, claim=claim_of(generation))
        environment, databases = environments.lease(generation, shard)
        try:
            if view is None:
                _touch(environment)
            with environment.begin() as txn:
                return _records(txn, databases, shard, view)
        finally:
            environments.release(generation)
    except (_Differs, lmdb.Error, lmdb.verify.VerifyError, order.IndexDiffers) as error:
        raise DamagedFile(f"shard {shard}: {path} is damaged: {error}", damage_remedy(shard)) from None
    except (ValueError, LookupError, TypeError, msgspec.MsgspecError) as error:
        # A record that does not decode. Its message may hold values, which are nobody's business here.
        raise DamagedFile(
            f"shard {shard}: {path} is damaged: a record of it cannot be decoded ({type(error).__name__})",
            damage_remedy(shard),
        ) from None


def _touch(environment: lmdb.Environment) -> None:
    """Have LMDB copy the file to nowhere: it reads every page in use, and its counts must add up."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        environment.copyfd(nowhere, compact=True)
    finally:
        os.close(nowhere)


def _records(txn: "lmdb.Transaction[bytes]", databases: Databases, shard: int, view: View | None) -> Facts:
    for name, database in zip(Databases._fields, databases, strict=True):
        _keys_ascend(txn, name, database)
    identity, state = read_identity(txn, databases), read_state(txn, databases)
    _require(identity.shard == shard, f"it is shard {identity.shard}'s")
    _require(state.position.partition == shard, f"it was read from partition {state.position.partition}")
    listed = txn.stat(databases.rows)["entries"]
    _require(listed == state.users, f"{listed} list rows, {state.users} users counted")
    kept = txn.stat(databases.quarantine)["entries"]
    _require(kept == state.quarantined, f"{kept} records in quarantine, {state.quarantined} counted")
    if view is not None:
        check_identity(txn, databases, Identity(identity.format, shard, identity.shards, view.hash))
        _Recheck(txn, databases, view, state).run()
    return Facts(identity, state, full=view is not None)


def _keys_ascend(txn: "lmdb.Transaction[bytes]", name: str, database: "lmdb._Database") -> None:
    before, entries = b"", 0
    with txn.cursor(database) as cursor:
        for key in cursor.iternext(keys=True, values=False):
            _require(key > before, f"the keys of {name} do not ascend")
            before = key
            entries += 1
    counted = txn.stat(database)["entries"]
    _require(entries == counted, f"{name} holds {entries} records, {counted} counted")


class _Recheck:
    """Every record of a file against every other that must agree with it."""

    def __init__(
        self, txn: "lmdb.Transaction[bytes]", databases: Databases, view: View, state: ShardState
    ) -> None:
        self._txn = txn
        self._databases = databases
        self._state = state
        self._renderer = Renderer(view)
        self._key_at = (0, *(t.index_of(t.key) for t in view.children))
        self._filters = len(view.filters)
        self._values_of: dict[bytes, tuple[bytes | None, ...]] = {}
        self._users = 0
        self._suspects = 0

    def run(self) -> None:
        state = self._state
        check(OrderSnapshot(self._filters, self._txn, self._databases.rows, self._databases.order))
        with self._txn.cursor(self._databases.profiles) as cursor:
            for user, data in cursor:
                self._profile(user, unpack_profile(data))
        # Each user's own list row was found, and there are as many rows as users: none belongs to nobody.
        _require(self._users == state.users, f"{self._users} users found, {state.users} counted")
        _require(self._suspects == state.suspects, f"{self._suspects} suspects found, {state.suspects} counted")
        self._quarantine()

    def _profile(self, user: bytes, profile: Profile) -> None:
        _require(not profile.blank, "a profile knows nothing")
        for table, key, row in profile.rows():
            named = table == 0 or row.values is None or row.values[self._key_at[table]] == key
            _require(named, "a row stands under another's key")
            if row.values is None and row.deleted_ms > 0:
                due = row.deleted_ms.to_bytes(8, "big") + user
                _require(self._txn.get(due, db=self._databases.markers) is not None, "a marker never falls due")
        self._suspects += bool(profile.suspicions)
        listing = self._renderer.listing(self._renderer.listed_by(profile))
        if listing is None:
            return
        self._users += 1
        listed = self._renderer.listed(listing)
        value = self._txn.get(list_key(listed.order, user), db=self._databases.rows)
        _require(value is not None, "a user stands in no list")
        _require(order.row_of(value or b"") == listed.row, "a list row is not what its profile says")
        _require(self._values(value or b"") == listed.filters, "filter values are not what their profile says")

    def _values(self, value: bytes) -> tuple[bytes | None, ...]:
        tag = value[: order.TAG_BYTES]
        if tag == order.OVERFLOW:
            return order.carried_values(value)
        values = self._values_of.get(tag)
        if values is None:
            packed = self._txn.get(order.tag_key(tag), db=self._databases.order)
            values = self._values_of[tag] = order.decode_values(packed or b"")
        return values

    def _quarantine(self) -> None:
        first, doubts = 0, 0
        while page := read_quarantine(self._txn, self._databases, first):
            first = page[-1].offset + 1
            doubts += sum(Scope(record.scope) in SHARD_IN_DOUBT for record in page)
        _require(doubts == self._state.doubts, f"{doubts} records name no user, {self._state.doubts} counted")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise _Differs(what)


def main() -> None:
    """The child: a job in, an outcome out."""
    # A file that aborts its reader must not leave its pages, personal data all, behind in a core dump.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        outcome = Outcome(walk(Path(job.generation), job.shard, job.view))
    except PidTaken:
        sys.exit(PID_TAKEN_EXIT)
    except KycacheError as error:
        outcome = Outcome(None, error.problem)
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
