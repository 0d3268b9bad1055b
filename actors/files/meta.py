"""The two records of a shard's `meta` database: whose file it is, and the state as of the last commit.

Apart from `store.py`: a walk through a file (`walk_program.py`) needs no more, and starts in half the time.
"""

import lmdb
import msgspec

from kycache.actors.rules.state import Identity, ShardState
from kycache.model.errors import Refused

from .environment import Databases

_IDENTITY = b"identity"
_STATE = b"state"
_encode = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(ShardState).decode
_decode_identity = msgspec.msgpack.Decoder(Identity).decode


def read_state(txn: "lmdb.Transaction[bytes]", databases: Databases) -> ShardState:
    """The shard's state as of a transaction."""
    return _decode_state(_state_bytes(txn, databases))


class StateMemo:
    """The state as it was last read: decoded again only when its bytes are others. Readers must not change it."""

    def __init__(self) -> None:
        self._bytes = b""
        self._state: ShardState | None = None

    def read(self, txn: "lmdb.Transaction[bytes]", databases: Databases) -> ShardState:
        """The shard's state as of a transaction; the same object while it is the same state."""
        data = _state_bytes(txn, databases)
        if self._state is None or data != self._bytes:
            self._bytes, self._state = data, _decode_state(data)
        return self._state


def _state_bytes(txn: "lmdb.Transaction[bytes]", databases: Databases) -> bytes:
    data = txn.get(_STATE, db=databases.meta)
    if data is None:
        raise Refused("the store holds no state: its creation was cut off", "run `kycache rebuild`")
    return data


def write_state(txn: "lmdb.Transaction[bytes]", databases: Databases, state: ShardState) -> None:
    """Put the state as of a transaction into it."""
    txn.put(_STATE, _encode(state), db=databases.meta)


def read_identity(txn: "lmdb.Transaction[bytes]", databases: Databases) -> Identity:
    """Which shard of which view a file holds."""
    data = txn.get(_IDENTITY, db=databases.meta)
    if data is None:
        raise Refused("the store holds no identity: its creation was cut off", "run `kycache rebuild`")
    return _decode_identity(data)


def write_identity(txn: "lmdb.Transaction[bytes]", databases: Databases, identity: Identity) -> None:
    """Say which shard of which view a new file holds."""
    txn.put(_IDENTITY, _encode(identity), db=databases.meta)


def check_identity(txn: "lmdb.Transaction[bytes]", databases: Databases, expected: Identity) -> Identity:
    """Refuse a file of another shard, view or format. Which epoch it is of, and its log's unit, it says itself."""
    data = txn.get(_IDENTITY, db=databases.meta)
    found = None if data is None else _decode_identity(data)
    if found is None or msgspec.structs.replace(expected, epoch=found.epoch, times=found.times) != found:
        raise Refused(
            f"shard {expected.shard}: the file holds {found}, expected {expected}",
            f"put the right file back, or run `kycache rebuild --shard {expected.shard}`",
        )
    return found
