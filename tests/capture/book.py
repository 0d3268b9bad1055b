"""A running stack, and the book in which everything that comes out of it is written down."""

import json
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import psycopg

from kycache.demo.servers.layout import CONNECTOR
from kycache.model.lsn import parse_lsn, parse_sequence
from kycache.model.view import HEARTBEAT_TABLE
from support.pipeline.sql_truth import SqlTruth
from support.pipeline.stack import PARTITIONS, Pipeline

WITHIN_S = 120.0


class Session:
    """One connection whose transactions are written down with their tokens."""

    def __init__(self, capture: "Capture") -> None:
        self._capture = capture
        self.db: psycopg.Connection[Any] = psycopg.connect(capture.pipeline.dsn)

    def run(self, *statements: str) -> "Session":
        """Goes on in the open transaction, or opens one."""
        for statement in statements:
            self.db.execute(statement.encode())
        return self

    def commit(self) -> None:
        """Commits; the LSN taken after it is greater than all of the transaction's."""
        row = self.db.execute("SELECT pg_current_xact_id_if_assigned()::text").fetchone()
        assert row is not None
        self.db.commit()
        token = self.db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        self.db.rollback()
        assert token is not None
        if row[0] is not None:
            self._capture.commits.append((int(row[0]), token[0]))

    def close(self) -> None:
        """Rolls back what is open."""
        self.db.close()


class Capture:
    """The running stack, and everything that came out of it so far."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.records: list[dict[str, Any]] = []
        self.lines: list[dict[str, Any]] = []
        self.commits: list[tuple[int, str]] = []
        self._written = 0
        self._details: dict[str, Any] = {}
        self._beaten = [0] * PARTITIONS
        self._end = [0] * PARTITIONS
        self._consumer = pipeline.consumer()

    # --- what scenarios use

    def transaction(self, *statements: str) -> None:
        """One transaction of its own."""
        session = Session(self)
        session.run(*statements).commit()
        session.close()

    def poll(self, seconds: float = 0.1) -> None:
        """Takes in what Kafka has."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for batch in self._consumer.poll(timeout_ms=50).values():
                for record in batch:
                    self._take(record)

    def wait(self, what: str, reached: Callable[[], bool]) -> None:
        """Takes in records, and keeps the stack alive, until something has come."""
        deadline = time.monotonic() + WITHIN_S
        while not reached():
            if time.monotonic() > deadline:
                log = self.pipeline.stack.debezium.program.log.read_text(encoding="utf-8")
                raise AssertionError(f"{what} did not come; Debezium says:\n{log[-6000:]}")
            self.pipeline.stack.revive()
            self.poll()

    def settle(self) -> str:
        """Waits until every partition has had a beat behind all that is committed; returns that LSN."""
        with psycopg.connect(self.pipeline.dsn) as db:
            row = db.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        token = parse_lsn(row[0])
        assert token is not None
        self.wait(f"a beat behind {row[0]}", lambda: min(self._beaten) >= token)
        return str(row[0])

    def rest(self, method: str, path: str, body: Any = None) -> Any:
        """Kafka Connect's REST interface."""
        request = urllib.request.Request(
            f"{self.pipeline.connect_url}/connectors/{CONNECTOR}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def wait_state(self, state: str, tasks: int) -> None:
        """Waits until the connector, and as many tasks, are in a state."""

        def reached() -> bool:
            try:
                status = self.rest("GET", "/status")
            except OSError:
                return False
            states = [status["connector"]["state"], *(t["state"] for t in status["tasks"])]
            return len(states) == 1 + tasks and set(states) == {state}

        self.wait(f"the connector {state}", reached)

    # --- the book

    def scenario(self, name: str, play: Callable[["Capture"], None]) -> None:
        """Plays one scenario and writes it down with what Postgres held at its end."""
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        self.commits = []
        play(self)
        token = self.settle()
        truth = read_truth(self.pipeline.dsn)
        details = {u: truth.detail(u) for u in truth.order}
        gone: dict[str, Any] = dict.fromkeys(self._details.keys() - details.keys())
        changed = {u: d for u, d in details.items() if self._details.get(u) != d}
        self._details = details
        new = self.records[self._written :]
        self._written = len(self.records)
        self.lines += [{"scenario": name}, *new]
        self.lines.append(
            {
                "end": name,
                "offsets": list(self._end),
                "token": token,
                "commits": self.commits,
                "list": truth.order,
                "details": gone | changed,
            }
        )

    def _take(self, record: Any) -> None:
        key = None if record.key is None else record.key.decode()
        value = None if record.value is None else record.value.decode()
        self.records.append({"partition": record.partition, "offset": record.offset, "key": key, "value": value})
        self._end[record.partition] = record.offset + 1
        event = json.loads(value) if value else None
        if event and event["op"] == "u" and event["source"]["table"] == HEARTBEAT_TABLE:
            _, lsn = parse_sequence(event["source"]["sequence"])
            self._beaten[record.partition] = max(self._beaten[record.partition], lsn or 0)


def read_truth(dsn: str) -> SqlTruth:
    """What Postgres holds; nothing else writes meanwhile, so that several queries are as good as one."""
    truth = SqlTruth.read(dsn)
    with psycopg.connect(dsn) as db:
        # By the columns, not by their texts; and `country::text` would strip the padding of char(2).
        users = db.execute(
            "SELECT u.user_id::text, u.country FROM users u ORDER BY u.created_at DESC, u.user_id DESC"
        )
        countries: dict[str, str] = dict(users.fetchall())
        truth.order = list(countries)
        truth.users = {u: (*row[:10], countries[u], *row[11:]) for u, row in truth.users.items()}
        kyc = db.execute(
            "SELECT k.kyc_id::text FROM kyc_records k ORDER BY k.updated_at DESC NULLS LAST, k.kyc_id DESC"
        )
        accounts = db.execute(
            "SELECT a.account_id::text FROM accounts a ORDER BY a.opened_at NULLS LAST, a.account_id"
        )
        for query, rows in ((kyc, truth.kyc), (accounts, truth.accounts)):
            place = {key: n for n, (key,) in enumerate(query)}
            for children in rows.values():
                children.sort(key=lambda row: place[row[1]])
    return truth
