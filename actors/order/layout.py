"""The order index: any page of any filter at the cost of the first one.

Theory
------
The index keeps one covering entry per user in list order, in the LMDB database `rows`:

    key (order-preserving list key ++ user key)  ->  tag of the filter values (2 B) ++ list row

and beside it, in `directory`, a two-level tree that only counts. It is a counted B+-tree (Knuth, TAOCP 3,
6.2.3, "linear lists": a node knows how many leaves are under each child) whose leaves are not stored:

    bucket   a run of at most `BUCKET_ROWS_MAX` rows between two fences
    node     'n' | id     ->  fences of its buckets; rows per bucket, once per column
    column   'c' | column ->  rows per node, for that column
    root     'r'          ->  fences and ids of the nodes in order; rows per node; counters

A *fence* is a lower bound and need not be a row, so it is cut to the shortest string that still separates
its neighbours (Bayer and Unterauer, Prefix B-trees, 1977): about 7 bytes instead of 24.

Filters have no index of their own. Every row is counted once in each of its *columns*: one column per
subset of the declared filters with the row's values in that subset, the empty subset being "all rows". With
the filters status and region these are: all, its status, its region, its status in its region. Every
question that names some of the filters is then one column, and `total` is that column's sum. A row is in
2**filters columns, hence `FILTERS_MAX`. SQL NULL cannot be asked for, so a subset with a NULL has no column.

Columns are sparse: a node holds only those it has rows of, and of a thinly filled one only the buckets that
have any. So the cost of many combinations of values is that of the rows that have them.

Values are open. Each combination met gets a tag, and each subset's values a column, until
`COMBINATIONS_MAX` of them are known. Beyond, a row carries its values itself (tag `OVERFLOW`), and its
subsets that have no column share `SHARED_COLUMNS` columns by hash. A question about such values counts the
candidates again by reading them: half a microsecond per user of the shard (50 ms of 100,000 users with 20,000
values, measured), whatever the page; never wrong, and no other question pays for it.
Numbers of values that no row has any more are given out again (`values.py`): a column means one thing for as
long as rows are in it.

Cost of a page of `size` rows over P shards of N rows each
----------------------------------------------------------
Read are, per shard, the root, the filter's column (two records), the one or two nodes and the buckets that
the page touches: P x (3 + 1..2) records, and about `size` + P x 1.5 x `BUCKET_ROWS_MAX` rows. None of this depends
on the page's number. N is in it only by the root, one fence per node: about N / 2,300 of them, 10 bytes each,
read whole and searched by interpolation. A filter that few rows match opens at worst one bucket per match,
and never one without. A keyset walk costs the same and one bucket per shard more; a rank costs that bucket.

Upkeep is at most 2 x 2**filters counts for a row that moves, none for one that stays where and what it is.
The nodes and columns touched are written once per batch, so larger batches are cheaper per change. A backfill
in list order fills buckets, nodes and LMDB's own pages; one in random order leaves them two thirds full.

Byte order of stored counts is the machine's, as is that of the LMDB file around them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

import msgspec

from kycache.model.errors import Refused
from kycache.model.view import FILTERS_MAX

FORMAT = 1

KEY_BYTES_MAX = 480
"""LMDB refuses keys above 511 bytes; the rest is the prefix of a directory key."""

BUCKET_ROWS_MAX = 32
"""Rows between two fences. A page reads about one bucket too many per shard and a rare filter one bucket per
row, which wants it small; each bucket costs a fence and its counts, which wants it large. Counts fit a byte."""

BUCKET_ROWS_MERGE = BUCKET_ROWS_MAX // 2
"""Neighbours are merged when they have this many together: half, so that a merged one is far from a split."""

NODE_BUCKETS_MAX = 96
"""Buckets of a node: with 30 columns about 4 KB, an LMDB page. An index and a length must fit a byte."""

NODE_BUCKETS_MIN = 16
"""A node of fewer buckets than twice this is not split for its size: with a thousand columns it may take
several pages, but the root, which has one entry per node, must stay small."""

NODE_BUCKETS_MERGE = NODE_BUCKETS_MAX // 2
"""Neighbouring nodes are merged when they have this many buckets together."""

NODE_BYTES_MAX = 4_000
"""A larger LMDB value takes a second page: 4,096 less the page's header and our own."""

COMBINATIONS_MAX = 3_072
"""Numbers given out for combinations of values, and for each subset's values. 15 subsets x 3,072 and their
shared columns fit the 16 bits of a column. Every subset has its own, so that none starves another."""

SHARED_COLUMNS = 256
"""Columns per subset that values past the limit share: a question about one reads the buckets of 1/256 of those
rows."""

ALL = 0
"""The column of all rows."""

OVERFLOW = b"\0\0"
"""The tag of a row that carries its filter values itself."""

TAG_BYTES = 2

_SHARED_BASE = 1 + ((1 << FILTERS_MAX) - 1) * COMBINATIONS_MAX
_LENGTH_BYTES = 4

ROOT_KEY = b"r"


class IndexDiffers(Refused):
    """The index is not what its rows, or its caller, say it is: corruption, or a bug of ours.

    Says no key and no value: those of rows hold user ids, those of the directory what users are filtered by.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"order index: {problem}", "rebuild the shard")


@dataclass(frozen=True, slots=True)
class Entry:
    """One user in the list.

    Attributes:
        key: order-preserving list key ++ user key, unique over all shards, 1 to `KEY_BYTES_MAX` bytes.
        filters: the value of each declared filter, in the view's order; None is SQL NULL.
        row: the list row, opaque here.
    """

    key: bytes
    filters: tuple[bytes | None, ...]
    row: bytes


Where = tuple[bytes | None, ...]
"""Per declared filter the value asked for, or None: not filtered."""


class Root(msgspec.Struct, array_like=True, gc=False):
    """The top of the directory. `used[0]` tags, and `used[subset]` columns of that subset, are given out."""

    format: int
    stamp: bytes  # random, new with every batch: a writer knows by it whether its mirror is the stored state
    next_node: int
    used: list[int]
    overflowing: int  # rows tagged OVERFLOW
    nodes: bytes  # ids, u32, in the order of fences
    rows: bytes  # rows per node, u32
    fences: list[bytes]


class NodeRecord(msgspec.Struct, array_like=True, gc=False):
    """A run of buckets. `counts` is the columns' counts (see `Counts`) end to end, `sizes` their lengths."""

    fences: list[bytes]
    columns: bytes  # u16, ascending
    sizes: bytes
    counts: bytes


encode = msgspec.msgpack.Encoder().encode
decode_root = msgspec.msgpack.Decoder(Root).decode
decode_node = msgspec.msgpack.Decoder(NodeRecord).decode
_decode_values = msgspec.msgpack.Decoder(tuple[bytes | None, ...]).decode


def empty_root(filter_count: int) -> Root:
    return Root(FORMAT, b"", 0, [0] * 2**filter_count, 0, b"", b"", [])


def require_format(root: Root, filter_count: int) -> None:
    """Refuse a directory made by another version, or for another view."""
    if root.format != FORMAT or len(root.used) != 2**filter_count:
        filters = len(root.used).bit_length() - 1
        raise IndexDiffers(f"format {root.format} for {filters} filters, not {FORMAT} for {filter_count}")


def node_key(node: int) -> bytes:
    return b"n" + node.to_bytes(4, "big")


def column_key(column: int) -> bytes:
    return b"c" + column.to_bytes(2, "big")


def tag_key(tag: bytes) -> bytes:
    return b"t" + tag


def combination_key(values: tuple[bytes | None, ...]) -> bytes:
    return _named(b"v", encode(values))


def subset_key(subset: int, values: tuple[bytes | None, ...]) -> bytes:
    """The key under which the directory knows the column of these values; its value is column ++ tags."""
    return _named(subset_prefix(subset), encode(chosen(subset, values)))


def subset_prefix(subset: int) -> bytes:
    """What the keys of a subset's records begin with."""
    return bytes((ord("s"), subset))


def _named(prefix: bytes, packed: bytes) -> bytes:
    """Values are of any length, keys are not: long ones go by their digest (no msgpack array begins with 0xff)."""
    if len(packed) > KEY_BYTES_MAX:
        packed = b"\xff" + blake2b(packed, digest_size=32).digest()
    return prefix + packed


def chosen(subset: int, values: tuple[bytes | None, ...]) -> tuple[bytes | None, ...]:
    """The values of a subset of the filters; bit i of `subset` is filter i."""
    return tuple([value for i, value in enumerate(values) if subset >> i & 1])


def subsets(values: tuple[bytes | None, ...]) -> Iterator[int]:
    """Every subset of the filters, but the empty one, in which these values have no NULL."""
    present = sum(1 << i for i, value in enumerate(values) if value is not None)
    return (subset for subset in range(1, 2 ** len(values)) if subset & present == subset)


def asked(where: Where) -> int:
    """The subset of the filters that a question names."""
    return sum(1 << i for i, value in enumerate(where) if value is not None)


def tags_of(record: bytes) -> list[bytes]:
    """The tags in a subset's record, which begins with its column."""
    return [record[i : i + TAG_BYTES] for i in range(2, len(record), TAG_BYTES)]


def own_column(subset: int, ordinal: int) -> int:
    """The column of the `ordinal`-th values (from 0) met of a subset."""
    return 1 + (subset - 1) * COMBINATIONS_MAX + ordinal


def shared_column(subset: int, values: tuple[bytes | None, ...]) -> int:
    """The column of values past the limit."""
    share = zlib.crc32(encode(chosen(subset, values))) % SHARED_COLUMNS
    return _SHARED_BASE + (subset - 1) * SHARED_COLUMNS + share


def carried(values: tuple[bytes | None, ...]) -> bytes:
    """What stands before the list row of a row that carries its filter values itself."""
    packed = encode(values)
    return OVERFLOW + len(packed).to_bytes(_LENGTH_BYTES, "big") + packed


def carried_values(value: bytes) -> tuple[bytes | None, ...]:
    start = TAG_BYTES + _LENGTH_BYTES
    return _decode_values(value[start : start + int.from_bytes(value[TAG_BYTES:start], "big")])


def row_of(value: bytes) -> bytes:
    """The list row in a stored value."""
    if not value.startswith(OVERFLOW):
        return value[TAG_BYTES:]
    start = TAG_BYTES + _LENGTH_BYTES
    return value[start + int.from_bytes(value[TAG_BYTES:start], "big") :]


def decode_values(packed: bytes) -> tuple[bytes | None, ...]:
    """The filter values of a tag's record."""
    return _decode_values(packed)


def separator(left: bytes, right: bytes) -> bytes:
    """The shortest string above `left` and not above `right`, for left < right."""
    for i, byte in enumerate(left):
        if byte != right[i]:
            return right[: i + 1]
    return right[: len(left) + 1]
