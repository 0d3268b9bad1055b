"""Debezium's records of a busy source, for the benches: a whole snapshot, then changes of all three tables.

Not a model of Postgres (tests/support/pipeline/fake_source.py is one): every event is true to the rows before
it, transactions do not interleave. 20 % of the users draw 80 % of the changes. Everything follows from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, NamedTuple

import msgspec

from kycache.demo.population.people import ACCOUNT_COLUMNS, KYC_COLUMNS, USER_COLUMNS, people
from kycache.model.connector import beat_keys
from kycache.model.partition import partition_of

SEED = 20_261_125
HOT_USERS = 0.2
HOT_CHANGES = 0.8
CLOCK_MS = 1_795_000_000_000
STATUSES = ("PENDING", "VERIFIED", "REJECTED", "EXPIRED")

MIX = {"account": 0.40, "kyc": 0.20, "user": 0.22, "open": 0.10, "close": 0.06, "join": 0.01, "leave": 0.01}
"""Shares of the kinds of change: balances move most, people come and go least."""

EPOCH = datetime(1970, 1, 1)
Row = dict[str, Any]

_encode = msgspec.json.Encoder().encode


class Sent(NamedTuple):
    """One record, as a producer would send it."""

    partition: int
    key: bytes
    value: bytes | None


class Traffic:
    """The rows that are, and the records that made them."""

    def __init__(self, users: int, partitions: int, seed: int = SEED) -> None:
        self.partitions = partitions
        self.random = random.Random(seed)
        self.rows: dict[str, list[Row]] = {}
        """user id -> its rows: the user first, each with its table under `_`."""
        self._people = people(2 * users, seed)
        self._order: list[str] = []
        self._partition_of: dict[str, int] = {}
        self._beats = beat_keys(partitions)
        self._lsn = 0x1_6B37_4D00
        self._commit: int | None = None
        self._clock_ms = CLOCK_MS
        self._tx = 1_000
        for _ in range(users):
            self._join()

    def snapshot(self) -> Iterator[Sent]:
        """Every row, as a whole snapshot sends it, and the heartbeat rows."""
        source = self._source("true")
        for rows in self.rows.values():
            for row in rows:
                yield self._sent(source, "r", None, row)
        for partition, key in enumerate(self._beats):
            yield self._sent(source, "r", None, _beat(partition, key))

    def changes(self, count: int) -> Iterator[Sent]:
        """At least so many records, whole transactions of one to a handful each."""
        kinds, weights = list(MIX), list(MIX.values())
        sent = 0
        while sent < count:
            for record in self._change(self.random.choices(kinds, weights)[0]):
                sent += 1
                yield record

    def beat(self) -> Iterator[Sent]:
        """One heartbeat row per partition."""
        source = self._begin()
        for partition, key in enumerate(self._beats):
            beat = _beat(partition, key)
            yield self._sent(source, "u", beat, beat)

    def _change(self, kind: str) -> list[Sent]:
        source = self._begin()
        if kind == "join":
            return [self._sent(source, "c", None, row) for row in self.rows[self._join()]]
        user = self._pick()
        rows = self.rows[user]
        if kind == "leave":
            self.rows.pop(user)
            return [r for row in rows for r in (self._sent(source, "d", row, None), self._tombstone(row))]
        if kind == "user":
            number = f"+44{self.random.randrange(10**9):09d}"
            return [self._update(source, rows, 0, {"phone": number, "updated_at": _iso(self._clock_ms)})]
        tables = ("accounts", "kyc_records") if kind in ("open", "close") else (f"{kind}s", f"{kind}_records")
        places = [n for n, row in enumerate(rows) if row["_"] in tables]
        if kind == "open" or not places:
            row = {**self._sample(self.random.choice(("accounts", "kyc_records"))), "user_id": user}
            rows.append(row)
            return [self._sent(source, "c", None, row)]
        at = self.random.choice(places)
        if kind == "close":
            row = rows.pop(at)
            return [self._sent(source, "d", row, None), self._tombstone(row)]
        if kind == "account":
            return [self._update(source, rows, at, {"balance": f"{self.random.randrange(10**9) / 10_000:.4f}"})]
        status = {"status": self.random.choice(STATUSES), "updated_at": self._clock_ms * 1000}
        return [self._update(source, rows, at, status)]

    def _pick(self) -> str:
        while True:
            hot = int(len(self._order) * HOT_USERS)
            in_hot = self.random.random() < HOT_CHANGES
            at = self.random.randrange(hot) if in_hot and hot else self.random.randrange(len(self._order))
            if self._order[at] in self.rows:
                return self._order[at]

    def _join(self) -> str:
        person = next(self._people)
        user = str(person.user[0])
        rows = [_row("users", USER_COLUMNS, person.user)]
        rows += [_row("kyc_records", KYC_COLUMNS, row) for row in person.kyc]
        rows += [_row("accounts", ACCOUNT_COLUMNS, row) for row in person.accounts]
        self.rows[user] = rows
        self._order.append(user)
        return user

    def _sample(self, table: str) -> Row:
        """A child row of somebody not in the view, under another primary key."""
        key = "account_id" if table == "accounts" else "kyc_id"
        while True:
            rows = [row for row in self.rows[self._pick()] if row["_"] == table]
            if rows:
                h = f"{self.random.getrandbits(128):032x}"
                return {**rows[0], key: f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"}

    def _update(self, source: Row, rows: list[Row], at: int, change: Row) -> Sent:
        before = rows[at]
        rows[at] = {**before, **change}
        return self._sent(source, "u", before, rows[at])

    def _begin(self) -> Row:
        self._tx += 1
        self._clock_ms += 1
        self._commit = self._lsn
        return self._source("false")

    def _source(self, snapshot: str) -> Row:
        return {"snapshot": snapshot, "txId": self._tx, "ts_ms": self._clock_ms}

    def _sent(self, source: Row, op: str, before: Row | None, after: Row | None) -> Sent:
        if op != "r":
            self._lsn += 120
        row = after if after is not None else before
        assert row is not None
        commit = "null" if op == "r" or self._commit is None else f'"{self._commit}"'
        event = {
            "before": _image(before),
            "after": _image(after),
            "source": {
                "version": "3.6.3.Final",
                "connector": "postgresql",
                "name": "kyc",
                "ts_ms": source["ts_ms"],
                "snapshot": source["snapshot"],
                "db": "kyc",
                "sequence": f'[{commit},"{self._lsn}"]',
                "ts_us": source["ts_ms"] * 1000,
                "ts_ns": source["ts_ms"] * 1_000_000,
                "schema": "public",
                "table": row["_"],
                "txId": source["txId"],
                "lsn": self._lsn,
                "xmin": None,
                "origin": None,
                "origin_lsn": None,
            },
            "transaction": None,
            "op": op,
            "ts_ms": source["ts_ms"] + 40,
            "ts_us": source["ts_ms"] * 1000 + 40_125,
            "ts_ns": source["ts_ms"] * 1_000_000 + 40_125_000,
        }
        return self._record(row, _encode(event))

    def _tombstone(self, row: Row) -> Sent:
        return self._record(row, None)

    def _record(self, row: Row, value: bytes | None) -> Sent:
        key = row["user_id"]
        partition = self._partition_of.get(key)
        if partition is None:
            partition = self._partition_of[key] = partition_of(key.encode(), self.partitions)
        return Sent(partition, key.encode(), value)


def _beat(partition: int, key: str) -> Row:
    return {"_": "kycache_heartbeat", "user_id": key, "shard": partition, "beat_at": None, "truncated": None}


def _image(row: Row | None) -> Row | None:
    return None if row is None else {name: value for name, value in row.items() if name != "_"}


def _row(table: str, columns: str, values: tuple[Any, ...]) -> Row:
    return {"_": table, **dict(zip(columns.split(", "), map(as_debezium, values), strict=True))}


def as_debezium(value: Any) -> Any:
    """A value as Debezium's JSON has it: microseconds, days, decimal strings."""
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            return value.isoformat().replace("+00:00", "Z")
        return int((value - EPOCH).total_seconds()) * 1_000_000 + value.microsecond
    if isinstance(value, date):
        return (value - EPOCH.date()).days
    return value if value is None or isinstance(value, (int, bool)) else str(value)


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000).isoformat() + "Z"
