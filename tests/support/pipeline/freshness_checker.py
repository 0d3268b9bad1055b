"""No read is older than its label: a checker of its own, beside the comparison of final states.

Each writer owns a user and writes ever greater numbers into it, in transactions short and long; after each commit
it takes a token. Readers ask with tokens and without. An answer labelled with watermark W must hold every number
whose token is at or below W, and one that was asked for with a token must hold that token's number.
"""

import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import psycopg

from kycache.model.lsn import parse_lsn

LONG_S = 0.4
"""How long a long transaction stays open while the short ones of the others commit."""


@dataclass
class _Ledger:
    """What one writer has committed: (token, number), in order."""

    user: uuid.UUID
    entries: list[tuple[int, str, int]] = field(default_factory=list)

    def due(self, watermark: int) -> int:
        """The greatest number committed at or below a watermark."""
        return max((n for lsn, _, n in list(self.entries) if lsn <= watermark), default=-1)


Work = Callable[[random.Random, _Ledger, bool], None]
"""What a thread does with a writer's ledger, until `stop`; the last: whether its transactions are long."""


class FreshnessChecker:
    """Writers and readers, until `stop`; `violations` says what was older than its label."""

    def __init__(self, dsn: str, http: str, seed: int, writers: int = 3) -> None:
        self.violations: list[str] = []
        self.reads = 0
        self.bounded_reads = 0
        self._dsn = dsn
        self._http = http
        self._stop = threading.Event()
        rng = random.Random(seed)
        self._ledgers = [_Ledger(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(writers)]
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._guarded, args=(work, random.Random(f"{seed}/{work.__name__}/{n}"), n))
            for n in range(writers)
            for work in (self._write, self._read)
        ]

    def start(self) -> "FreshnessChecker":
        """Begin in the background."""
        for thread in self._threads:
            thread.start()
        return self

    def stop(self) -> None:
        """End; raises what a thread failed with."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]

    def _guarded(self, work: Work, rng: random.Random, number: int) -> None:
        try:
            work(rng, self._ledgers[number], number == 0)
        except BaseException as failure:
            self._failures.append(failure)

    def _write(self, rng: random.Random, ledger: _Ledger, long: bool) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as db:
            db.execute(
                "INSERT INTO users(user_id, first_name, last_name, phone) VALUES (%s, 'Fresh', 'Ness', '0')",
                (ledger.user,),
            )
            number = 0
            while not self._stop.is_set():
                number += 1
                with db.transaction():
                    db.execute("UPDATE users SET phone = %s WHERE user_id = %s", (str(number), ledger.user))
                    if long:
                        time.sleep(LONG_S)
                row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
                assert row is not None
                lsn = parse_lsn(row[0])
                assert lsn is not None
                ledger.entries.append((lsn, row[0], number))
                time.sleep(rng.uniform(0.0, 0.05))

    def _read(self, rng: random.Random, ledger: _Ledger, long: bool) -> None:
        del long
        with httpx.Client(base_url=self._http, timeout=30) as client:
            while not self._stop.is_set():
                if not ledger.entries:
                    time.sleep(0.01)
                    continue
                token = ledger.entries[-1] if rng.random() < 0.5 else None
                headers = {} if token is None else {"Kycache-Min-LSN": token[1]}
                try:
                    answer = client.get(f"/users/{ledger.user}", headers=headers)
                except httpx.TransportError:
                    continue  # web was killed: no answer is no lie
                self._check(answer, ledger, token)

    def _check(self, answer: httpx.Response, ledger: _Ledger, token: tuple[int, str, int] | None) -> None:
        label = parse_lsn(answer.headers.get("Kycache-Watermark", ""))
        if label is None:
            self.violations.append(f"{answer.status_code} without a watermark: {answer.text}")
            return
        if answer.status_code == 503:
            if token is not None and label >= token[0]:
                self.violations.append(f"503 says {label:x}, which covers {token[0]:x}")
            return
        held = int(answer.json()["phone"]) if answer.status_code == 200 else -1
        self.reads += 1
        self.bounded_reads += token is not None
        if held < ledger.due(label):
            self.violations.append(
                f"{answer.status_code} labelled {label:x} holds {held}, due {ledger.due(label)}"
            )
        if token is not None and held < token[2]:
            self.violations.append(f"asked for {token[0]:x} with {token[2]}, got {held} labelled {label:x}")
