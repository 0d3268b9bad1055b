"""A view definition read from TOML (DESIGN section 4): every mistake names the file and line.

The hash covers the parsed definition, so comments and spacing may change and meaning may not.
"""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from .errors import ConfigurationError
from .types import TypeRefused, parse_type
from .view import FILTERS_MAX, Column, ColumnType, Filter, Kind, Privacy, Status, Table, View

ORDERED_KINDS = frozenset({Kind.INT, Kind.DATE, Kind.TIME, Kind.TIMESTAMP, Kind.TIMESTAMPTZ})
KEY_KINDS = frozenset({Kind.UUID, Kind.TEXT, Kind.INT})
FILTER_KINDS = frozenset({Kind.TEXT, Kind.ENUM, Kind.BOOL, Kind.INT, Kind.UUID, Kind.DATE})
"""Kinds whose values a request can name in one way each; a uuid's letters are taken in any case."""

BOOL_LABELS = ("true", "false")

LIST_PARAMETERS = frozenset({"cursor", "order", "page", "size"})
"""What a list is asked with beside its filters, so no name for one of these."""

EXPORT_MEMBERS = frozenset({"cursor", "end"})
"""What begins an export's lines that are no row. Only by the id a row with such a member is told from them."""


class _RawColumn(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    type: str
    labels: list[str] | None = None
    privacy: Privacy = Privacy.OPEN


class _RawTable(msgspec.Struct, forbid_unknown_fields=True):
    table: str
    key: str
    columns: dict[str, Any]
    members: list[str] | None = None
    owner: str = ""
    name: str = ""
    order: str = ""


class _RawStatus(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    child: str
    column: str
    none: str


class _RawList(msgspec.Struct, forbid_unknown_fields=True):
    order: str
    fields: list[str]
    filters: list[str] = []


class _RawView(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    root: Any
    listed: Any = msgspec.field(name="list")
    children: list[Any] = []
    status: Any = None


_Place = tuple[str | int, ...]
_T = TypeVar("_T")


class _Source:
    """The text being read: turns a place in the document into `file:line`."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self._lines = dict(_line_numbers(text))

    def fail(self, at: _Place, problem: str) -> NoReturn:
        place = at
        while place and place not in self._lines:
            place = place[:-1]
        raise ConfigurationError(
            f"view definition {self.name}, line {self._lines.get(place, 1)}: {problem}",
            "mend the definition",
        )

    def convert(self, value: object, into: type[_T], at: _Place) -> _T:
        try:
            return msgspec.convert(value, into)
        except msgspec.ValidationError as error:
            named = re.search(r"`([^`$]+)`", str(error))
            self.fail((*at, named[1]) if named else at, str(error))


def _line_numbers(text: str) -> Iterator[tuple[_Place, int]]:
    """Where each table header and key of a TOML document stands; `[[x]]` counts its entries from 0."""
    table: _Place = ()
    entries: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[(\[?)\s*([\w.]+)\s*\]", line):
            head, *rest = header[2].split(".")
            if header[1]:
                entries[head] = entries.get(head, -1) + 1
            table = (head, *([entries[head]] if head in entries else []), *rest)
            yield table, number
        elif key := re.match(r"\s*([\w.-]+)\s*=", line):
            yield (*table, *key[1].split(".")), number


def load_view(path: Path) -> View:
    """The view definition in a TOML file.

    Raises:
        ConfigurationError: it cannot be read, or is wrong; names the file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"view definition {path} cannot be read: {error}", "set `[view] file`") from None
    return parse_view(text, str(path))


def default_view() -> View:
    """The packaged view: users with KYC records and accounts."""
    return parse_view((files("kycache.model") / "kyc.toml").read_text(encoding="utf-8"), "kyc.toml")


def parse_view(text: str, name: str) -> View:
    """The view definition in `text`; `name` stands for it in errors.

    Raises:
        ConfigurationError: it is wrong; names the line.
    """
    source = _Source(text, name)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"view definition {name}: {error}", "mend the definition") from None
    raw = source.convert(document, _RawView, ())
    root = _root(source, source.convert(raw.root, _RawTable, ("root",)))
    children = tuple(
        _child(source, source.convert(child, _RawTable, ("children", i)), i, root)
        for i, child in enumerate(raw.children)
    )
    _distinct(source, ("children",), "table", [t.name for t in (root, *children)])
    _distinct(source, ("children",), "name", [t.output for t in children])
    status = None
    if raw.status is not None:
        status = _status(source, source.convert(raw.status, _RawStatus, ("status",)), children)
    listed = source.convert(raw.listed, _RawList, ("list",))
    members = _members(source, document["root"].get("members"), root, children, status)
    view = View(
        name=raw.name,
        root=root,
        children=children,
        status=status,
        members=members,
        list_order=_list_order(source, listed.order, root),
        list_fields=_list_fields(source, listed.fields, root, status),
        filters=_filters(source, listed.filters, root, status),
    )
    digest = hashlib.sha256(msgspec.json.encode(_hashed(msgspec.to_builtins(view)), order="deterministic"))
    object.__setattr__(view, "hash", digest.hexdigest()[:16])
    return view


_LATER = {"as_text": False}
"""Members that the parsed form got later, with what they are where nothing is said: views of before keep their
hash, and so their data directories and snapshots."""


def _hashed(parsed: Any) -> Any:
    """The parsed form as it is hashed."""
    match parsed:
        case dict():
            return {k: _hashed(v) for k, v in parsed.items() if k not in _LATER or v != _LATER[k]}
        case list() | tuple():
            return [_hashed(v) for v in parsed]
        case _:
            return parsed


def _type(source: _Source, at: _Place, raw: _RawColumn) -> ColumnType:
    try:
        return parse_type(raw.type, raw.labels)
    except TypeRefused as error:
        source.fail(at, str(error))


def _columns(source: _Source, raw: _RawTable, at: _Place) -> tuple[tuple[Column, ...], tuple[str, ...]]:
    stored, secret = [], []
    outputs: list[tuple[str, ...]] = []
    for name, value in raw.columns.items():
        place = (*at, "columns", name)
        column = source.convert(value, _RawColumn, place)
        output = tuple(column.name.split("."))
        if not all(output):
            source.fail(place, f"column {name!r} has no output name")
        if any(output[: len(o)] == o or o[: len(output)] == output for o in outputs):
            source.fail(place, f"output name {column.name!r} is taken")
        outputs.append(output)
        made = Column(name, output, _type(source, place, column), column.privacy)
        if column.privacy is Privacy.SECRET:
            secret.append(name)
        else:
            stored.append(made)
    if raw.key not in {c.name for c in stored}:
        source.fail((*at, "key"), f"key {raw.key!r} is not a stored column of table {raw.table!r}")
    key = next(c for c in stored if c.name == raw.key)
    if key.type.kind not in KEY_KINDS:
        source.fail((*at, "columns", raw.key), f"a key is one of {', '.join(sorted(KEY_KINDS))}")
    return tuple(stored), tuple(secret)


def _root(source: _Source, raw: _RawTable) -> Table:
    columns, secret = _columns(source, raw, ("root",))
    if raw.owner or raw.name or raw.order:
        source.fail(("root",), "the root has no owner, name or order")
    return Table(raw.table, raw.key, columns, secret, owner=raw.key)


def _child(source: _Source, raw: _RawTable, index: int, root: Table) -> Table:
    at = ("children", index)
    columns, secret = _columns(source, raw, at)
    if raw.members is not None:
        source.fail(at, "only the root has members")
    if not raw.owner or not raw.name:
        source.fail(at, f"child table {raw.table!r} needs `owner` (its foreign key) and `name`")
    owner = next((c for c in columns if c.name == raw.owner), None)
    if owner is not None and not _names_users(owner.type.kind, root.key_type.kind):
        source.fail(
            (*at, "columns", raw.owner),
            f"owner {raw.owner!r} is declared {owner.type}, the users' key {root.key!r} {root.key_type}: both "
            "need one type, here and at the source, or nobody can say whose a row is",
        )
    order, _, direction = raw.order.partition(" ")
    if direction not in ("", "asc", "desc"):
        source.fail((*at, "order"), f"order {raw.order!r} is not `column asc` or `column desc`")
    ordered = {c.name for c in columns if c.type.kind in ORDERED_KINDS}
    if order and order not in ordered:
        source.fail((*at, "order"), f"order column {order!r} is not a stored int, date or time")
    return Table(raw.table, raw.key, columns, secret, raw.owner, raw.name, order, descending=direction == "desc")


def _names_users(owner: Kind, key: Kind) -> bool:
    """Values of both kinds may print alike in the one form that ids have. A uuid may stand in a text."""
    return owner is key or (Kind.INT not in (owner, key) and owner in (Kind.UUID, Kind.TEXT, Kind.ENUM))


def _status(source: _Source, raw: _RawStatus, children: tuple[Table, ...]) -> Status:
    at = ("status",)
    index = next((i for i, c in enumerate(children) if c.output == raw.child), None)
    if index is None:
        source.fail((*at, "child"), f"{raw.child!r} is not the name of a child")
    column = next((c for c in children[index].columns if c.name == raw.column), None)
    if column is None or column.type.kind is not Kind.ENUM:
        source.fail((*at, "column"), f"{raw.column!r} is not a stored enum column of {raw.child!r}")
    if raw.none in column.type.labels:
        source.fail((*at, "none"), f"{raw.none!r} is one of the enum's own labels")
    return Status(raw.name, index, raw.column, raw.none, (*column.type.labels, raw.none))


def _members(
    source: _Source,
    given: list[str] | None,
    root: Table,
    children: tuple[Table, ...],
    status: Status | None,
) -> tuple[str, ...]:
    there = list(dict.fromkeys(c.output[0] for c in root.columns))
    there += [status.output] if status else []
    there += [c.output for c in children]
    _distinct(source, ("root", "columns"), "member", there)
    if given is not None and sorted(given) != sorted(there):
        source.fail(("root", "members"), f"members must name each of {', '.join(there)} once")
    return tuple(there if given is None else given)


def _list_order(source: _Source, order: str, root: Table) -> str:
    if order not in {c.name for c in root.columns if c.type.kind in ORDERED_KINDS}:
        source.fail(("list", "order"), f"{order!r} is not a stored int, date or time column of the root")
    return order


def _list_fields(source: _Source, fields: list[str], root: Table, status: Status | None) -> tuple[str, ...]:
    there = {".".join(c.output) for c in root.columns} | ({status.output} if status else set())
    for name in fields:
        if name not in there or "." in name:
            source.fail(("list", "fields"), f"{name!r} is not a plain member of the root")
    _distinct(source, ("list", "fields"), "field", fields)
    key = ".".join(root.columns[root.index_of(root.key)].output)
    taken = next((name for name in fields if name in EXPORT_MEMBERS), None)
    if taken is not None and key not in fields:
        source.fail(
            ("list", "fields"), f"an export has lines with {taken!r} of its own: rows need {key!r} beside it"
        )
    return tuple(fields)


def _filters(source: _Source, names: list[str], root: Table, status: Status | None) -> tuple[Filter, ...]:
    if len(names) > FILTERS_MAX:
        source.fail(("list", "filters"), f"at most {FILTERS_MAX} filters")
    _distinct(source, ("list", "filters"), "filter", names)
    made = []
    for name in names:
        if name in LIST_PARAMETERS:
            source.fail(
                ("list", "filters"), f"{name!r} is a parameter of every list: give the column another name"
            )
        column = next((c for c in root.columns if c.output == (name,)), None)
        if status and name == status.output:
            made.append(Filter(name, None, status.labels))
        elif column is not None and column.type.kind in FILTER_KINDS:
            labels = BOOL_LABELS if column.type.kind is Kind.BOOL else column.type.labels
            made.append(Filter(name, column.name, labels))
        else:
            source.fail(
                ("list", "filters"),
                f"{name!r} is not the status nor a text, enum, bool, int, uuid or date of the root",
            )
    return tuple(made)


def _distinct(source: _Source, at: _Place, what: str, names: list[str]) -> None:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        source.fail(at, f"{what} {twice!r} stands twice")
