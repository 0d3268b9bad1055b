"""A full recount of a shard's order index: the directory of counts is derived, and must say what the rows say."""

from array import array

from . import layout as order
from .layout import ALL, BUCKET_ROWS_MAX, OVERFLOW, IndexDiffers
from .nodes import column_counts, column_record, dense, parse_u32
from .views import OrderSnapshot


def check(shard: OrderSnapshot) -> None:
    """Count every row anew and compare with the whole directory, which is held in memory meanwhile.

    Raises:
        IndexDiffers: with the first difference found.
    """
    _Recount(shard).run()


class _Recount:
    def __init__(self, snapshot: OrderSnapshot) -> None:
        shard = snapshot.shard
        self._root = shard.root
        self._numbers = shard.nodes.tolist()
        self._stored, self._rows = shard.everything()
        self._ahead = next(self._rows, None)
        self._of_tag: dict[bytes, tuple[int, ...]] = {}
        self._per_node: dict[int, dict[int, int]] = {ALL: {}}
        self._overflowing = 0

    def run(self) -> None:
        root, numbers = self._root, self._numbers
        self._stored.pop(order.ROOT_KEY, None)
        self._combinations()
        ends: list[bytes | None] = [*root.fences[1:], None]
        for number, fence, end in zip(numbers, root.fences, ends, strict=False):
            self._node(number, fence, end)
        _require(self._ahead is None, "there are rows, and no node to count them")
        held = self._per_node.pop(ALL)
        _require(parse_u32(root.rows) == [held.get(number, 0) for number in numbers], "rows per node")
        _require(root.overflowing == self._overflowing, f"{self._overflowing} rows carry their values")
        for column, counts in self._per_node.items():
            nodes = [number for number in numbers if number in counts]
            record = column_record(nodes, [counts[number] for number in nodes])
            self._take(order.column_key(column), record, f"rows per node of column {column}")
        _require(not self._stored, f"{len(self._stored)} records belong to nothing")
        _require(bool(held) or not numbers, "an emptied index is not empty")

    def _take(self, key: bytes, expected: bytes, what: str) -> None:
        _require(self._stored.pop(key, None) == expected, what)

    def _combinations(self) -> None:
        """Every tag's values lead back to it, and each of their subsets to one column of its own."""
        used = self._root.used
        tagged: dict[bytes, list[bytes]] = {}  # per subset's record
        values_of: dict[bytes, tuple[bytes | None, ...]] = {}
        for ordinal in range(1, used[0] + 1):
            tag = ordinal.to_bytes(order.TAG_BYTES, "big")
            packed = self._stored.pop(order.tag_key(tag), None)
            if packed is None:
                continue  # taken back
            values = values_of[tag] = order.decode_values(packed)
            self._take(order.combination_key(values), tag, f"the values of tag {ordinal}")
            for subset in order.subsets(values):
                tagged.setdefault(order.subset_key(subset, values), []).append(tag)
        self._subsets = {key: self._stored.pop(key) for key in list(self._stored) if key.startswith(b"s")}
        taken: set[int] = set()
        for key, record in self._subsets.items():
            subset, column = key[1], int.from_bytes(record[:2], "big")
            ordinal = column - order.own_column(subset, 0)
            _require(0 <= ordinal < used[subset] and column not in taken, f"column {column} of subset {subset}")
            taken.add(column)
            tags = sorted(order.tags_of(record))
            _require(tags == tagged.pop(key, []), f"column {column} has other tags than its values")
        _require(not tagged, "a tag's values have no column")
        self._of_tag = {tag: self._columns(values) for tag, values in values_of.items()}

    def _columns(self, values: tuple[bytes | None, ...]) -> tuple[int, ...]:
        columns = [ALL]
        for subset in order.subsets(values):
            record = self._subsets.get(order.subset_key(subset, values))
            own = None if record is None else int.from_bytes(record[:2], "big")
            columns.append(own if own is not None else order.shared_column(subset, values))
        return tuple(columns)

    def _node(self, number: int, fence: bytes, end: bytes | None) -> None:
        raw = self._stored.pop(order.node_key(number), None)
        _require(raw is not None, f"node {number} is missing")
        record = order.decode_node(raw or b"")
        _require(record.fences[0] == fence, f"the first fence of node {number}")
        counted: dict[int, bytearray] = {}
        for bucket, high in enumerate([*record.fences[1:], end]):
            _require(high is None or record.fences[bucket] < high, f"fences of bucket {bucket}, node {number}")
            rows = 0
            while self._ahead is not None and (high is None or self._ahead[0] < high):
                for column in self._row(self._ahead[1]):
                    counted.setdefault(column, bytearray(len(record.fences)))[bucket] += 1
                self._ahead = next(self._rows, None)
                rows += 1
                _require(rows <= BUCKET_ROWS_MAX, f"too many rows in bucket {bucket} of node {number}")
        _require(array("H", record.columns).tolist() == sorted(counted), f"the columns of node {number}")
        for column, counts in counted.items():
            held = dense(column_counts(record, column), len(record.fences))
            _require(held == counts, f"column {column} of node {number}")
            self._per_node.setdefault(column, {})[number] = sum(counts)

    def _row(self, value: bytes) -> tuple[int, ...]:
        tag = value[: order.TAG_BYTES]
        if tag == OVERFLOW:
            self._overflowing += 1
            return self._columns(order.carried_values(value))
        columns = self._of_tag.get(tag)
        _require(columns is not None, f"a row has the tag {tag.hex()}, which is not known")
        return columns or ()


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise IndexDiffers(f"recount differs: {what}")
