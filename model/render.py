"""What clients see of a profile: the detail's JSON body, and its entry in the list.

A `Renderer` is made once per view and is pure. Everything it needs is resolved ahead: the column
positions, the printers, the order of members.
"""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from .profile import NO_ROW, Packed, Profile, Row, unpack_row
from .values import Value, key_order_bytes, printer
from .view import Kind, Table, View

_ENCODER = msgspec.json.Encoder()
_ETAG_BYTES = 16

PRINTED_FILTERS = frozenset({Kind.UUID, Kind.DATE})
"""Kinds of filters whose values are indexed as they are shown, not as they are stored."""


class Listed(msgspec.Struct, frozen=True):
    """A user's entry in the list: the value it sorts by, what filters see, and its ready JSON object."""

    order: Value
    filters: tuple[bytes | None, ...]
    row: bytes


def etag(body: bytes) -> str:
    """The strong entity tag of a 200 body: equal bytes have equal tags, whoever serves them."""
    return f'"{hashlib.blake2b(body, digest_size=_ETAG_BYTES).hexdigest()}"'


Listing = tuple[Value, tuple[Value, ...], tuple[Value, ...]]
"""A list entry before it is rendered: order value, filter values, values of the list's fields."""


class Renderer:
    """Turns profiles of one view into bytes."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._print_root = _object_printer(view.root)
        self._print_children = tuple(_object_printer(t) for t in view.children)
        self._sorted = tuple(_sorter(t) for t in view.children)
        self._order_column = view.root.index_of(view.list_order)
        status = view.status
        self._status_child = -1 if status is None else status.child
        self._status_column = -1 if status is None else view.children[status.child].index_of(status.column)
        self._filter_columns = tuple(
            None if f.column is None else view.root.index_of(f.column) for f in view.filters
        )
        self._filter_printers = tuple(
            _same
            if at is None or (kind := view.root.columns[at].type).kind not in PRINTED_FILTERS
            else printer(kind)
            for at in self._filter_columns
        )
        at = {".".join(c.output): i for i, c in enumerate(view.root.columns)}
        self._list_printers = tuple(
            (name, at.get(name, -1), printer(view.root.columns[at[name]].type) if name in at else _same)
            for name in view.list_fields
        )

    def status(self, profile: Profile) -> str:
        """The derived status: that of the first record in the child's order, else `none`."""
        status = self.view.status
        if status is None:
            return ""
        return self._status(profile.children(self._status_child))

    def _status(self, rows: Iterable[Row]) -> str:
        status = self.view.status
        if status is None:
            return ""
        ordered = self._sorted[self._status_child](rows)
        value = ordered[0][self._status_column] if ordered else None
        return status.none if value is None else str(value)

    def body(self, profile: Profile) -> bytes:
        """The detail's JSON. The user must exist."""
        root = profile.root
        assert root is not None
        assert root.values is not None
        made = self._print_root(root.values)
        for number, child in enumerate(self.view.children):
            rows = self._sorted[number](profile.children(number))
            made[child.output] = [self._print_children[number](values) for values in rows]
        if self.view.status is not None:
            made[self.view.status.output] = self.status(profile)
        return _ENCODER.encode({name: made[name] for name in self.view.members})

    def listed_by(self, profile: Profile) -> tuple[Packed, ...]:
        """The rows that the user's list entry follows from: the root's, and those of the status.

        Rows are replaced, never changed, so while these are the same, so is the entry.
        """
        if self._status_child < 0:
            return (profile.root_packed,)
        return (profile.root_packed, *profile.children_packed[self._status_child].values())

    def listing(self, rows: tuple[Packed, ...]) -> "Listing | None":
        """The stored values behind a list entry that follows from `rows`, None where the user does not exist.

        Equal listings have equal entries, so a change that leaves it alone needs no entry rendered.
        """
        root, *others = rows
        values = None if root == NO_ROW else unpack_row(root).values
        if values is None:
            return None
        status = self._status(map(unpack_row, others))
        return (
            values[self._order_column],
            tuple(status if at is None else values[at] for at in self._filter_columns),
            tuple(status if at < 0 else values[at] for _, at, _ in self._list_printers),
        )

    def listed(self, listing: "Listing") -> Listed:
        """The list entry of a user whose values are `listing`."""
        order, filters, fields = listing
        row = {name: show(v) for (name, _, show), v in zip(self._list_printers, fields, strict=True)}
        shown = (show(v) for show, v in zip(self._filter_printers, filters, strict=True))
        return Listed(order, tuple(map(_filter_bytes, shown)), _ENCODER.encode(row))


def _same(value: Value) -> object:
    return value


def _filter_bytes(value: object) -> bytes | None:
    match value:
        case None:
            return None
        case bool():
            return b"true" if value else b"false"
        case int():
            return b"%d" % value
        case str():
            return value.encode()
        case _:
            raise AssertionError(f"a filter of {type(value).__name__}, which no view may declare")


def _object_printer(table: Table) -> Callable[[tuple[Value, ...]], dict[str, Any]]:
    flat = all(len(c.output) == 1 for c in table.columns)
    columns = [(c.output, printer(c.type)) for c in table.columns]

    def show_flat(values: tuple[Value, ...]) -> dict[str, Any]:
        return {path[0]: show(v) for (path, show), v in zip(columns, values, strict=True)}

    def show_nested(values: tuple[Value, ...]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for (path, show), value in zip(columns, values, strict=True):
            inner = made
            for step in path[:-1]:
                inner = inner.setdefault(step, {})
            inner[path[-1]] = show(value)
        return made

    return show_flat if flat else show_nested


def _sorter(table: Table) -> Callable[[Iterable[Row]], list[tuple[Value, ...]]]:
    """Living rows in the table's order: `column NULLS LAST, key`, both in its direction."""
    at = table.index_of(table.order) if table.order else None
    key_at = table.index_of(table.key)
    descending = table.descending

    def place(values: tuple[Value, ...]) -> tuple[bool, Value, bytes]:
        value = None if at is None else values[at]
        absent = (value is None) != descending
        return absent, 0 if value is None else value, key_order_bytes(values[key_at])

    def order(rows: Iterable[Row]) -> list[tuple[Value, ...]]:
        living = [row.values for row in rows if row.values is not None]
        if len(living) > 1:
            living.sort(key=place, reverse=descending)
        return living

    return order
