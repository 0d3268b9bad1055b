"""`kycache demo`: everything from an empty folder to two answering APIs, and kept so until it is told to stop."""

import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psycopg

from kycache.demo.population import people
from kycache.demo.population.writes import keep_writing
from kycache.demo.servers import postgres
from kycache.demo.servers.children import POLL_S, Child, Program, stopping
from kycache.demo.servers.layout import TOPIC
from kycache.demo.servers.ports import HOST
from kycache.demo.servers.stack import Kind, Stack, open_stack
from kycache.model.definition import default_view
from kycache.model.errors import ConfigurationError, Unreachable

from .configuration import write_configuration
from .progress import Narrator
from .readiness import ReadyFacts, held_users, is_ready, listed_users, write_ready_file
from .workspace import Workspace, open_workspace

USERS_DEFAULT = 10_000
READY_TIMEOUT_BASE_S = 180.0
READY_TIMEOUT_PER_USER_S = 0.005
"""Ten times what a user costs on two slow cores; a demo that takes longer is stuck."""

WRITER_STOP_S = 2.0
"""The writer may wait for a lock that somebody's session holds; PostgreSQL's end then frees it."""

READY_POLL_S = 0.25
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `kycache demo` was asked for. None: not said, so remembered, default, or free."""

    stack: str = Kind.EMBEDDED
    users: int = USERS_DEFAULT
    port: int | None = None
    shards: int | None = None
    write_rate: float = 0.0
    directory: Path | None = None
    ready_file: Path | None = None


class _Stopped(BaseException):
    """A signal asked the demo to end. Not an Exception: nothing on the way may take it for a failure."""


def run_demo(options: DemoOptions) -> int:
    """Runs the demo until SIGINT, SIGTERM or SIGHUP; nothing of it is left then, but the folder of `directory`.

    Returns:
        The exit code: 0.

    Raises:
        KycacheError: it cannot start, or something ended that cannot be started again.
    """
    _check(options)
    narrator = Narrator()
    try:
        with _stop_signals(), ExitStack() as owned:
            _run(options, narrator, owned)
    except _Stopped as stopped:
        narrator.say(f"stopped by {stopped}; nothing is left running")
    return 0


def _check(options: DemoOptions) -> None:
    if options.stack not in {*Kind}:
        raise ConfigurationError(f"there is no stack {options.stack!r}", f"give one of {', '.join(Kind)}")
    if options.users < 0 or options.write_rate < 0:
        raise ConfigurationError("neither --users nor --write-rate may be negative", "give 0 or more")
    if options.ready_file is not None:
        if not options.ready_file.absolute().parent.is_dir():
            raise ConfigurationError(f"the folder of the ready file {options.ready_file} is not there", "make it")
        if options.ready_file.is_dir():
            raise ConfigurationError(f"the ready file {options.ready_file} is a folder", "name a file")


def _run(options: DemoOptions, narrator: Narrator, owned: ExitStack) -> None:
    kind = Kind(options.stack)
    workspace = owned.enter_context(open_workspace(kind, options.directory, options.shards, options.port))
    layout = workspace.layout
    if options.ready_file is not None:
        options.ready_file.unlink(
            missing_ok=True
        )  # an earlier demo's, which has ended, says nothing about this one
    with narrator.step("Preparing" if workspace.resumed else "Making the database"):
        stack = owned.enter_context(open_stack(kind, layout, default_view()))
    with narrator.step("Starting PostgreSQL and Kafka"):
        stack.start_servers()
    _fill(options, narrator, stack)
    configuration = write_configuration(layout, workspace.http, stack.connect_url)
    with narrator.step("Starting Debezium"):
        stack.start_debezium()
    ingest = _kycache("ingest", workspace, configuration)
    web = _kycache("web", workspace, configuration)
    owned.enter_context(stopping(web, ingest))
    ingest.start()
    web.start()
    demo = _Demo(options, narrator, workspace, stack, ingest, web)
    demo.wait_ready()
    demo.announce(configuration)
    if options.write_rate > 0:
        owned.enter_context(_writing(stack.dsn, options.write_rate))
    if options.ready_file is not None:
        owned.callback(options.ready_file.unlink, missing_ok=True)
    demo.keep()


def _fill(options: DemoOptions, narrator: Narrator, stack: Stack) -> None:
    with narrator.step("Loading people", options.users) as progress:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(done)

        new = stack.create_tables(lambda db: people.load(db, options.users, advance))
    if not new:
        narrator.say("the people of the earlier start are there still")


def _kycache(command: str, workspace: Workspace, configuration: Path) -> Child:
    return Child(
        Program(
            name=command,
            argv=(sys.executable, "-m", "kycache.cli.main", "--config", str(configuration), command),
            log=workspace.layout.logs / f"{command}.log",
            directory=workspace.layout.directory,
        )
    )


def _kycache_in_a_shell() -> str:
    """How this installation is called: `make demo` runs one that is on nobody's path."""
    ours = Path(sys.executable).with_name("kycache")
    return "kycache" if shutil.which("kycache") == str(ours) else shlex.quote(str(ours))


class _Demo:
    """The started demo: waits for it, tells about it, keeps it alive."""

    def __init__(
        self,
        options: DemoOptions,
        narrator: Narrator,
        workspace: Workspace,
        stack: Stack,
        ingest: Child,
        web: Child,
    ) -> None:
        self._options = options
        self._narrator = narrator
        self._workspace = workspace
        self._stack = stack
        self._ingest = ingest
        self._web = web
        self._http = f"http://{HOST}:{workspace.http}"

    def wait_ready(self) -> None:
        """Waits until every shard is ready and everyone in the source is in the list.

        Raises:
            Unreachable: that takes far too long, or a process does not stay up.
        """
        users = self._count_users()
        timeout_s = READY_TIMEOUT_BASE_S + READY_TIMEOUT_PER_USER_S * users
        deadline = time.monotonic() + timeout_s
        with self._narrator.step("Filling the cache", users) as progress:
            while True:
                self._revive()
                listed = listed_users(self._http) if is_ready(self._http) else None
                if listed is not None and listed >= users:
                    break
                progress(min(held_users(self._http), users))
                if time.monotonic() > deadline:
                    raise Unreachable(
                        f"after {timeout_s:.0f} s the cache lists {listed or 0:,} of {users:,} users",
                        f"look into {self._workspace.layout.logs} (with --dir it stays)",
                    )
                time.sleep(READY_POLL_S)
        for child in self._children().values():
            child.mark_well()

    def keep(self) -> None:
        """Starts again what dies, for ever; ends by a signal, or by a death that is final."""
        self._write_ready_file()
        while True:
            if self._revive():
                self._write_ready_file()
            time.sleep(POLL_S)

    def announce(self, configuration: Path) -> None:
        """Prints where everything is and what to try."""
        say, layout = self._narrator.say, self._workspace.layout
        someone = self._someone()
        psql = f"{shlex.quote(str(postgres.binary('psql')))} {shlex.quote(self._stack.dsn)}"
        change = f"UPDATE users SET first_name = 'Ada' WHERE user_id = '{someone}'"
        say(f"\nReady after {self._narrator.elapsed_s:.0f} s.\n")
        say(f"  HTTP      {self._http}   (described in {self._http}/docs)")
        say(f"  Postgres  {self._stack.dsn}")
        say(f"  Kafka     {layout.bootstrap}, topic {TOPIC}, {layout.partitions} partitions")
        if self._stack.connect_url:
            say(f"  Connect   {self._stack.connect_url}")
        say(f"  Folder    {layout.directory}   (logs in logs/)")
        say(f"  Commands  {_kycache_in_a_shell()} --config {shlex.quote(str(configuration))} status")
        say("\nTry:\n")
        say(f"  curl -s '{self._http}/users?size=3'")
        say(f"  curl -s '{self._http}/users/{someone}'")
        say(f"  curl -s '{self._http}/readyz'")
        say(f'  {psql} -c "{change}"')
        say("\n… and ask for that user again. Ctrl-C stops everything.\n")

    def _children(self) -> dict[str, Child]:
        stack = self._stack
        return {
            "ingest": self._ingest,
            "web": self._web,
            "postgres": stack.postgres,
            "broker": stack.broker,
            "debezium": stack.debezium,
        }

    def _revive(self) -> bool:
        revived = [self._stack.revive(), self._ingest.revive(), self._web.revive()]
        return any(revived)

    def _write_ready_file(self) -> None:
        if self._options.ready_file is None:
            return
        facts = ReadyFacts(
            http=self._http,
            postgres=self._stack.dsn,
            kafka=self._workspace.layout.bootstrap,
            topic=TOPIC,
            dir=str(self._workspace.layout.directory),
            connect=self._stack.connect_url,
        )
        pids = {name: child.pid for name, child in self._children().items()}
        write_ready_file(self._options.ready_file, facts, pids)

    def _count_users(self) -> int:
        with psycopg.connect(self._stack.dsn) as db:
            row = db.execute("SELECT count(*) FROM users").fetchone()
        return int(row[0]) if row else 0

    def _someone(self) -> str:
        query = "SELECT user_id::text FROM users ORDER BY created_at DESC NULLS LAST, user_id DESC LIMIT 1"
        with psycopg.connect(self._stack.dsn) as db:
            row = db.execute(query).fetchone()
        return str(row[0]) if row else "00000000-0000-4000-8000-000000000000"


@contextmanager
def _writing(dsn: str, rate: float) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=keep_writing, args=(dsn, rate, people.SEED, stop), name="writes", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(WRITER_STOP_S)


@contextmanager
def _stop_signals() -> Iterator[None]:
    """The first stop signal ends the block by `_Stopped`; later ones are ignored, so that it ends in order."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in _STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise _Stopped(signal.Signals(number).name)

    before = {each: signal.signal(each, stop) for each in _STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
