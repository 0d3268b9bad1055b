"""What stands for the filter values of rows: a tag for each combination, a column for the values of each subset.

Numbers are few (`order.COMBINATIONS_MAX`), while a text filter may take new values for ever. So those that no row
has any more are taken back: at the end of a batch, once most are given out, whatever column has no row loses its
number, and with it every tag whose rows would be counted there. Which numbers are free is not stored: those are
that have no record.

A number is given only where nothing stands for the same values in another way, or the rows of one value would be
counted in two places: a column of its own while their shared column is empty, a tag while no row carries just
these values.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from . import layout as order
from .layout import ALL, TAG_BYTES, IndexDiffers

KNOWN_MAX = 8_192
"""Combinations of values remembered: all tagged ones and as many that carry their values."""

RECYCLE_SHARE = 0.75
"""Of the numbers: once so many are given out, those of values that are gone are looked for."""

RECYCLE_SHARE_EVERY = 1 / 16
"""Of the numbers: after so many more are asked for, the next look. It reads every record, a few milliseconds."""

Values = tuple[bytes | None, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What the index makes of a combination of filter values; one object per combination."""

    prefix: bytes  # what stands before the list row
    columns: tuple[int, ...]  # those the row is counted in
    carried: bool  # the row carries its values


class Directory(Protocol):
    """Where the records are, within one transaction."""

    overflowing: int

    def get(self, key: bytes) -> bytes | None: ...

    def put(self, key: bytes, value: bytes) -> None: ...

    def drop(self, key: bytes) -> None: ...

    def beginning(self, prefix: bytes) -> list[tuple[bytes, bytes]]: ...

    def any_in(self, column: int) -> bool: ...


class Vocabulary:
    """The combinations of values of one shard; subset 0 stands for their tags."""

    def __init__(self, directory: Directory, used: list[int]) -> None:
        self.used = used
        self._directory = directory
        self._known: dict[Values, Known] = {}
        self._tags: dict[bytes, Known] = {}
        self._free: dict[int, list[int]] = {}  # per subset; none where it was not looked for
        self._given: dict[int, int] = {}  # per subset, since it was

    def known(self, values: Values) -> Known:
        """What stands for these values; a number is given out to those met for the first time."""
        known = self._known.get(values)
        return known if known is not None else self._meet(values)

    def known_of(self, value: bytes) -> Known:
        """What stands for the values of a stored row."""
        tag = value[:TAG_BYTES]
        known = self._tags.get(tag)
        if known is not None:
            return known
        if tag == order.OVERFLOW:
            return self.known(order.carried_values(value))
        packed = self._directory.get(order.tag_key(tag))
        if packed is None:
            raise IndexDiffers(f"a row has the tag {tag.hex()}, which is not known")
        return self.known(order.decode_values(packed))

    def _meet(self, values: Values) -> Known:
        if 1 << len(values) != len(self.used):
            raise ValueError(f"{len(values)} filter values, not {len(self.used).bit_length() - 1}")
        columns = {subset: self._own(subset, values) for subset in order.subsets(values)}
        key = order.combination_key(values)
        tag = self._directory.get(key)
        if tag is None and None not in columns.values() and not self._may_be_carried(columns):
            tag = self._tag(key, values)
        shown = [
            order.shared_column(subset, values) if column is None else column for subset, column in columns.items()
        ]
        known = Known(tag or order.carried(values), (ALL, *shown), tag is None)
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[values] = known
        if tag is not None:
            self._tags[tag] = known
        return known

    def _may_be_carried(self, columns: dict[int, int | None]) -> bool:
        """Whether rows may carry these values, by the column of all of them that are not NULL."""
        if not self._directory.overflowing:
            return False
        widest = columns.get(max(columns, default=0))
        return widest is None or self._directory.any_in(widest)

    def _own(self, subset: int, values: Values) -> int | None:
        """The column of a subset's values, given out where it can be."""
        key = order.subset_key(subset, values)
        record = self._directory.get(key)
        if record is not None:
            return int.from_bytes(record[:2], "big")
        if self._directory.any_in(order.shared_column(subset, values)):
            return None
        ordinal = self._take(subset)
        if ordinal is None:
            return None
        column = order.own_column(subset, ordinal)
        self._directory.put(key, column.to_bytes(2, "big"))
        return column

    def _tag(self, key: bytes, values: Values) -> bytes | None:
        """A new tag, entered with every subset of its values; None where none is left."""
        ordinal = self._take(0)
        if ordinal is None:
            return None
        tag = (ordinal + 1).to_bytes(TAG_BYTES, "big")
        self._directory.put(key, tag)
        self._directory.put(order.tag_key(tag), order.encode(values))
        for subset in order.subsets(values):
            entry = order.subset_key(subset, values)
            self._directory.put(entry, (self._directory.get(entry) or b"") + tag)
        return tag

    def _take(self, subset: int) -> int | None:
        """A number that nothing has, counted from 0."""
        self._given[subset] = self._given.get(subset, 0) + 1
        if subset not in self._free and self.used[subset] >= order.COMBINATIONS_MAX:
            self._free[subset] = self._unused(subset)
        if self._free.get(subset):
            return self._free[subset].pop()
        if self.used[subset] >= order.COMBINATIONS_MAX:
            return None
        self.used[subset] += 1
        return self.used[subset] - 1

    def _unused(self, subset: int) -> list[int]:
        """The numbers given out once that nothing has now."""
        unused = set(range(self.used[subset]))
        if subset:
            first = order.own_column(subset, 0)
            records = self._directory.beginning(order.subset_prefix(subset))
            unused.difference_update([int.from_bytes(record[:2], "big") - first for _, record in records])
        else:
            unused.difference_update(
                [int.from_bytes(key[1:], "big") - 1 for key, _ in self._directory.beginning(b"t")]
            )
        return sorted(unused, reverse=True)

    # Taking numbers back

    def recycle(self) -> bool:
        """At the end of a batch, with all columns written: take back what no row has. Whether anything was."""
        scarce = [subset for subset in range(len(self.used)) if self._is_scarce(subset)]
        if 0 in scarce:  # a tag goes with a column of any subset
            scarce = list(range(len(self.used)))
        dropped = [self._drop_empty(subset) for subset in scarce if subset]
        for subset in {0, *scarce} if scarce else ():
            self._free[subset] = self._unused(subset)
            self._given[subset] = 0
        if any(dropped):
            self._known.clear()
            self._tags.clear()
        return any(dropped)

    def _is_scarce(self, subset: int) -> bool:
        if self.used[subset] < RECYCLE_SHARE * order.COMBINATIONS_MAX:
            return False
        return (
            subset not in self._free or self._given.get(subset, 0) >= RECYCLE_SHARE_EVERY * order.COMBINATIONS_MAX
        )

    def _drop_empty(self, subset: int) -> bool:
        """Forget the columns of a subset that have no row, and the tags of the same values."""
        dropped = False
        for key, record in self._directory.beginning(order.subset_prefix(subset)):
            if not self._directory.any_in(int.from_bytes(record[:2], "big")):
                dropped = True
                self._directory.drop(key)
                self._drop_tags(order.tags_of(record))
        return dropped

    def _drop_tags(self, tags: Iterable[bytes]) -> None:
        for tag in tags:
            values = order.decode_values(self._directory.get(order.tag_key(tag)) or b"")
            self._directory.drop(order.tag_key(tag))
            self._directory.drop(order.combination_key(values))
            for subset in order.subsets(values):
                key = order.subset_key(subset, values)
                record = self._directory.get(key)
                if record is not None:
                    kept = [other for other in order.tags_of(record) if other != tag]
                    self._directory.put(key, record[:2] + b"".join(kept))
