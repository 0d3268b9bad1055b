"""What SQL says the two reads must answer for any view definition, and the comparison over HTTP.

Held out: of kycache it takes only the names that the definition declares. Values are PostgreSQL's own text, the
order is PostgreSQL's own. `printed` is the one place that says how a type stands in an answer.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
from psycopg import sql

from kycache.model.view import Column, Filter, Kind, Table, View

SIZES = (1, 3, 500)
"""Of pages: single rows, an odd part of the list, and all at once."""

Document = dict[str, Any]


def printed(column: Column, text: str | None) -> Any:
    """A value as it stands in the answer.

    Args:
        column: whose value it is.
        text: as PostgreSQL prints it, with `timezone` UTC; None: NULL.
    """
    if text is None:
        return None
    match column.type.kind:
        case Kind.BOOL:
            return text == "t"
        case Kind.INT:
            return text if column.type.as_text else int(text)
        case Kind.JSON:
            return json.loads(text)
        case Kind.TIMESTAMP:
            return text.replace(" ", "T", 1)
        case Kind.TIMESTAMPTZ:
            return text.replace(" ", "T", 1).replace("+00", "Z")
        case _:
            return text


@dataclass(frozen=True)
class ViewTruth:
    """Everything that the source holds of a view at one moment."""

    view: View
    lsn: str
    """A token for all of it: the `Kycache-Min-LSN` of reads to compare."""
    profiles: dict[str, Document]
    """By user id, in the list's order `newest`."""
    filtered: dict[str, dict[str, str]]
    """By user id: the values of its filters, as a request names them; NULLs are left out."""

    @classmethod
    def read(cls, dsn: str, view: View, schema: str = "public") -> "ViewTruth":
        """Read it in one transaction."""
        with psycopg.connect(
            dsn, options="-c timezone=UTC -c default_transaction_isolation=repeatable\\ read"
        ) as db:
            key = sql.Identifier(view.root.key)
            if view.root.key_type.kind is Kind.TEXT:
                key = sql.SQL('{} COLLATE "C"').format(key)  # type: ignore[assignment]
            newest = sql.SQL("{} DESC, {} DESC").format(sql.Identifier(view.list_order), key)
            roots = list(_rows(db, view.root, schema, newest))
            children = [list(_rows(db, child, schema, _child_order(child))) for child in view.children]
            row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        profiles: dict[str, Document] = {}
        filtered: dict[str, dict[str, str]] = {}
        for user, texts in roots:
            profiles[user] = _document(view.root, texts)
            for child, rows in zip(view.children, children, strict=True):
                profiles[user][child.output] = [_document(child, own) for owner, own in rows if owner == user]
            if view.status is not None:
                status = view.status
                first = next((own for owner, own in children[status.child] if owner == user), None)
                text = None if first is None else first[view.children[status.child].index_of(status.column)]
                profiles[user][status.output] = status.none if text is None else text
            filtered[user] = {
                f.name: value
                for f in view.filters
                if (value := _asked(view, f, texts, profiles[user])) is not None
            }
        return cls(view, str(row[0]), profiles, filtered)

    def listed(self, user: str) -> Document:
        """The user's row of the list."""
        return {name: self.profiles[user][name] for name in self.view.list_fields}

    def lists(self) -> Iterator[tuple[dict[str, str], list[Document]]]:
        """Every list: the parameters that ask for it, and its rows. Both orders, each filter value."""
        asked: list[dict[str, str]] = [{}]
        for each in self.view.filters:
            there = {values[each.name] for values in self.filtered.values() if each.name in values}
            asked += [{each.name: value} for value in sorted(there | set(each.labels))]
        for given in asked:
            users = [u for u, values in self.filtered.items() if given.items() <= values.items()]
            yield {**given, "order": "newest"}, [self.listed(u) for u in users]
            yield {**given, "order": "oldest"}, [self.listed(u) for u in reversed(users)]

    def differences(self, client: httpx.Client) -> Iterator[str]:
        """Where the profiles and the pages over HTTP are not what SQL says. The view must have reached `lsn`."""
        for user, profile in self.profiles.items():
            answer = client.get(f"/users/{quote(user, safe='')}", headers={"Kycache-Min-LSN": self.lsn})
            if answer.status_code != 200 or answer.json() != profile or "Kycache-Suspect" in answer.headers:
                yield f"profile {user}: {answer.status_code} {answer.text} {answer.headers}, in SQL {profile}"
        for asked, rows in self.lists():
            for size in SIZES:
                yield from self._pages(client, {**asked, "size": str(size)}, rows, size)

    def _pages(
        self, client: httpx.Client, asked: dict[str, str], rows: Sequence[Document], size: int
    ) -> Iterator[str]:
        walked, cursor = [], ""
        for number in range(1, len(rows) // size + 2):
            demand = {"Kycache-Min-LSN": self.lsn}
            answer = client.get("/users", params={**asked, "page": str(number)}, headers=demand)
            wanted = {"data": list(rows[(number - 1) * size : number * size]), "total": len(rows)}
            page = answer.json()
            if answer.status_code != 200 or {"data": page["data"], "total": page["page"]["total"]} != wanted:
                yield f"page {number} of {asked}: {answer.status_code} {answer.text}, in SQL {wanted}"
                return
            following = client.get("/users", params={"cursor": cursor} if cursor else asked, headers=demand).json()
            walked += following["data"]
            cursor = following["page"]["next"]
            if not cursor:
                break
        if walked != list(rows):
            yield f"walk of {asked}: {walked}, in SQL {rows}"


def _rows(
    db: "psycopg.Connection[Any]", table: Table, schema: str, order: sql.Composable
) -> Iterator[tuple[str, list[str | None]]]:
    """Each row's owner and its declared columns, as PostgreSQL's own output functions print them."""
    names = [table.owner, *(column.name for column in table.columns)]
    query = sql.SQL("SELECT {} FROM {} ORDER BY {}").format(
        sql.SQL(", ").join(map(sql.Identifier, names)), sql.Identifier(schema, table.name), order
    )
    result = db.execute(query).pgresult
    assert result is not None
    for n in range(result.ntuples):
        texts = [None if (v := result.get_value(n, c)) is None else v.decode() for c in range(len(names))]
        if texts[0] is not None:
            yield texts[0], texts[1:]


def _child_order(child: Table) -> sql.Composable:
    key: sql.Composable = sql.Identifier(child.key)
    if child.key_type.kind is Kind.TEXT:
        key = sql.SQL('{} COLLATE "C"').format(key)
    direction = sql.SQL("DESC" if child.descending else "ASC")
    if not child.order:
        return sql.SQL("{} {}").format(key, direction)
    ordered = sql.Identifier(child.order)
    return sql.SQL("{} {} NULLS LAST, {} {}").format(ordered, direction, key, direction)


def _document(table: Table, texts: Sequence[str | None]) -> Document:
    document: Document = {}
    for column, text in zip(table.columns, texts, strict=True):
        place = document
        for name in column.output[:-1]:
            place = place.setdefault(name, {})
        place[column.output[-1]] = printed(column, text)
    return document


def _asked(view: View, each: Filter, texts: Sequence[str | None], profile: Document) -> str | None:
    if each.column is None:
        return str(profile[each.name])
    text = texts[view.root.index_of(each.column)]
    if text is not None and view.root.columns[view.root.index_of(each.column)].type.kind is Kind.BOOL:
        return "true" if text == "t" else "false"
    return text
