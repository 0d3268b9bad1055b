"""Postgres, a Kafka broker and Debezium between them: started in order, kept alive, stopped together.

The two kinds differ in what the broker and Debezium are (`embedded`, `apache`); order and care are the same.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib.resources import files
from typing import Any

import psycopg

from kycache.model.connector import connector_config, source_sql
from kycache.model.view import View

from . import apache, broker, embedded, postgres
from .children import Child, stopping
from .layout import TOPIC, Layout

FAILED_TASK_CHECK_S = 5.0


class Kind(StrEnum):
    """Which stack."""

    EMBEDDED = "embedded"
    APACHE = "apache"


class Stack:
    """One running pipeline. Use `open_stack`; what it started ends with its block."""

    def __init__(self, kind: Kind, layout: Layout, view: View) -> None:
        """Prepares folders and settings; starts nothing."""
        make = apache if kind is Kind.APACHE else embedded
        layout.logs.mkdir(parents=True, exist_ok=True)
        self.kind = kind
        self.layout = layout
        self.view = view
        self.postgres = postgres.prepare(layout.postgres, layout.logs / "postgres.log", layout.durable)
        self.broker = make.broker(layout)
        self.debezium = make.debezium(layout, connector_config(view, layout.connector))
        self._task_check_at = 0.0

    @property
    def children(self) -> tuple[Child, Child, Child]:
        """In the order in which they stop: readers before what they read."""
        return (self.debezium, self.broker, self.postgres)

    @property
    def dsn(self) -> str:
        """The source database."""
        return self.layout.postgres.dsn

    @property
    def connect_url(self) -> str | None:
        """Kafka Connect, where the stack has it."""
        return self.layout.connect_url if self.kind is Kind.APACHE else None

    def start_servers(self) -> None:
        """Starts Postgres and the broker, side by side, and makes the topic.

        Raises:
            Unreachable: one of them does not come up.
            Refused: the topic exists with another partition count.
        """
        self.broker.start()
        self.postgres.start()
        postgres.wait_ready(self.layout.postgres, self.postgres)
        broker.wait_ready(self.layout.ports.broker, self.broker)
        broker.ensure_topic(self.layout.bootstrap, TOPIC, self.layout.partitions)

    def create_tables(self, fill: Callable[[psycopg.Connection[Any]], None] | None = None) -> bool:
        """Makes the packaged view's tables and fills them, in one transaction; says whether they are new."""
        with psycopg.connect(self.dsn) as db:
            if db.execute("SELECT to_regclass('public.users')").fetchone() != (None,):
                return False
            db.execute((files("kycache.demo") / "schema.sql").read_bytes())
            if fill:
                fill(db)
        return True

    def start_debezium(self) -> None:
        """Prepares the source as `kycache connector` says, then starts Debezium, which takes its snapshot."""
        with psycopg.connect(self.dsn) as db:  # one transaction, as it is printed
            for statement in source_sql(self.view, self.layout.connector):
                db.execute(statement.encode())
        self.debezium.start()

    def revive(self) -> bool:
        """Starts again what died and can go on; says whether a process is new.

        Raises:
            Unreachable: something died that cannot go on.
        """
        if not self.broker.program.restartable and not self.broker.is_running():
            raise self.broker.failure("ended, and what it held in memory is gone")
        revived = [child.revive() for child in self.children if child.pid]
        if self.kind is Kind.APACHE and time.monotonic() > self._task_check_at:
            self._task_check_at = time.monotonic() + FAILED_TASK_CHECK_S
            apache.restart_failed(self.layout)
        return any(revived)


@contextmanager
def open_stack(kind: Kind, layout: Layout, view: View) -> Iterator[Stack]:
    """A stack, prepared but not started; every process it started is stopped when the block ends."""
    stack = Stack(kind, layout, view)
    # Debezium first: it holds a replication connection that Postgres would wait for.
    with stopping(stack.postgres), stopping(stack.broker), stopping(stack.debezium):
        yield stack
