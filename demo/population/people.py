"""The demo's users: believable, skewed, in many scripts, and the same for the same seed.

What is rare in life is rare here and still there: a user without KYC or accounts, one without a creation time,
many created in the same microsecond by an import, a NULL where the table has a default.
"""

import random
import unicodedata
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import accumulate, islice
from typing import Any

import psycopg

from .cultures import CULTURES, Culture

SEED = 20_261_124
NOW = datetime(2026, 11, 24, 12, 0, 0)
"""The demo's people were all created before this: a moving clock would make other people every day."""

HISTORY = timedelta(days=3 * 365)
IMPORT_TIMES = tuple(NOW - timedelta(days=days, hours=5) for days in (700, 400, 150))
COPY_CHUNK = 2_000
"""People per COPY: the progress bar moves several times a second, and COPY's own cost disappears."""

_WEIGHTS = list(accumulate(c.weight for c in CULTURES))
_STATUSES = ("VERIFIED", "PENDING", "REJECTED", "EXPIRED")
_STATUS_WEIGHTS = (70, 85, 93, 100)
_RECORDS_WEIGHTS = (8, 86, 97, 100)  # 0 to 3 KYC records
_ACCOUNTS_WEIGHTS = (15, 60, 85, 95, 100)  # 0 to 4 accounts
_ACCOUNT_TYPES = ("SAVINGS", "CURRENT", "WALLET", "INVESTMENT")
_DOCUMENTS = ("PASSPORT", "NATIONAL_ID", "DRIVING_LICENCE", "RESIDENCE_PERMIT")
_ACCOUNT_STATUSES = ("OPEN", "OPEN", "OPEN", "OPEN", "OPEN", "DORMANT", "CLOSED", None)
_DOMAINS = ("example.com", "example.org", "example.net")

USER_COLUMNS = (
    "user_id, first_name, last_name, email, phone, date_of_birth, address_line1, address_line2, city, "
    "postal_code, country, region, created_at, updated_at"
)
KYC_COLUMNS = "kyc_id, user_id, status, verified_at, doc_type, doc_reference, updated_at"
ACCOUNT_COLUMNS = "account_id, user_id, account_type, account_no, balance, status, opened_at"

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """One user's rows, in the order of the `*_COLUMNS`."""

    user: Row
    kyc: tuple[Row, ...]
    accounts: tuple[Row, ...]


def people(count: int, seed: int = SEED) -> Iterator[Person]:
    """`count` people; the first n of them are the same whatever the count."""
    rng = random.Random(seed)
    for number in range(count):
        yield person(rng, number)


def person(rng: random.Random, number: int) -> Person:
    """One person; `number` keeps the e-mail address unique."""
    culture = CULTURES[_weighted(rng, _WEIGHTS)]
    user_id = new_id(rng)
    created = _created(rng)
    since = created or NOW - HISTORY
    first, last = rng.choice(culture.first_names), rng.choice(culture.last_names)
    user = (
        user_id,
        first,
        last,
        email(rng, first, last, number) if rng.random() < 0.97 else None,
        phone(rng, culture) if rng.random() < 0.85 else None,
        date(1940, 1, 1) + timedelta(days=rng.randrange(68 * 365)) if rng.random() < 0.98 else None,
        f"{rng.randrange(1, 240)} {rng.choice(culture.streets)}",
        f"Flat {rng.randrange(1, 40)}" if rng.random() < 0.2 else None,
        *address(rng, culture),
        culture.country,
        culture.region if rng.random() < 0.995 else None,
        created,
        _later(rng, since).isoformat() + "Z",
    )
    kyc = tuple(_kyc(rng, user_id, since) for _ in range(_weighted(rng, _RECORDS_WEIGHTS)))
    accounts = tuple(_account(rng, user_id, since) for _ in range(_weighted(rng, _ACCOUNTS_WEIGHTS)))
    return Person(user, kyc, accounts)


def load(db: psycopg.Connection[Any], count: int, advance: Callable[[int], None], seed: int = SEED) -> None:
    """Copies `count` people into the three tables, in the caller's transaction."""
    crowd = people(count, seed)
    while chunk := list(islice(crowd, COPY_CHUNK)):
        _copy(db, "users", USER_COLUMNS, [p.user for p in chunk])
        _copy(db, "kyc_records", KYC_COLUMNS, [row for p in chunk for row in p.kyc])
        _copy(db, "accounts", ACCOUNT_COLUMNS, [row for p in chunk for row in p.accounts])
        advance(len(chunk))


def new_id(rng: random.Random) -> str:
    """A random uuid of `rng`'s choosing."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def email(rng: random.Random, first: str, last: str, number: int) -> str:
    """An address under a domain that is nobody's."""
    return f"{_ascii(first)}.{_ascii(last)}.{number}@{rng.choice(_DOMAINS)}"


def phone(rng: random.Random, culture: Culture) -> str:
    """A number as that country writes it."""
    return _filled(rng, culture.phone)


def address(rng: random.Random, culture: Culture) -> tuple[str, str]:
    """A city and one of its postal codes."""
    city, pattern = rng.choice(culture.cities)
    return city, _filled(rng, pattern)


def _kyc(rng: random.Random, user_id: str, since: datetime) -> Row:
    status = _STATUSES[_weighted(rng, _STATUS_WEIGHTS)]
    updated = _later(rng, since)
    verified = updated if status in ("VERIFIED", "EXPIRED") else None
    reference = f"{rng.choice('ABCDEFGHXYZ')}{rng.randrange(10**8):08d}" if rng.random() < 0.9 else None
    return (new_id(rng), user_id, status, verified, rng.choice(_DOCUMENTS), reference, updated)


def _account(rng: random.Random, user_id: str, since: datetime) -> Row:
    kind = rng.choice(_ACCOUNT_TYPES)
    # A log-normal purse, in ten-thousandths: most hold little, few hold much, some owe.
    cents = int(rng.lognormvariate(7, 2) * 10_000) * (-1 if rng.random() < 0.03 else 1)
    sign, digits = "-" if cents < 0 else "", f"{abs(cents):05d}"
    balance = f"{sign}{digits[:-4]}.{digits[-4:]}"
    number = f"{kind[0]}-{rng.randrange(10**10):010d}"
    opened = _later(rng, since)
    return (new_id(rng), user_id, kind, number, balance, rng.choice(_ACCOUNT_STATUSES), opened)


def _created(rng: random.Random) -> datetime | None:
    chance = rng.random()
    if chance < 0.002:
        return None
    if chance < 0.03:
        return rng.choice(IMPORT_TIMES)
    # The business grew: newer users are more frequent.
    return NOW - timedelta(microseconds=int(HISTORY / timedelta(microseconds=1) * rng.random() ** 1.6))


def _later(rng: random.Random, since: datetime) -> datetime:
    return since + timedelta(microseconds=int((NOW - since) / timedelta(microseconds=1) * rng.random()))


def _weighted(rng: random.Random, cumulative: Sequence[int]) -> int:
    drawn = rng.random() * cumulative[-1]
    return next(i for i, bound in enumerate(cumulative) if drawn < bound)


def _filled(rng: random.Random, pattern: str) -> str:
    choices = {"#": "0123456789", "@": "ABCDEFGHJKLMNPRSTUVWXYZ"}
    return "".join(rng.choice(choices.get(c, c)) for c in pattern)


def _ascii(name: str) -> str:
    folded = unicodedata.normalize("NFKD", name.replace("ß", "ss").replace("Ł", "L").replace("ł", "l"))
    return "".join(c for c in folded.lower() if c.isascii() and c.isalnum()) or "user"


def _copy(db: psycopg.Connection[Any], table: str, columns: str, rows: list[Row]) -> None:
    statement = f"COPY {table} ({columns}) FROM STDIN"
    with db.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for row in rows:
            copy.write_row(row)
