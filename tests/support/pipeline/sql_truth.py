"""What SQL says the two reads must answer, and the comparison of profiles; of lists: list_comparison.py."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

STATUSES = ("PENDING", "VERIFIED", "REJECTED", "EXPIRED", "NONE")
FRESH_TRIES = 20
"""Each waits up to `[http] freshness_wait`, 3 s: a minute for a loaded machine to catch up."""

Row = tuple[Any, ...]


def _time(text: str | None, zone: str = "") -> str | None:
    """Postgres's own text with `T` for the blank; its `+00` is `Z`, or nothing for infinities."""
    if text is None:
        return None
    text = text.replace(" ", "T", 1)
    return text.replace("+00", zone) if zone else text


@dataclass
class SqlTruth:
    """Everything that the source holds at one moment."""

    lsn: str
    snapshot: str
    """Which transactions are in it, as `pg_visible_in_snapshot` takes it."""
    users: dict[str, Row] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    kyc: dict[str, list[Row]] = field(default_factory=dict)
    accounts: dict[str, list[Row]] = field(default_factory=dict)

    @classmethod
    def read(cls, dsn: str) -> "SqlTruth":
        """Read it in one transaction; the LSN is a token for all of it."""
        with psycopg.connect(dsn) as db:
            db.execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            db.execute("SET timezone = 'UTC'")
            db.commit()
            users = db.execute(
                "SELECT user_id::text, first_name, last_name, email, phone, date_of_birth::text, address_line1,"
                " address_line2, city, postal_code, country, region, created_at::text, updated_at::text"
                " FROM users ORDER BY users.created_at DESC, users.user_id DESC"
            ).fetchall()
            kyc = db.execute(
                "SELECT user_id::text, kyc_id::text, status::text, verified_at::text, doc_type, doc_reference,"
                " updated_at::text FROM kyc_records r ORDER BY r.updated_at DESC NULLS LAST, r.kyc_id DESC"
            ).fetchall()
            accounts = db.execute(
                "SELECT user_id::text, account_id::text, account_type::text, account_no, balance::text, status,"
                " opened_at::text FROM accounts r ORDER BY r.opened_at ASC NULLS LAST, r.account_id ASC"
            ).fetchall()
            moment = db.execute("SELECT pg_current_wal_insert_lsn()::text, pg_current_snapshot()::text").fetchone()
        assert moment is not None
        lsn, snapshot = moment
        truth = cls(lsn, snapshot, {r[0]: r for r in users}, [r[0] for r in users])
        for row in kyc:
            truth.kyc.setdefault(row[0], []).append(row)
        for row in accounts:
            truth.accounts.setdefault(row[0], []).append(row)
        return truth

    def status(self, user: str) -> str:
        return str(self.kyc[user][0][2]) if user in self.kyc else "NONE"

    def detail(self, user: str) -> dict[str, Any]:
        r = self.users[user]
        return {
            "userId": user,
            "firstName": r[1],
            "lastName": r[2],
            "email": r[3],
            "phone": r[4],
            "dateOfBirth": r[5],
            "address": {"line1": r[6], "line2": r[7], "city": r[8], "postalCode": r[9], "country": r[10]},
            "region": r[11],
            "kycStatus": self.status(user),
            "kyc": [
                {
                    "kycId": k[1],
                    "status": k[2],
                    "verifiedAt": _time(k[3]),
                    "docType": k[4],
                    "docReference": k[5],
                    "updatedAt": _time(k[6]),
                }
                for k in self.kyc.get(user, [])
            ],
            "accounts": [
                {
                    "accountId": a[1],
                    "accountType": a[2],
                    "accountNo": a[3],
                    "balance": a[4],
                    "status": a[5],
                    "openedAt": _time(a[6]),
                }
                for a in self.accounts.get(user, [])
            ],
            "createdAt": _time(r[12]),
            "updatedAt": _time(r[13], "Z"),
        }

    def row(self, user: str) -> dict[str, Any]:
        r = self.users[user]
        return {"userId": user, "firstName": r[1], "lastName": r[2], "kycStatus": self.status(user)}


def wait_fresh(client: httpx.Client, lsn: str) -> None:
    """Wait until every shard covers `lsn`."""
    answer = None
    for _ in range(FRESH_TRIES):
        answer = client.get("/users?size=1", headers={"Kycache-Min-LSN": lsn})
        if answer.status_code == 200:
            return
    assert answer is not None
    raise AssertionError(f"not fresh: {answer.status_code} {answer.text}")


def profile_differences(client: httpx.Client, truth: SqlTruth) -> Iterator[str]:
    """Where profiles differ from SQL."""
    for user in truth.order:
        answer = client.get(f"/users/{user}")
        if answer.status_code != 200 or answer.json() != truth.detail(user):
            yield f"detail {user}: {answer.status_code} {answer.text} != {truth.detail(user)}"
