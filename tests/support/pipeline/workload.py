"""Random concurrent transactions on the demo's tables, every operation that DEBEZIUM.md lists among them.

Each worker has its own seed, its own connection and its own pace; some hold a transaction open among the short
ones of the others. Deadlocks and duplicates end a transaction as they would anywhere: it is rolled back.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

STATUSES = ("PENDING", "VERIFIED", "REJECTED", "EXPIRED")
KINDS = ("SAVINGS", "CURRENT", "WALLET", "INVESTMENT")
REGIONS = ("EMEA", "APAC", "AMER", "LATAM")
LONG_S = 0.3
"""How long a long transaction rests between two statements: many short ones commit meanwhile."""

Db = psycopg.Connection[tuple[Any, ...]]


class Workload:
    """So many transactions by so many workers."""

    def __init__(
        self, dsn: str, seed: int, *, workers: int = 3, transactions: int = 200, truncates: bool = False
    ) -> None:
        self._dsn = dsn
        self._seed = seed
        self._transactions = transactions
        self._truncates = truncates
        self.failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._work, args=(random.Random(f"{seed}/{n}"), n)) for n in range(workers)
        ]

    def start(self) -> "Workload":
        """Begin in the background."""
        for thread in self._threads:
            thread.start()
        return self

    @property
    def running(self) -> bool:
        """A worker still writes."""
        return any(thread.is_alive() for thread in self._threads)

    def join(self) -> None:
        """Wait for the end; raises what a worker failed with."""
        for thread in self._threads:
            thread.join()
        if self.failures:
            raise self.failures[0]

    def _work(self, rng: random.Random, number: int) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as db:
                for _ in range(self._transactions):
                    self._transaction(db, rng, long=number == 0 and rng.random() < 0.1)
        except BaseException as failure:
            self.failures.append(failure)

    def _transaction(self, db: Db, rng: random.Random, *, long: bool) -> None:
        steps: list[Callable[[Db, random.Random], object]] = rng.choices(
            list(STEPS), weights=list(STEPS.values()), k=rng.randint(1, 5)
        )
        if self._truncates and rng.random() < 0.01:
            steps.append(truncate)
        try:
            with db.transaction():
                for step in steps:
                    step(db, rng)
                    if long:
                        time.sleep(LONG_S)
                if rng.random() < 0.1:
                    raise psycopg.Rollback
        except (psycopg.errors.DeadlockDetected, psycopg.errors.IntegrityError):
            pass  # rolled back by the server


def _some(db: Db, rng: random.Random, table: str, key: str) -> Any:
    """Some row's key, at random; None in an empty table."""
    at = uuid.UUID(int=rng.getrandbits(128))
    query = sql.SQL("SELECT {key} FROM {table} WHERE {key} >= %s ORDER BY {key} LIMIT 1").format(
        key=sql.Identifier(key), table=sql.Identifier(table)
    )
    row = db.execute(query, (at,)).fetchone()
    return None if row is None else row[0]


def _id(rng: random.Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)


def _name(rng: random.Random) -> str:
    return rng.choice(["Ada", "Zoë", "李", "Nguyễn", "O'Brien", 'Q"uote', "back\\slash", "😀", "تون"])


def add_user(db: Db, rng: random.Random) -> None:
    created = rng.choice(["now()", "'infinity'", "'-infinity'", "NULL", "'2024-01-01'", "'0044-03-15 BC'"])
    statement = (
        "INSERT INTO users(user_id, first_name, last_name, phone, region, date_of_birth, created_at)"
        f" VALUES (%s, %s, %s, %s, %s, %s, {created})"
    )
    # No births before 1582: a snapshot of Debezium's reads them by the Julian calendar, and BC as AD (seen).
    born = rng.choice([None, "1815-12-10", "infinity", "-infinity", "10000-01-01"])
    values = (_id(rng), _name(rng), _name(rng), f"+{rng.randrange(10**9)}", rng.choice(REGIONS), born)
    db.execute(statement.encode(), values)


def copy_users(db: Db, rng: random.Random) -> None:
    with db.cursor() as cursor, cursor.copy("COPY users(user_id, first_name, last_name) FROM STDIN") as copy:
        for _ in range(rng.randint(2, 20)):
            copy.write_row((_id(rng), _name(rng), "Copy"))


def touch_user(db: Db, rng: random.Random) -> None:
    values = (_name(rng), rng.choice(REGIONS), _some(db, rng, "users", "user_id"))
    db.execute("UPDATE users SET first_name = %s, region = %s, updated_at = now() WHERE user_id = %s", values)


def to_null(db: Db, rng: random.Random) -> None:
    """NULL in columns that have a default (DEBEZIUM 24)."""
    db.execute(
        "UPDATE users SET created_at = NULL, email = NULL WHERE user_id = %s",
        (_some(db, rng, "users", "user_id"),),
    )
    db.execute(
        "UPDATE accounts SET status = NULL WHERE account_id = %s", (_some(db, rng, "accounts", "account_id"),)
    )


def add_kyc(db: Db, rng: random.Random) -> None:
    user = _some(db, rng, "users", "user_id")
    if user is not None:
        db.execute(
            "INSERT INTO kyc_records(user_id, status, doc_type, verified_at) VALUES (%s, %s, 'ID', %s)",
            (user, rng.choice(STATUSES), rng.choice([None, "infinity", "2026-01-01 10:00:00.5"])),
        )


def add_account(db: Db, rng: random.Random) -> None:
    user = _some(db, rng, "users", "user_id")
    if user is not None:
        balance = rng.choice(["NaN", str(rng.randrange(-(10**8), 10**8) / 100)])
        db.execute(
            "INSERT INTO accounts(user_id, account_type, account_no, balance) VALUES (%s, %s, %s, %s)",
            (user, rng.choice(KINDS), f"A-{rng.randrange(10**6)}", balance),
        )


def touch_child(db: Db, rng: random.Random) -> None:
    db.execute(
        "UPDATE kyc_records SET status = %s, updated_at = now() WHERE kyc_id = %s",
        (rng.choice(STATUSES), _some(db, rng, "kyc_records", "kyc_id")),
    )
    db.execute(
        "UPDATE accounts SET balance = balance + 1 WHERE account_id = %s",
        (_some(db, rng, "accounts", "account_id"),),
    )


def move_account(db: Db, rng: random.Random) -> None:
    user = _some(db, rng, "users", "user_id")
    if user is not None:
        db.execute(
            "UPDATE accounts SET user_id = %s WHERE account_id = %s",
            (user, _some(db, rng, "accounts", "account_id")),
        )


def drop_child(db: Db, rng: random.Random) -> None:
    db.execute("DELETE FROM accounts WHERE account_id = %s", (_some(db, rng, "accounts", "account_id"),))
    db.execute("DELETE FROM kyc_records WHERE kyc_id = %s", (_some(db, rng, "kyc_records", "kyc_id"),))


def rename_user(db: Db, rng: random.Random) -> None:
    """The root's key changes; its children follow by ON UPDATE CASCADE."""
    db.execute("UPDATE users SET user_id = %s WHERE user_id = %s", (_id(rng), _some(db, rng, "users", "user_id")))


def drop_user(db: Db, rng: random.Random) -> None:
    user = _some(db, rng, "users", "user_id")
    db.execute("DELETE FROM users WHERE user_id = %s", (user,))
    if user is not None and rng.random() < 0.3:  # and comes back, in the same transaction
        db.execute("INSERT INTO users(user_id, first_name, last_name) VALUES (%s, 'Back', 'Again')", (user,))


def truncate(db: Db, rng: random.Random) -> None:
    db.execute(rng.choice([b"TRUNCATE accounts", b"TRUNCATE kyc_records", b"TRUNCATE users CASCADE"]))


STEPS: dict[Callable[[Db, random.Random], None], int] = {
    add_user: 6,
    copy_users: 1,
    touch_user: 8,
    add_kyc: 6,
    add_account: 6,
    touch_child: 8,
    move_account: 3,
    drop_child: 3,
    rename_user: 1,
    drop_user: 2,
    to_null: 2,
}
"""How often each operation is done, against the others."""
