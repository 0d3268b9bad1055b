"""A system of record that keeps writing: changes over all three tables, at a steady rate.

A fifth of the users draws four fifths of the changes. Users come and go in equal measure, so the population
stays about as large as it was. Every change is a transaction of its own.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from .cultures import CULTURES
from .people import ACCOUNT_COLUMNS, KYC_COLUMNS, USER_COLUMNS, new_id, person, phone

USERS_KNOWN_MAX = 200_000
"""User ids the writer remembers: 20 MB. Beyond that a sample of the table is as good."""

SKEW = 7.2
"""u**7.2 of a uniform u falls below 0.2 in 80 % of the draws: ln 0.2 / ln 0.8."""

CATCH_UP_MAX_S = 1.0
"""After a pause (database gone, machine asleep) only this much is caught up, so no burst follows."""

RECONNECT_S = 0.5
CONNECT_TIMEOUT_S = 3


@dataclass(frozen=True, slots=True)
class Change:
    """One statement and its values."""

    sql: LiteralString
    values: tuple[Any, ...]


class Writer:
    """Chooses changes; knows which users there are. The choice is pure and follows the seed.

    Args:
        users: the ids there are; the list is the writer's own from here on.
        seed: of the choices.
        tag: stands in new e-mail addresses, which must differ from every earlier run's.
    """

    def __init__(self, users: list[str], seed: int, tag: str) -> None:
        self.users = users
        self._rng = random.Random(seed)
        self._made = 0
        self._tag = tag
        self._kinds: tuple[tuple[int, Callable[[], list[Change]]], ...] = (
            (25, self._update_user),
            (6, self._insert_user),
            (6, self._delete_user),
            (20, self._update_kyc),
            (5, self._insert_kyc),
            (3, self._delete_kyc),
            (25, self._update_account),
            (6, self._insert_account),
            (4, self._delete_account),
        )

    def next(self) -> list[Change]:
        """The next changes to make, each a row or few; one in most cases."""
        if not self.users:
            return self._insert_user()
        weights = [weight for weight, _ in self._kinds]
        (chosen,) = self._rng.choices([choose for _, choose in self._kinds], weights)
        return chosen()

    def _user(self) -> str:
        return self.users[int(len(self.users) * self._rng.random() ** SKEW)]

    def _update_user(self) -> list[Change]:
        number = phone(self._rng, self._rng.choice(CULTURES))
        return [
            Change("UPDATE users SET phone = %s, updated_at = now() WHERE user_id = %s", (number, self._user()))
        ]

    def _insert_user(self) -> list[Change]:
        self._made += 1
        new = person(self._rng, self._made)
        row = list(new.user)
        row[3] = f"new.{self._tag}.{self._made}@example.com"
        row[-2:] = ["now", "now"]
        self.users.append(str(row[0]))
        user = _insert("users", USER_COLUMNS, tuple(row))
        kyc = [_insert("kyc_records", KYC_COLUMNS, k) for k in new.kyc]
        return [user, *kyc, *(_insert("accounts", ACCOUNT_COLUMNS, a) for a in new.accounts)]

    def _delete_user(self) -> list[Change]:
        place = self._rng.randrange(len(self.users))
        self.users[place], self.users[-1] = self.users[-1], self.users[place]
        return [Change("DELETE FROM users WHERE user_id = %s", (self.users.pop(),))]

    def _update_kyc(self) -> list[Change]:
        status = self._rng.choice(("VERIFIED", "PENDING", "REJECTED", "EXPIRED"))
        sql: LiteralString = (
            "UPDATE kyc_records SET status = %s, updated_at = now(), "
            "verified_at = CASE WHEN %s IN ('VERIFIED', 'EXPIRED') THEN now() END "
            "WHERE kyc_id = (SELECT kyc_id FROM kyc_records WHERE user_id = %s LIMIT 1)"
        )
        return [Change(sql, (status, status, self._user()))]

    def _insert_kyc(self) -> list[Change]:
        values = (new_id(self._rng), self._user())
        return [Change("INSERT INTO kyc_records (kyc_id, user_id, doc_type) VALUES (%s, %s, 'PASSPORT')", values)]

    def _delete_kyc(self) -> list[Change]:
        sql: LiteralString = (
            "DELETE FROM kyc_records WHERE kyc_id = "
            "(SELECT kyc_id FROM kyc_records WHERE user_id = %s ORDER BY updated_at LIMIT 1)"
        )
        return [Change(sql, (self._user(),))]

    def _update_account(self) -> list[Change]:
        amount = f"{self._rng.randrange(-5_000_000, 5_000_000) / 10_000:.4f}"
        sql: LiteralString = (
            "UPDATE accounts SET balance = balance + %s::numeric "
            "WHERE account_id = (SELECT account_id FROM accounts WHERE user_id = %s LIMIT 1)"
        )
        return [Change(sql, (amount, self._user()))]

    def _insert_account(self) -> list[Change]:
        number = f"W-{self._rng.randrange(10**10):010d}"
        sql: LiteralString = (
            "INSERT INTO accounts (account_id, user_id, account_type, account_no) VALUES (%s, %s, 'WALLET', %s)"
        )
        return [Change(sql, (new_id(self._rng), self._user(), number))]

    def _delete_account(self) -> list[Change]:
        sql: LiteralString = (
            "DELETE FROM accounts WHERE account_id = "
            "(SELECT account_id FROM accounts WHERE user_id = %s ORDER BY opened_at DESC LIMIT 1)"
        )
        return [Change(sql, (self._user(),))]


def keep_writing(dsn: str, rate: float, seed: int, stop: threading.Event) -> None:
    """Makes `rate` changes a second until `stop`; a database that goes away is waited for."""
    made, started = 0, time.monotonic()
    while not stop.is_set():
        try:
            with psycopg.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as db:
                writer = Writer(_known_users(db), seed + made, f"{time.time_ns():x}")
                pending: list[Change] = []
                while not stop.is_set():
                    late = time.monotonic() - started - made / rate
                    if late < 0:
                        stop.wait(min(-late, RECONNECT_S))
                        continue
                    if late > CATCH_UP_MAX_S:
                        started += late - CATCH_UP_MAX_S
                    pending = pending or writer.next()
                    _make(db, pending.pop(0))
                    made += 1
        except psycopg.OperationalError:
            stop.wait(RECONNECT_S)


def _make(db: psycopg.Connection[Any], change: Change) -> None:
    try:
        db.execute(change.sql, change.values)
    except psycopg.IntegrityError:
        return  # someone else deleted that user meanwhile: nothing to write about


def _known_users(db: psycopg.Connection[Any]) -> list[str]:
    rows = db.execute("SELECT user_id::text FROM users LIMIT %s", (USERS_KNOWN_MAX,)).fetchall()
    return [row[0] for row in rows]


def _insert(table: LiteralString, columns: LiteralString, values: tuple[Any, ...]) -> Change:
    places: LiteralString = "%s" + ", %s" * (len(values) - 1)
    return Change(f"INSERT INTO {table} ({columns}) VALUES ({places})", values)
