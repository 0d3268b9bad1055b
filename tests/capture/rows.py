"""The rows that the scenarios write, as SQL: users of a partition, extreme values, and what is there at first."""

import uuid
from typing import Any

import psycopg

from kycache.model.partition import partition_of
from support.pipeline.stack import PARTITIONS


def user(partition: int, number: int) -> str:
    """The n-th user id that Kafka's partitioner puts into a partition."""
    found = -1
    for n in range(1, 10_000):
        candidate = f"00000000-0000-4000-8000-{n:012x}"
        found += partition_of(candidate.encode(), PARTITIONS) == partition
        if found == number:
            return candidate
    raise AssertionError


def child(number: int) -> str:
    """The key of a KYC record or an account."""
    return str(uuid.UUID(int=0x10000000_0000_4000_8000_000000000000 + number))


U00, U01, U02 = (user(0, n) for n in range(3))
U10, U11, U12 = (user(1, n) for n in range(3))
U20, U21, U22 = (user(2, n) for n in range(3))
U30, U31, U32 = (user(3, n) for n in range(3))

BIRTHS = ["infinity", "-infinity", "5874897-12-31", "4714-11-24 BC", "0044-03-15 BC", "1582-10-10"]
PLAIN_BIRTHS = ["1582-10-04", "1582-10-15", "5874897-12-31", "0001-01-01", "1500-02-28", "1969-12-31"]
"""A snapshot reads dates through a Java class that has no infinity, no era and no days lost to Pope Gregory."""

TIMES = [
    *("infinity", "-infinity", "294246-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC"),
    *("0044-03-15 12:30:00.25 BC", "1582-10-10 06:00:00.000001", "10000-01-01 00:00:00", "0001-01-01 00:00:00"),
    *("1500-02-28 23:59:59.5", "1969-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999", "1900-03-01 00:00:00"),
]
ZONED = [
    *("infinity", "-infinity", "294276-12-31 23:59:59.999999+00", "4714-11-24 00:00:00+00 BC"),
    *("0044-03-15 12:30:00.25+02 BC", "10000-01-01 00:00:00+00"),
]
BALANCES = ["NaN", "99999999999999.9999", "-99999999999999.9999", "0", "-0.0001", "1e3"]


def add_user(key: str, name: str, **columns: str) -> str:
    """An INSERT; the columns are SQL."""
    columns = {"user_id": f"'{key}'", "first_name": f"'{name}'", "last_name": "'Real'"} | columns
    return f"INSERT INTO users({', '.join(columns)}) VALUES ({', '.join(columns.values())})"


def add_kyc(number: int, owner: str, status: str = "PENDING", **columns: str) -> str:
    columns = {"kyc_id": f"'{child(number)}'", "user_id": f"'{owner}'", "status": f"'{status}'"} | columns
    return f"INSERT INTO kyc_records({', '.join(columns)}) VALUES ({', '.join(columns.values())})"


def add_account(number: int, owner: str, **columns: str) -> str:
    columns = {"account_id": f"'{child(number)}'", "user_id": f"'{owner}'", "account_type": "'WALLET'"} | columns
    columns.setdefault("account_no", f"'A-{number}'")
    return f"INSERT INTO accounts({', '.join(columns)}) VALUES ({', '.join(columns.values())})"


def phone(key: str, value: str) -> str:
    return f"UPDATE users SET phone = '{value}' WHERE user_id = '{key}'"


def balance(number: int, value: object) -> str:
    return f"UPDATE accounts SET balance = '{value}' WHERE account_id = '{child(number)}'"


def extremes(first: int, owners: list[str], births: list[str]) -> list[str]:
    """Every extreme value once, on new users and their children."""
    rows = [
        add_user(
            owner,
            f"Extreme{n}",
            date_of_birth=f"'{births[n]}'",
            created_at=f"'{TIMES[n]}'",
            updated_at=f"'{ZONED[n]}'",
            country="'G'",
        )
        for n, owner in enumerate(owners)
    ]
    for n, owner in enumerate(owners):
        rows += [
            add_kyc(first + at, owner, verified_at=f"'{TIMES[at]}'", updated_at=f"'{TIMES[-at]}'")
            for at in (2 * n, 2 * n + 1)
        ]
        rows.append(add_account(first + 20 + n, owner, balance=f"'{BALANCES[n]}'", opened_at=f"'{TIMES[6 + n]}'"))
    return rows


def fill(db: psycopg.Connection[Any]) -> None:
    """Before Debezium starts: users in partitions 0 to 2 only, for the initial snapshot."""
    rows = [
        add_user(U00, "Ada", region="'EMEA'", country="'GB'"),
        add_user(U10, "Alan", region="NULL", created_at="NULL"),
        add_user(U20, "Grace", country="'U'"),
        add_kyc(1, U00, "VERIFIED", verified_at="now()", doc_type="'PASSPORT'"),
        add_kyc(2, U10, "REJECTED"),
        add_account(3, U00, balance="1234.5678"),
        add_account(4, U20, status="NULL"),
        *extremes(100, [user(p, n) for n in (10, 11) for p in (0, 1, 2)], PLAIN_BIRTHS),
    ]
    for row in rows:
        db.execute(row.encode())
