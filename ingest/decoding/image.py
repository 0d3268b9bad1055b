"""A row image, `before` or `after`, to the stored values of its table. Pure.

Two ways to the same values. The usual image, where each column of the view is there and plain, is read and checked
by one typed decoder in C; what that refuses is read again column by column, which says what is wrong, and knows
missing columns, placeholders and the odd numbers. A test holds the first equal to the second.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from kycache.model.scalars.numbers import INT_MAX, INT_MIN
from kycache.model.scalars.refused import ValueRefused
from kycache.model.scalars.times import (
    DATE_MAX,
    DATE_MIN,
    DAY_US,
    TimePrecision,
    unit_us,
    usual_timestamps,
)
from kycache.model.values import BYTEA_PLACEHOLDER, PLACEHOLDER, Absent, Decoder, Value, decoder, id_decoder
from kycache.model.view import ColumnType, Kind, Table

Image = dict[str, Any]

EXTRA_COLUMNS_MAX = 64
"""Columns outside the view that a usual image may have; with more, images of the table are read the slow way."""


_FIELD_NAME = re.compile(r"[^\x00-\x1f\"\\]{0,255}")
"""What msgspec takes for a field's name: nothing that JSON escapes. PostgreSQL's own names have up to 63 bytes."""


class Values(msgspec.Struct, gc=False):
    """The stored columns of an image, in the view's order."""

    values: tuple[Value | Absent, ...]
    extra: int
    """Columns of the image that the view does not declare."""
    placeholders: bool = False
    """A value is the TOAST placeholder."""
    partial: bool = False
    """Some values are absent: `Absent` stands in their place."""


class ColumnRefused(Exception):
    """A column holds what its declared type cannot; the reason has no value in it."""

    def __init__(self, column: str, reason: ValueRefused) -> None:
        super().__init__(f"column {column!r}: {reason}")


class ImageDecoder:
    """Decodes the images of one table."""

    def __init__(self, table: Table, times: TimePrecision) -> None:
        self._table = table
        self._times = times
        self._columns: list[tuple[str, Decoder, str]] = [
            (
                c.name,
                id_decoder(c.type) if table.is_child and c.name == table.owner else decoder(c.type, times),
                BYTEA_PLACEHOLDER if c.type.kind is Kind.BYTEA else PLACEHOLDER,
            )
            for c in table.columns
        ]
        self._known = {c.name for c in table.columns} | {table.owner, *table.secret}
        self._extra: tuple[str, ...] = ()
        at = {c.name: n for n, c in enumerate(table.columns)}
        self._owner_at = at.get(table.owner, len(at))
        self._key_at = at[table.key]
        finish = ((n, _finish(c.type, times)) for n, c in enumerate(table.columns))
        self._finish = [(n, made) for n, made in finish if made is not None]
        self._bytea = any(c.type.kind is Kind.BYTEA for c in table.columns)
        self._typed = self._make_typed()
        self._names = _names_decoder(table)

    def names(self, image: msgspec.Raw) -> tuple[object, object]:
        """The owner's id and the primary key of an image, as they stand in it; None for what it has not.

        Raises:
            msgspec.MsgspecError, UnicodeDecodeError: it is no object.
        """
        return self._names(image)

    def read(self, image: msgspec.Raw) -> tuple[object, Values, object] | None:
        """Of a usual image, from its JSON, the owner's id, the values, and the key as sent; None of another."""
        if self._typed is None:
            return None
        try:
            made = msgspec.structs.astuple(self._typed(image))
            if PLACEHOLDER in made or (self._bytea and BYTEA_PLACEHOLDER in made):
                return None
            values = list(made[: len(self._columns)])
            for at, finish in self._finish:
                if values[at] is not None:
                    values[at] = finish(values[at])
        except (msgspec.MsgspecError, ValueRefused, UnicodeDecodeError, RecursionError):
            return None
        extra = sum(value is not msgspec.UNSET for value in made[-len(self._extra) :]) if self._extra else 0
        return made[self._owner_at], Values(tuple(values), extra), made[self._key_at]

    def learn(self, image: Image) -> None:
        """Take the columns that the view does not declare for usual ones from now on, where their names can be.

        Images that have a column of another name are read the slow way.
        """
        new = [n for n in image if n not in self._known and n not in self._extra and _FIELD_NAME.fullmatch(n)]
        if new and len(self._extra) + len(new) <= EXTRA_COLUMNS_MAX:
            self._extra += tuple(new)
            self._typed = self._make_typed()

    def _make_typed(self) -> Callable[[msgspec.Raw], Any] | None:
        """A decoder of usual images. It refuses columns it was not told of: they must be counted.

        None where the view's own columns have names that cannot be a field's.
        """
        table = self._table
        declared = [c.name for c in table.columns]
        types = [_typed(c.type, self._times, nullable=c.name != table.key) for c in table.columns]
        if table.owner not in declared:
            declared.append(table.owner)
            types.append(str | int)
        if not all(map(_FIELD_NAME.fullmatch, (*declared, *table.secret))):
            return None
        # As many as are needed, in order: fields named c0, c1… for whatever the columns are called.
        fields = [(f"c{n}", types[n], msgspec.field(name=name)) for n, name in enumerate(declared)]
        fields += [
            (f"c{n}", Any, msgspec.field(name=name, default=msgspec.UNSET))
            for n, name in enumerate((*table.secret, *self._extra), len(fields))
        ]
        typed = msgspec.defstruct("Image", fields, gc=False, forbid_unknown_fields=True)
        return msgspec.json.Decoder(typed).decode

    def decode_each(self, image: Image) -> Values:
        """The values of any image, column by column.

        Raises:
            ColumnRefused: a value that its column's type cannot hold.
        """
        values: list[Value | Absent] = []
        missing = unavailable = 0
        for name, decode, placeholder in self._columns:
            value = image.get(name, Absent.MISSING)
            if value is None:
                values.append(None)
            elif value is Absent.MISSING:
                missing += 1
                values.append(value)
            elif value == placeholder:
                unavailable += 1
                values.append(Absent.UNAVAILABLE)
            else:
                try:
                    values.append(decode(value))
                except ValueRefused as error:
                    raise ColumnRefused(name, error) from None
        extra = sum(name not in self._known for name in image)
        return Values(tuple(values), extra, unavailable > 0, missing + unavailable > 0)


def _names_decoder(table: Table) -> Callable[[msgspec.Raw], tuple[object, object]]:
    """What reads an image's owner and key, and leaves the rest of it unread where their names allow that."""
    if not (_FIELD_NAME.fullmatch(table.owner) and _FIELD_NAME.fullmatch(table.key)):
        read_whole = msgspec.json.Decoder(Image | None).decode

        def names_of_whole(image: msgspec.Raw) -> tuple[object, object]:
            read: Image = read_whole(image) or {}
            return read.get(table.owner), read.get(table.key)

        return names_of_whole
    fields = [("owner", Any, msgspec.field(name=table.owner, default=None))]
    if table.key != table.owner:
        fields.append(("key", Any, msgspec.field(name=table.key, default=None)))
    read = msgspec.json.Decoder(msgspec.defstruct("Names", fields, gc=False) | None).decode

    def names(image: msgspec.Raw) -> tuple[object, object]:
        found = read(image)
        return (None, None) if found is None else (found.owner, getattr(found, "key", found.owner))

    return names


def _typed(kind: ColumnType, times: TimePrecision, *, nullable: bool) -> Any:
    """What msgspec checks of a column's usual values; never more than its decoder accepts."""
    typed: Any  # to a type checker `Annotated[…] | None` is no value
    match kind.kind:
        case Kind.BOOL:
            typed = bool
        case Kind.INT:
            typed = Annotated[int, msgspec.Meta(ge=INT_MIN, le=INT_MAX)]
        case Kind.ENUM:
            typed = Literal[kind.labels]
        case Kind.DATE:
            typed = Annotated[int, msgspec.Meta(ge=DATE_MIN, le=DATE_MAX)]
        case Kind.TIMESTAMP:
            first, end = usual_timestamps(times)
            typed = Annotated[int, msgspec.Meta(ge=first, lt=end)]
        case Kind.TIME:
            typed = Annotated[int, msgspec.Meta(ge=0, le=DAY_US // unit_us(times, kind.precision))]
        case Kind.FLOAT4 | Kind.FLOAT8:
            typed = float | str
        case Kind.NUMERIC if kind.scale is not None and kind.scale >= 0:
            fraction = rf"\.[0-9]{{{kind.scale}}}" if kind.scale else ""
            typed = Annotated[str, msgspec.Meta(pattern=rf"\A-?[0-9]+{fraction}\Z")]
        case _:
            typed = str
    return typed | None if nullable else typed


def _finish(kind: ColumnType, times: TimePrecision) -> Callable[[Any], Value] | None:
    """What is left to do for a column after the typed conversion."""
    match kind.kind:
        case Kind.BOOL | Kind.INT | Kind.ENUM | Kind.DATE | Kind.TEXT:
            return None
        case Kind.NUMERIC if kind.scale is not None and kind.scale >= 0:
            return None
        case Kind.TIMESTAMP | Kind.TIME if unit_us(times, kind.precision) == 1:
            return None
        case _:
            return decoder(kind, times)
