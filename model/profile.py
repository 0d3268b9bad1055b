"""A profile: every row the view holds about one user, with versions and delete markers; and its bytes.

The stored form is msgpack: `[schema, root or nil, [{key: row} of table 1, …], suspicions]`, a living row
`[version, values]`, a delete marker `[version, nil, ts_ms]`. The order of `values` is that of the view's stored
columns; the view's hash in the store pins it; `schema` says which layout this is.

Rows stay packed until somebody looks at one: a change concerns one row of a profile, and the others are
written back as the bytes they were read from.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgpack
import msgspec

from .lsn import Version
from .values import Value

if TYPE_CHECKING:
    Stored = Value
else:
    Stored = Any  # the decoder's types cannot say "bytes or text"; each comes back as it was written

SCHEMA = 2
ANY_ROW = -1
"""Table number of a suspicion that could not be pinned to one row."""

MANY_ROWS = -2
"""Table number of the suspicion that stands for all past `SUSPICIONS_MAX`; its offset is the latest's."""


UNKNOWN_VERSION: Version = (2**63, 0, 0)

SUSPICIONS_MAX = 20
"""Of one profile. Past it they are no longer told apart: only replay, drop or a whole snapshot heals them."""


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row identity's latest word: its values, or that it is deleted."""

    version: Version
    values: tuple[Stored, ...] | None
    deleted_ms: int = 0
    """The source's clock at the delete; 0 for a living row."""


class _Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """As much of a row as most changes need to see."""

    version: Version


class Suspicion(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why a profile is not to be trusted, until a full row of (table, key), as new or newer, heals it."""

    table: int
    key: Stored
    offset: int
    version: Version = UNKNOWN_VERSION
    """Of what could not be applied; nothing is as new as an unknown one."""


Packed = msgspec.Raw
"""A row's bytes. Replaced, never changed: where it is the same object, it is the same row."""

NO_ROW = Packed(b"\xc0")
"""msgpack's nil: the root of a user whose root row never came."""

_pack = msgpack.Packer().pack
_head = msgspec.msgpack.Decoder(_Head).decode
_row = msgspec.msgpack.Decoder(Row).decode


def pack_row(row: Row) -> Packed:
    """The row's bytes."""
    living = row.values is not None
    return Packed(_pack((row.version, row.values) if living else (row.version, None, row.deleted_ms)))


def unpack_row(packed: Packed) -> Row:
    """The row of some bytes.

    Raises:
        ValueError: they are no row.
    """
    try:
        return _row(packed)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a row: {type(error).__name__}") from None


class Profile(msgspec.Struct, array_like=True):
    """One user. Children may be there before the root: the user exists when the root lives."""

    schema: int
    root_packed: Packed
    children_packed: tuple[dict[Stored, Packed], ...]
    suspicions: tuple[Suspicion, ...] = ()

    @classmethod
    def empty(cls, children: int) -> "Profile":
        """A profile that knows nothing, for a view of so many child tables."""
        return cls(SCHEMA, NO_ROW, tuple({} for _ in range(children)))

    @property
    def root(self) -> Row | None:
        """The user's own row, or its delete marker."""
        return None if self.root_packed == NO_ROW else unpack_row(self.root_packed)

    @property
    def exists(self) -> bool:
        """The user's root row is there."""
        root = self.root
        return root is not None and root.values is not None

    @property
    def blank(self) -> bool:
        """Nothing is known: no rows, no markers, no suspicions."""
        return self.root_packed == NO_ROW and not any(self.children_packed) and not self.suspicions

    @property
    def size(self) -> int:
        """How many rows and markers it holds beside the root's."""
        return sum(map(len, self.children_packed))

    def children(self, number: int) -> Iterator[Row]:
        """The rows and markers of a child table, counted from 0."""
        return map(unpack_row, self.children_packed[number].values())

    def row(self, table: int, key: Value) -> Row | None:
        """The row of a table (0 is the root), or its delete marker."""
        packed = self._packed(table, key)
        return None if packed is None else unpack_row(packed)

    def version(self, table: int, key: Value) -> Version | None:
        """The version of a row, or of its delete marker."""
        packed = self._packed(table, key)
        return None if packed is None else _head(packed).version

    def _packed(self, table: int, key: Value) -> Packed | None:
        if table:
            return self.children_packed[table - 1].get(key)
        return None if self.root_packed == NO_ROW else self.root_packed

    def put(self, table: int, key: Value, row: Row | None) -> None:
        """Set, or with None forget, a row."""
        if table == 0:
            self.root_packed = NO_ROW if row is None else pack_row(row)
        elif row is None:
            self.children_packed[table - 1].pop(key, None)
        else:
            self.children_packed[table - 1][key] = pack_row(row)

    def rows(self) -> "list[tuple[int, Value, Row]]":
        """All rows and markers as (table, key, row); the root's key is None."""
        root = self.root
        found: list[tuple[int, Value, Row]] = [] if root is None else [(0, None, root)]
        for number, child in enumerate(self.children_packed, 1):
            found += [(number, key, unpack_row(packed)) for key, packed in child.items()]
        return found


pack_profile = msgspec.msgpack.Encoder().encode
"""The profile as stored."""

_decode = msgspec.msgpack.Decoder(Profile).decode


def unpack_profile(data: bytes | memoryview) -> Profile:
    """The profile that `pack_profile` wrote. Its rows are not looked into.

    Raises:
        ValueError: it is no profile.
    """
    try:
        profile = _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a profile: {type(error).__name__}") from None
    if profile.schema != SCHEMA:
        raise ValueError(f"profile of unknown layout {profile.schema}")
    return profile
