"""A profile: every row the view holds about one user, with versions and delete markers; and its bytes.

The stored form is msgpack, arrays only: `[schema, root, [children of table 1, …], suspicions]`, a living
row `[version, values]`, a delete marker `[version, nil, ts_ms, key]`. The order of `values` is that of the
view's stored columns; the view's hash in the store pins it; `schema` says which layout this is. What msgpack
wrote, a typed decoder reads straight into rows: it is what ingest does most.
"""

from typing import TYPE_CHECKING, Any

import msgpack
import msgspec

from .lsn import Version
from .values import Value

if TYPE_CHECKING:
    Stored = Value
else:
    Stored = Any  # the decoder's types cannot say "bytes or text"; each comes back as it was written

SCHEMA = 1
ANY_ROW = -1
"""Table number of a suspicion that could not be pinned to one row."""


UNKNOWN_VERSION: Version = (2**63, 0, 0)

SUSPICIONS_MAX = 20
"""Of one profile. Past it they are no longer told apart: only replay, drop or a whole snapshot heals them."""


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One row identity's latest word: its values, or that it is deleted. Replaced, never changed."""

    version: Version
    values: tuple[Stored, ...] | None
    deleted_ms: int = 0
    """The source's clock at the delete; 0 for a living row."""
    key: Stored = None
    """A marker's primary key; a living row's is among its values."""


class Suspicion(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Why a profile is not to be trusted, until a full row of (table, key), as new or newer, heals it."""

    table: int
    key: Stored
    offset: int
    version: Version = UNKNOWN_VERSION
    """Of what could not be applied; nothing is as new as an unknown one."""


class Profile(msgspec.Struct):
    """One user. Children may be there before the root: the user exists when `root` lives."""

    root: Row | None
    children: tuple[dict[Value, Row], ...]
    suspicions: tuple[Suspicion, ...] = ()

    @classmethod
    def empty(cls, children: int) -> "Profile":
        """A profile that knows nothing, for a view of so many child tables."""
        return cls(None, tuple({} for _ in range(children)))

    @property
    def exists(self) -> bool:
        """The user's root row is there."""
        return self.root is not None and self.root.values is not None

    @property
    def blank(self) -> bool:
        """Nothing is known: no rows, no markers, no suspicions."""
        return self.root is None and not any(self.children) and not self.suspicions

    def row(self, table: int, key: Value) -> Row | None:
        """The row of a table (0 is the root), or its delete marker."""
        return self.root if table == 0 else self.children[table - 1].get(key)

    def put(self, table: int, key: Value, row: Row | None) -> None:
        """Set, or with None forget, a row."""
        if table == 0:
            self.root = row
        elif row is None:
            self.children[table - 1].pop(key, None)
        else:
            self.children[table - 1][key] = row

    def rows(self) -> "list[tuple[int, Value, Row]]":
        """All rows and markers as (table, key, row); the root's key is None."""
        found: list[tuple[int, Value, Row]] = [] if self.root is None else [(0, None, self.root)]
        for number, child in enumerate(self.children, 1):
            found += [(number, key, row) for key, row in child.items()]
        return found


class _Stored(msgspec.Struct, array_like=True):
    schema: int
    root: Row | None
    children: tuple[tuple[Row, ...], ...]
    suspicions: tuple[Suspicion, ...]


_decode = msgspec.msgpack.Decoder(_Stored).decode


def pack_profile(profile: Profile) -> bytes:
    """The profile as stored."""
    return msgpack.packb(  # type: ignore[no-any-return]
        (
            SCHEMA,
            None if profile.root is None else _pack_row(profile.root),
            [[_pack_row(row) for row in child.values()] for child in profile.children],
            [(s.table, s.key, s.offset, s.version) for s in profile.suspicions],
        )
    )


def _pack_row(row: Row) -> tuple[object, ...]:
    if row.values is None:
        return (row.version, None, row.deleted_ms, row.key)
    return (row.version, row.values)


def unpack_profile(data: bytes | memoryview, key_columns: tuple[int, ...]) -> Profile:
    """The profile that `pack_profile` wrote.

    Args:
        data: the stored bytes.
        key_columns: for each child table, where its primary key stands among its values.

    Raises:
        ValueError: they are no profile.
    """
    try:
        stored = _decode(data)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a profile: {type(error).__name__}") from None
    if stored.schema != SCHEMA:
        raise ValueError(f"profile of unknown layout {stored.schema}")
    return Profile(
        stored.root,
        tuple(
            [
                {(row.key if row.values is None else row.values[at]): row for row in rows}
                for at, rows in zip(key_columns, stored.children, strict=True)
            ]
        ),
        stored.suspicions,
    )
