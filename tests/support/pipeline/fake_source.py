"""A tiny Postgres with Debezium behind it: random transactions in, the records of every partition out.

It is the oracle: `profile` and `listing` say what SQL would. Transactions interleave (their changes' LSNs mix,
their commits come in order), rows move between users, keys change, tables are truncated, snapshots are taken
again and the last changes are delivered twice. Everything follows from the `random.Random` it is given.

What it sends says beside its bytes what no consumer can know: where it stands in the source's history.
"""

import json
import random
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from kycache.ingest.decoding.decode import Record
from kycache.model.definition import default_view
from kycache.model.fingerprint import scope_of
from kycache.model.partition import partition_of

STATUSES = ("PENDING", "VERIFIED", "REJECTED", "EXPIRED")
REGIONS = ("EMEA", "APAC", "AMER", None)
TABLES = ("users", "kyc_records", "accounts")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
START_MS = 1_700_000_000_000
"""In 2023: whatever a history waits for, it is not ahead of the clock of whoever runs it."""

SCOPE = scope_of(default_view())

Row = dict[str, Any]


class Sent(NamedTuple):
    """One record as Debezium sends it, and what the source knows of it."""

    partition: int
    key: bytes | None
    value: bytes | None
    kind: str
    """`streamed`, or which snapshot's: `whole`, `partial`."""
    order: int
    """Its place in the history: of two images of a row, the one with the greater order is the later truth."""
    commit: int
    """The end of its transaction, as an LSN."""


def printed(micros: int | None, zone: str = "") -> str | None:
    """Microseconds as Postgres prints them, `T` for the blank."""
    if micros is None:
        return None
    at = EPOCH + timedelta(microseconds=micros)
    text = at.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return text + zone


class FakeSource:
    """The rows that are, and the log of changes that made them."""

    def __init__(self, rng: random.Random, partitions: int, *, trigger: bool = True) -> None:
        self.rng = rng
        self.partitions = partitions
        self.trigger = trigger
        self.users: dict[str, Row] = {}
        self.kyc_records: dict[str, Row] = {}
        self.accounts: dict[str, Row] = {}
        self.log: list[Sent] = []
        """In the order of Debezium's sending."""
        self.lost: list[Sent] = []
        """Streamed by nobody: a whole snapshot, which came later, holds the outcome."""
        self.crowd = True
        """Statements are about users old and new, not about the same few again and again."""
        self._order = 0
        self._lsn = 0x1000000
        self._last_commit: int | None = None
        self._clock_ms = START_MS
        self._tx = 700
        self._beats = self._beat_keys()
        self._catalog = 1
        self._told = 0
        """The catalog that the latest beat told of."""

    # What SQL would say.

    def profile(self, user_id: str) -> Row | None:
        """The detail of a user."""
        user = self.users.get(user_id)
        if user is None:
            return None
        kyc = [r for r in self.kyc_records.values() if r["user_id"] == user_id]
        kyc.sort(key=lambda r: (r["updated_at"] is not None, r["updated_at"] or 0, r["kyc_id"]), reverse=True)
        accounts = [r for r in self.accounts.values() if r["user_id"] == user_id]
        accounts.sort(key=lambda r: (r["opened_at"] is None, r["opened_at"] or 0, r["account_id"]))
        return {
            "userId": user_id,
            "firstName": user["first_name"],
            "lastName": user["last_name"],
            "email": user["email"],
            "phone": user["phone"],
            "dateOfBirth": None,
            "address": {
                "line1": None,
                "line2": None,
                "city": user["city"],
                "postalCode": None,
                "country": None,
            },
            "region": user["region"],
            "kycStatus": kyc[0]["status"] if kyc else "NONE",
            "kyc": [
                {
                    "kycId": r["kyc_id"],
                    "status": r["status"],
                    "verifiedAt": None,
                    "docType": r["doc_type"],
                    "docReference": None,
                    "updatedAt": printed(r["updated_at"]),
                }
                for r in kyc
            ],
            "accounts": [
                {
                    "accountId": r["account_id"],
                    "accountType": r["account_type"],
                    "accountNo": r["account_no"],
                    "balance": r["balance"],
                    "status": r["status"],
                    "openedAt": printed(r["opened_at"]),
                }
                for r in accounts
            ],
            "createdAt": printed(user["created_at"]),
            "updatedAt": None,
        }

    def listing(self) -> list[Row]:
        """Every user, `ORDER BY created_at DESC, user_id DESC`: NULL is the greatest."""
        rows = sorted(
            self.users.values(),
            key=lambda r: (r["created_at"] is None, r["created_at"] or 0, r["user_id"]),
            reverse=True,
        )
        return [
            {
                "userId": r["user_id"],
                "firstName": r["first_name"],
                "lastName": r["last_name"],
                "kycStatus": (self.profile(r["user_id"]) or {})["kycStatus"],
                "region": r["region"],
            }
            for r in rows
        ]

    # What happens.

    def transactions(self, count: int = 2) -> None:
        """So many concurrent transactions on different users: changes interleave, commits follow in some order."""
        ids = list(self.users)
        self.rng.shuffle(ids)
        pending: list[list[tuple[int, list[tuple[Any, ...]]]]] = []
        pending += [[] for _ in range(count)]
        mine = [ids[number::count] for number in range(count)]
        for _ in range(self.rng.randint(1, 5 * count)):
            number = self.rng.randrange(count)  # whichever goes on: their LSNs mix
            self._lsn += self.rng.randint(40, 400)
            pending[number].append((self._lsn, self._change(mine[number])))
        self.rng.shuffle(pending)
        for transaction in pending:
            self._commit([(lsn, *event) for lsn, events in transaction for event in events])

    def delete(self, user_id: str) -> None:
        """One user, and all that is theirs."""
        self._lsn += 50
        self._commit([(self._lsn, *event) for event in self._delete_user(user_id)])

    def beat(self) -> None:
        """Debezium's heartbeat query: one row per partition."""
        self._lsn += 50
        self._told = self._catalog
        self._commit([(self._lsn, "u", "kycache_heartbeat", k, None, self._beat_row(k)) for k in self._beats])

    def alter(self) -> None:
        """DDL on what the view reads: no event comes of it."""
        self._catalog += 1

    def truncate(self, table: str) -> None:
        """TRUNCATE of a table; its trigger touches every heartbeat row in the same transaction."""
        self._lsn += 50
        rows = getattr(self, table)
        rows.clear()
        if table == "users":  # CASCADE
            self.kyc_records.clear()
            self.accounts.clear()
        names = ["users", "kyc_records", "accounts"] if table == "users" else [table]
        events: list[tuple[Any, ...]] = [(self._lsn, "t", name, None, None, None) for name in names]
        if self.trigger:
            self._lsn += 10
            events += [
                (self._lsn, "u", "kycache_heartbeat", k, None, self._beat_row(k, ",".join(names)))
                for k in self._beats
            ]
        self._commit(events)

    def snapshot(self, *, lose: float = 0.0, cut: float | None = None) -> None:
        """A whole snapshot, as after a restart with `snapshot.mode=always`: rows only, no deletes.

        Args:
            lose: how likely a change committed just before comes only as its snapshot row.
            cut: what part of it comes before Debezium is interrupted; it must then take another.
        """
        if self.rng.random() < lose:
            sent = len(self.log)
            self.transactions()
            self.lost += self.log[sent:]
            del self.log[sent:]
        self._lsn += 1000
        self._last_commit = None
        self._clock_ms += 50
        self._order += 1
        source = self._source("true", f'[null,"{self._lsn}"]', self._lsn)
        rows = [(table, row) for table in TABLES for row in getattr(self, table).values()]
        # The snapshot reads the catalog itself.
        told = {"fingerprint": f"{SCOPE}{self._catalog}"}
        rows += [("kycache_heartbeat", self._beat_row(beat) | told) for beat in self._beats]
        for table, row in rows[: None if cut is None else int(cut * len(rows))]:
            self._send(row["user_id"], "r", {**source, "table": table}, None, row, kind="whole")

    def incremental(self, *, ahead: bool = False) -> None:
        """An incremental snapshot of some tables, or a blocking one: its rows stand at the signal's own change.

        Args:
            ahead: transactions commit before the rows are read, and are streamed after them (blocking ones).
        """
        self._lsn += 50
        commit = "null" if self._last_commit is None else f'"{self._last_commit}"'
        source = self._source(
            "true" if ahead and self._last_commit else "incremental", f'[{commit},"{self._lsn}"]', 0
        )
        del source["lsn"], source["txId"]
        self._lsn = self._last_commit = self._lsn + 100
        order, sent = self._order, len(self.log)
        if ahead:
            self.transactions()
        held = self.log[sent:]
        del self.log[sent:]
        for table in self.rng.sample(TABLES, self.rng.randint(1, len(TABLES))):
            for row in getattr(self, table).values():
                self._send(row["user_id"], "r", {**source, "table": table}, None, row, kind="partial", order=order)
        self.log += held

    def redeliverable(self, count: int, *, after: int = 0) -> list[Sent]:
        """What comes again when Debezium restarts from an older offset: its last `count` records, no snapshots.

        Args:
            after: none of the log's records before this one.
        """
        once = {id(sent): sent for sent in self.log[after:] if sent.kind == "streamed"}
        return list(once.values())[-count:]

    def wait(self, days: float) -> None:
        """Nothing happens for so long."""
        self._clock_ms += int(days * 24 * 3600 * 1000)

    def records(self, since: int = 0) -> list[list[Record]]:
        """The partitions' records."""
        partitions: list[list[Record]] = [[] for _ in range(self.partitions)]
        for sent in self.log:
            records = partitions[sent.partition]
            records.append(Record(len(records), self._clock_ms, sent.key, sent.value))
        return [records[since:] for records in partitions]

    def new_id(self) -> str:
        """A version 4 uuid from the seed."""
        h = f"{self.rng.getrandbits(128):032x}"
        return f"{h[:8]}-{h[8:12]}-4{h[13:16]}-a{h[17:20]}-{h[20:]}"

    # How.

    def _change(self, mine: list[str]) -> list[tuple[Any, ...]]:
        """One statement on a user of `mine`: (op, table, key, before, after) for each row it changes."""
        living = [u for u in mine if u in self.users]
        kind = self.rng.random()
        if kind < (0.25 if self.crowd else 0.02) or not living:
            return [self._insert_user(mine)]
        user_id = self.rng.choice(living if self.crowd else living[:2])
        if kind < 0.40:
            return [self._update("users", user_id, {"phone": f"+{self.rng.randrange(10**6)}"})]
        if kind < 0.45:
            return [self._update("users", user_id, {"created_at": self._when(), "region": self._region()})]
        if kind < 0.60:
            return [self._insert_child(user_id, "kyc_records", "kyc_id")]
        if kind < 0.75:
            return [self._insert_child(user_id, "accounts", "account_id")]
        if kind < 0.85:
            return self._touch_child(user_id)
        if kind < 0.90 and len(living) > 1:
            return self._move_child(user_id, self.rng.choice(living))
        if kind < 0.93:
            return self._rename_user(user_id, mine)
        return self._delete_user(user_id)

    def _insert_user(self, mine: list[str]) -> tuple[Any, ...]:
        gone = [u for u in mine if u not in self.users]
        user_id = self.rng.choice(gone) if gone and self.rng.random() < 0.5 else self.new_id()
        mine.append(user_id)
        row = {
            "user_id": user_id,
            "first_name": self.rng.choice(["Ada", "Zoë", "李", "Ōta"]),
            "last_name": f"L{self.rng.randrange(1000)}",
            "email": None,
            "phone": None,
            "city": self.rng.choice([None, "Köln"]),
            "region": self._region(),
            "created_at": self._when(),
        }
        self.users[user_id] = row
        return ("c", "users", user_id, None, row)

    def _update(self, table: str, key: str, change: Row) -> tuple[Any, ...]:
        rows = getattr(self, table)
        before = rows[key]
        rows[key] = {**before, **change}
        return ("u", table, key, before, rows[key])

    def _insert_child(self, user_id: str, table: str, key: str) -> tuple[Any, ...]:
        row: Row = {key: self.new_id(), "user_id": user_id}
        if table == "kyc_records":
            row |= {"status": self.rng.choice(STATUSES), "doc_type": "ID", "updated_at": self._when()}
        else:
            balance = f"{self.rng.randrange(-(10**6), 10**6)}.{self.rng.randrange(10**4):04d}"
            row |= {"account_type": "WALLET", "account_no": f"W-{self.rng.randrange(999)}"}
            row |= {"balance": balance, "status": "OPEN", "opened_at": self._when()}
        getattr(self, table)[row[key]] = row
        return ("c", table, row[key], None, row)

    def _touch_child(self, user_id: str) -> list[tuple[Any, ...]]:
        table, key = self.rng.choice([("kyc_records", "kyc_id"), ("accounts", "account_id")])
        mine = [r for r in getattr(self, table).values() if r["user_id"] == user_id]
        if not mine:
            return [self._insert_child(user_id, table, key)]
        row = self.rng.choice(mine)
        if self.rng.random() < 0.3:
            del getattr(self, table)[row[key]]
            return [("d", table, row[key], row, None)]
        if self.rng.random() < 0.15:
            return [self._change_key(table, key, row)]
        change = (
            {"status": self.rng.choice(STATUSES), "updated_at": self._when()}
            if table == "kyc_records"
            else {"balance": f"{self.rng.randrange(10**6)}.0000"}
        )
        return [self._update(table, row[key], change)]

    def _move_child(self, user_id: str, other: str) -> list[tuple[Any, ...]]:
        mine = [r for r in self.accounts.values() if r["user_id"] == user_id]
        if not mine or other == user_id:
            return self._touch_child(user_id)
        return self._change_owner("accounts", "account_id", self.rng.choice(mine), other)

    def _change_owner(self, table: str, key: str, row: Row, owner: str) -> list[tuple[Any, ...]]:
        """An update of a column that is in the Kafka key comes as a delete and a create."""
        moved = {**row, "user_id": owner}
        getattr(self, table)[row[key]] = moved
        return [("d", table, row[key], row, None), ("c", table, row[key], None, moved)]

    def _change_key(self, table: str, key: str, row: Row) -> tuple[Any, ...]:
        """A child's own key is not in the Kafka key, so its update is one like any other (seen)."""
        rows = getattr(self, table)
        del rows[row[key]]
        changed = {**row, key: self.new_id()}
        rows[changed[key]] = changed
        return ("u", table, changed[key], row, changed)

    def _rename_user(self, user_id: str, mine: list[str]) -> list[tuple[Any, ...]]:
        row = self.users.pop(user_id)
        renamed = {**row, "user_id": self.new_id()}
        self.users[renamed["user_id"]] = renamed
        mine.append(renamed["user_id"])
        events = [("d", "users", user_id, row, None), ("c", "users", renamed["user_id"], None, renamed)]
        for table, key in (("kyc_records", "kyc_id"), ("accounts", "account_id")):
            for child in [r for r in getattr(self, table).values() if r["user_id"] == user_id]:
                events += self._change_owner(table, key, child, renamed["user_id"])
        return events

    def _delete_user(self, user_id: str) -> list[tuple[Any, ...]]:
        events: list[tuple[Any, ...]] = [("d", "users", user_id, self.users.pop(user_id), None)]
        for table in ("kyc_records", "accounts"):
            rows = getattr(self, table)
            mine = [k for k, r in rows.items() if r["user_id"] == user_id]
            events += [("d", table, key, rows.pop(key), None) for key in mine]
        return events

    def _commit(self, events: list[tuple[Any, ...]]) -> None:
        self._tx += 1
        self._clock_ms += self.rng.randint(1, 30)
        end = self._lsn + 100
        for lsn, op, table, _key, before, after in events:
            commit = "null" if self._last_commit is None else f'"{self._last_commit}"'
            source = {**self._source("false", f'[{commit},"{lsn}"]', lsn), "table": table}
            self._order += 1
            if op == "t":
                self._send(None, op, source, None, None, commit=end)
                continue
            user_id = (after or before)["user_id"]
            self._send(user_id, op, source, before, after, commit=end)
            if op == "d":
                self._log(user_id, None, "streamed", self._order, end)
        self._lsn = self._last_commit = end

    def _source(self, snapshot: str, sequence: str, lsn: int) -> Row:
        return {
            "ts_ms": self._clock_ms,
            "snapshot": snapshot,
            "sequence": sequence,
            "lsn": lsn,
            "txId": self._tx,
        }

    def _send(
        self,
        user_id: str | None,
        op: str,
        source: Row,
        before: Row | None,
        after: Row | None,
        *,
        kind: str = "streamed",
        order: int | None = None,
        commit: int = 0,
    ) -> None:
        value = json.dumps({"before": before, "after": after, "source": source, "op": op, "ts_ms": 1})
        self._log(user_id, value.encode(), kind, self._order if order is None else order, commit)

    def _log(self, user_id: str | None, value: bytes | None, kind: str, order: int, commit: int) -> None:
        partition = self.rng.randrange(self.partitions) if user_id is None else self._partition(user_id)
        self.log.append(Sent(partition, None if user_id is None else user_id.encode(), value, kind, order, commit))

    def _partition(self, user_id: str) -> int:
        return partition_of(user_id.encode(), self.partitions)

    def _beat_keys(self) -> list[str]:
        keys: dict[int, str] = {}
        number = 0
        while len(keys) < self.partitions:
            keys.setdefault(self._partition(f"beat-{number}"), f"beat-{number}")
            number += 1
        return [keys[p] for p in range(self.partitions)]

    def _beat_row(self, key: str, truncated: str | None = None) -> Row:
        shard = self._partition(key)
        return {
            "user_id": key,
            "shard": shard,
            "beat_at": None,
            "truncated": truncated,
            "fingerprint": f"{SCOPE}{self._told}" if self._told else None,
        }

    def _when(self) -> int | None:
        """Few different times, so that ties are common."""
        return None if self.rng.random() < 0.05 else 1_700_000_000_000_000 + self.rng.randrange(40) * 1_500_000

    def _region(self) -> str | None:
        return self.rng.choice(REGIONS)
