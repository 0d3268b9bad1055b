"""A profile: every row the view holds about one user, with versions and delete markers; and its bytes.

The stored form is msgpack, arrays only: `[schema, root, [children of table 1, …], suspicions]`, a living
row `[S, commit, lsn, values]`, a delete marker `[S, commit, lsn, ts_ms, key]`. The order of `values` is that
of the view's stored columns; the view's hash in the store pins it; `schema` says which layout this is.
"""

from typing import Any

import msgpack
import msgspec

from .lsn import Version
from .values import Value

SCHEMA = 1
ANY_ROW = -1
"""Table number of a suspicion that could not be pinned to one row."""


UNKNOWN_VERSION: Version = (2**63, 0, 0)

SUSPICIONS_MAX = 20
"""Of one profile. Past it they are no longer told apart: only replay, drop or a whole snapshot heals them."""


class Row(msgspec.Struct):
    """One row identity's latest word: its values, or that it is deleted."""

    version: Version
    values: tuple[Value, ...] | None
    deleted_ms: int = 0
    """The source's clock at the delete; 0 for a living row."""


class Suspicion(msgspec.Struct, frozen=True):
    """Why a profile is not to be trusted, until a full row of (table, key), as new or newer, heals it."""

    table: int
    key: Value
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


def pack_profile(profile: Profile) -> bytes:
    """The profile as stored."""
    return msgpack.packb(  # type: ignore[no-any-return]
        (
            SCHEMA,
            None if profile.root is None else _pack_row(None, profile.root),
            [[_pack_row(key, row) for key, row in child.items()] for child in profile.children],
            [(s.table, s.key, s.offset, s.version) for s in profile.suspicions],
        )
    )


def _pack_row(key: Value, row: Row) -> tuple[object, ...]:
    if row.values is None:
        return (*row.version, row.deleted_ms, key)
    return (*row.version, row.values)


def unpack_profile(data: bytes | memoryview, key_columns: tuple[int, ...]) -> Profile:
    """The profile that `pack_profile` wrote.

    Args:
        data: the stored bytes.
        key_columns: for each child table, where its primary key stands among its values.
    """
    schema, root, children, suspicions = msgpack.unpackb(data, use_list=False)
    if schema != SCHEMA:
        raise ValueError(f"profile of unknown layout {schema}")
    return Profile(
        None if root is None else _unpack_row(root),
        tuple(
            {(r[4] if len(r) == 5 else r[3][at]): _unpack_row(r) for r in rows}
            for at, rows in zip(key_columns, children, strict=True)
        ),
        tuple(Suspicion(*s) for s in suspicions),
    )


def _unpack_row(packed: tuple[Any, ...]) -> Row:
    if len(packed) == 5:
        return Row(packed[:3], None, packed[3])
    return Row(packed[:3], packed[3])
