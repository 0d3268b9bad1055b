"""A row image, `before` or `after`, to the stored values of its table. Pure.

Two ways to the same values. The usual image, where each column of the view is there and plain, is checked by one
typed conversion in C; whatever that refuses is read again column by column, which says what is wrong, and knows
missing columns, placeholders and the odd numbers. A test holds the first equal to the second.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import msgspec

from kycache.model.values import (
    DATE_MAX,
    DATE_MIN,
    INT_MAX,
    PLACEHOLDER,
    TIMESTAMP_MIN,
    TIMESTAMP_ODD,
    TIMESTAMP_WRAP,
    Absent,
    Decoder,
    Value,
    ValueRefused,
    decoder,
)
from kycache.model.view import ColumnType, Kind, Table

Image = dict[str, Any]


class Values(NamedTuple):
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

    def __init__(self, table: Table) -> None:
        self._columns: list[tuple[str, Decoder]] = [(c.name, decoder(c.type)) for c in table.columns]
        self._known = len({c.name for c in table.columns} | {table.owner, *table.secret})
        self._typed = msgspec.defstruct(
            "Image",
            [(f"c{n}", _typed(c.type), msgspec.field(name=c.name)) for n, c in enumerate(table.columns)],
            gc=False,
        )
        finish = ((n, _finish(c.type)) for n, c in enumerate(table.columns))
        self._finish = [(n, made) for n, made in finish if made is not None]

    def decode(self, image: Image) -> Values:
        """The image's values.

        Raises:
            ColumnRefused: a value that its column's type cannot hold.
        """
        if PLACEHOLDER not in image.values():
            try:
                made = list(msgspec.structs.astuple(msgspec.convert(image, self._typed)))
                for at, finish in self._finish:
                    if made[at] is not None:
                        made[at] = finish(made[at])
                return Values(tuple(made), max(0, len(image) - self._known))
            except (msgspec.ValidationError, ValueRefused):
                pass
        return self.decode_each(image)

    def decode_each(self, image: Image) -> Values:
        """The same, column by column: knows everything, and takes its time."""
        values: list[Value | Absent] = []
        missing = unavailable = 0
        for name, decode in self._columns:
            value = image.get(name, Absent.MISSING)
            if value is None:
                values.append(None)
            elif value is Absent.MISSING:
                missing += 1
                values.append(value)
            elif value == PLACEHOLDER:
                unavailable += 1
                values.append(Absent.UNAVAILABLE)
            else:
                try:
                    values.append(decode(value))
                except ValueRefused as error:
                    raise ColumnRefused(name, error) from None
        extra = max(0, len(image) - (self._known - missing))
        return Values(tuple(values), extra, unavailable > 0, missing + unavailable > 0)


def _typed(kind: ColumnType) -> Any:
    """What msgspec checks of a column's usual values; never more than its decoder accepts."""
    typed: Any  # to a type checker `Annotated[…] | None` is no value
    match kind.kind:
        case Kind.BOOL:
            typed = bool
        case Kind.INT:
            typed = Annotated[int, msgspec.Meta(ge=-INT_MAX, le=INT_MAX)]
        case Kind.ENUM:
            typed = Literal[kind.labels]
        case Kind.DATE:
            typed = Annotated[int, msgspec.Meta(ge=DATE_MIN, le=DATE_MAX)]
        case Kind.TIMESTAMP:
            typed = Annotated[int, msgspec.Meta(ge=TIMESTAMP_MIN, lt=TIMESTAMP_WRAP)]
        case Kind.NUMERIC if kind.scale is not None:
            fraction = rf"\.[0-9]{{{kind.scale}}}" if kind.scale else ""
            typed = Annotated[str, msgspec.Meta(pattern=rf"\A-?[0-9]+{fraction}\Z")]
        case _:
            typed = str
    return typed | None


def _finish(kind: ColumnType) -> Callable[[Any], Value] | None:
    """What is left to do for a column behind the typed conversion."""
    match kind.kind:
        case Kind.BOOL | Kind.INT | Kind.ENUM | Kind.DATE | Kind.TEXT:
            return None
        case Kind.NUMERIC if kind.scale is not None:
            return None
        case Kind.TIMESTAMP if kind.precision is None or kind.precision > 3:
            return _plain_time
        case _:
            return decoder(kind)


def _plain_time(micros: int) -> int:
    if micros in TIMESTAMP_ODD:
        raise ValueRefused("an infinity")
    return micros
