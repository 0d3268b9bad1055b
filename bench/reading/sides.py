"""The sides: real servers on loopback ports of their own, on one core, whose CPU is counted process by process."""

from __future__ import annotations

import http.client
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import psycopg
from redis_server import redis_server

from kycache.demo.population.people import ACCOUNT_COLUMNS, KYC_COLUMNS, USER_COLUMNS, Person
from kycache.demo.servers import postgres
from kycache.demo.servers.children import Child, Program, stopping
from kycache.demo.servers.ports import HOST, free_ports

PROGRAMS = Path(__file__).parents[1] / "peers"
SCHEMA = Path(postgres.__file__).parents[1] / "schema.sql"
PEERS = {
    "redis": "FastAPI + Redis",
    "hello": "bare ASGI",
    "postgres": "FastAPI + PostgreSQL",
    "tuned": "FastAPI + PostgreSQL, tuned",
}
"""The names of the sides that are not kycache."""

SERVER_CORE, LOAD_CORE = 0, 1
READY_S = 120.0
"""Until a server answers: a `kycache web` of a million users walks its files first."""

LOOK_S = 0.05
_COUNTER = re.compile(r'^(kycache_\w+)\{\w+="(\w+)"\} (\S+)$', re.MULTILINE)
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

INDEXES = (
    "CREATE INDEX ON users (created_at, user_id)",
    "CREATE INDEX ON users (region, created_at, user_id)",
    "CREATE INDEX ON kyc_records (user_id, updated_at, kyc_id)",
)
"""All that the peer's queries can use, beside those of the demo's schema."""

_TUNING = "shared_buffers = '512MB'\nwork_mem = '64MB'\njit = off\nautovacuum = off\n"


@dataclass(frozen=True)
class Lane:
    """A way through `kycache web`, chosen by settings."""

    name: str
    settings: Mapping[str, object]


LANES = (Lane("kycache", {"fast_lane": True}), Lane("kycache, full lane", {"fast_lane": False}))


@dataclass(frozen=True)
class Side:
    """A server under load."""

    name: str
    port: int
    roots: Sequence[int]
    """Processes that, with all their descendants, do its work."""

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def cpu_s(self) -> float:
        """User and system time of all its processes since they began."""
        return sum(_cpu_s(pid) for pid in _family(self.roots))

    def counted(self) -> dict[tuple[str, str], float]:
        """What kycache has counted since it began, by counter and label: of `/metrics`, what has one label."""
        text = self.get("/metrics", {})[1].decode()
        return {(name, label): float(value) for name, label, value in _COUNTER.findall(text)}

    def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, bytes, Message]:
        """Status, body and headers of one answer, over a connection of its own."""
        with client(self) as asked:
            return fetched(asked, path, headers)


@contextmanager
def client(side: Side) -> Iterator[http.client.HTTPConnection]:
    """A connection that is kept."""
    connection = http.client.HTTPConnection(HOST, side.port, timeout=30)
    try:
        yield connection
    finally:
        connection.close()


def fetched(
    asked: http.client.HTTPConnection, path: str, headers: Mapping[str, str]
) -> tuple[int, bytes, Message]:
    asked.request("GET", path, headers=dict(headers))
    answer = asked.getresponse()
    return answer.status, answer.read(), answer.headers


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {core})
    except OSError:
        raise SystemExit(
            f"core {core} is missing: servers run on {SERVER_CORE}, the load on {LOAD_CORE}"
        ) from None
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Sides:
    """Starts servers on the server's core; all are stopped when the block ends."""

    def __init__(self, folder: Path, data: Path) -> None:
        self._folder = folder
        self._data = data
        self._stack = ExitStack()
        self._started: dict[str, Side] = {}

    def __enter__(self) -> Sides:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kycache(self, lane: Lane, more: Mapping[str, object]) -> Side:
        """A `kycache web` of one worker with these settings in `[http]`; the same settings, the same process."""
        settings = {**lane.settings, **more}
        key = ",".join(f"{name}={value}" for name, value in sorted(settings.items()))
        return self._once(f"web {key}", lambda: self._web(lane.name, settings))

    def redis(self, fill: Callable[[int], None]) -> Side:
        """FastAPI on uvicorn, and a Redis that `fill` fills, given its port."""
        return self._once("redis", lambda: self._redis(fill))

    def postgres(self, crowd: Sequence[Person], *, tuned: bool) -> Side:
        """FastAPI on uvicorn, asyncpg, and a PostgreSQL that holds these people; each way has one of its own."""
        key = "tuned" if tuned else "postgres"
        return self._once(key, lambda: self._postgres(key, crowd, {"TUNED": "1"} if tuned else {}))

    def hello(self) -> Side:
        """An ASGI application on uvicorn that does nothing."""
        return self._once("hello", lambda: self._uvicorn(PEERS["hello"], "hello", {}))

    def _once(self, key: str, start: Callable[[], Side]) -> Side:
        if key not in self._started:
            with on_core(SERVER_CORE):
                self._started[key] = start()
        return self._started[key]

    def _web(self, name: str, settings: Mapping[str, object]) -> Side:
        [port] = free_ports(1)
        lines = ["[data]", f'dir = "{self._data}"', "[http]", f"port = {port}", "drain = 0", "workers = 1"]
        lines += [f"{key} = {str(value).lower()}" for key, value in settings.items()]
        file = self._folder / f"web-{port}.toml"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "kycache.cli.main", "--config", str(file), "web"]
        return self._listening(name, command, port, {}, "/readyz")

    def _redis(self, fill: Callable[[int], None]) -> Side:
        server = self._stack.enter_context(redis_server(self._folder))
        fill(server.port)
        environment = {"REDIS_PORT": str(server.port)}
        return self._uvicorn(PEERS["redis"], "fastapi_redis", environment, server.pid)

    def _postgres(self, key: str, crowd: Sequence[Person], more: Mapping[str, str]) -> Side:
        [port] = free_ports(1)
        settings = postgres.Postgres(self._folder / key, port, postgres.new_password())
        server = postgres.prepare(settings, self._folder / f"{key}.log", durable=False)
        with (settings.data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
            file.write(_TUNING)
        self._stack.enter_context(stopping(server))
        server.start()
        postgres.wait_ready(settings, server)
        fill_postgres(settings.dsn, crowd)
        environment = {"POSTGRES_DSN": settings.dsn, **more}
        return self._uvicorn(PEERS[key], "fastapi_postgres", environment, server.pid)

    def _uvicorn(self, name: str, module: str, environment: Mapping[str, str], *more: int) -> Side:
        [port] = free_ports(1)
        command = [sys.executable, "-m", "uvicorn", f"{module}:app", "--app-dir", str(PROGRAMS), "--host", HOST]
        command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        return self._listening(name, [*command, "--log-level", "warning"], port, environment, "/livez", *more)

    def _listening(
        self, name: str, command: list[str], port: int, environment: Mapping[str, str], probe: str, *more: int
    ) -> Side:
        program = Program(name, tuple(command), self._folder / f"server-{port}.log", environment, self._folder)
        server = Child(program)
        self._stack.enter_context(stopping(server))
        server.start()
        side = Side(name, port, (server.pid, *more))
        deadline = time.monotonic() + READY_S
        while not _answers(side, probe):
            if not server.is_running() or time.monotonic() > deadline:
                raise SystemExit(str(server.failure("does not come up")))
            time.sleep(LOOK_S)
        return side


def fill_postgres(dsn: str, everyone: Sequence[Person]) -> None:
    """The demo's schema, these people, and indexes for every question asked of them."""
    tables = {
        f"users ({USER_COLUMNS})": [p.user for p in everyone],
        f"kyc_records ({KYC_COLUMNS})": [row for p in everyone for row in p.kyc],
        f"accounts ({ACCOUNT_COLUMNS})": [row for p in everyone for row in p.accounts],
    }
    with psycopg.connect(dsn, autocommit=True) as db:
        db.execute(SCHEMA.read_bytes())
        for table, rows in tables.items():
            with db.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
        for statement in INDEXES:
            db.execute(statement.encode())
        db.execute("VACUUM ANALYZE")


def _answers(side: Side, path: str) -> bool:
    try:
        return side.get(path, {})[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _family(roots: Sequence[int]) -> list[int]:
    found = list(roots)
    for pid in found:  # grows while it is walked
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, _read(task).split())
    return found


def _cpu_s(pid: int) -> float:
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S if fields else 0.0


def _read(path: Path) -> str:
    """A file of /proc; empty where the process has ended."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
