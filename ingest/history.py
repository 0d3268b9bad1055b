"""Whether the source is still the one that the view was read from (DESIGN 6.9).

A source that was set back under a Debezium that kept its offsets shows nothing in Kafka: Debezium passes over
whatever lies below the LSN it has stored, without a word, until the source has come that far again. So where a
source is configured it is asked: which cluster it is, on which timeline, and where its log ends.

    another cluster                      nothing that comes from it belongs to what was read
    its log ends before what was read    a restored backup
    another timeline                     a restored backup, or a failover; harmless where nothing behind the
                                         fork was read, which the timeline's history file tells
"""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.shard_folder import write_whole
from kycache.actors.rules.reports import CUT_OFF, NO_SHARD, Doubt
from kycache.model.errors import ConfigurationError, KycacheError, Unreachable
from kycache.model.lsn import format_lsn, parse_lsn

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

FILE = "source.json"
"""In the data directory: what its view was read from."""

ANSWER_WAIT_S = 5
"""For the source to answer; a question of milliseconds."""

AWAY_LOOK_S = 0.5
"""Between two looks at a source that is away: one that was set back is told by where its log ends, and that
only until it has come as far again."""

_LOOK = """
SELECT system_identifier::text, pg_is_in_recovery(),
       CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,
       CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_insert_lsn()) END
  FROM pg_control_system()
"""


class Known(msgspec.Struct, frozen=True):
    """The source as of the last look."""

    system: str
    timeline: int
    epoch: int
    """Of the data directory; a later one begins with whatever source there is then."""


class Found(NamedTuple):
    """The source as it is."""

    system: str
    timeline: int | None
    """None: a standby, which follows whatever its primary does."""
    lsn: int | None
    forks: tuple[tuple[int, int], ...] | None
    """Where each former timeline was left: (timeline, LSN). None: the role may not read it."""


def moved(known: Known, found: Found, read: int) -> str:
    """Why the source is not what the view was read from; empty where it is. Pure.

    Args:
        read: the greatest watermark of any shard, taken before the source was asked.
    """
    if found.system != known.system:
        return "the source is another database cluster than the one that was read"
    if found.lsn is not None and found.lsn < read:
        return f"the source is at LSN {format_lsn(found.lsn)}, before {format_lsn(read)}, which was read from it"
    if found.timeline is None or found.timeline == known.timeline:
        return ""
    change = f"the source is on timeline {found.timeline}, what was read came from timeline {known.timeline}"
    forks = [lsn for timeline, lsn in found.forks or () if timeline == known.timeline]
    if found.forks is None:
        return f"{change}: a restored backup or a failover; its role may not read which (pg_read_server_files)"
    if not forks or forks[0] < read:
        return f"{change}, and parted from it before {format_lsn(read)}, which was read"
    return ""


def compare(dsn: str, directory: DataDirectory, epoch: int, read: int) -> str:
    """Look at the source; where all is well remember it, else put every shard in doubt. Blocking.

    Args:
        epoch: the directory's present one.
        read: as `moved` takes it, of the shards of this epoch.

    Returns:
        What `moved` does.

    Raises:
        Unreachable: the source does not answer.
        ConfigurationError: it does not let us look.
    """
    known = _recall(directory.root)
    if known is not None and known.epoch != epoch:
        known = None  # a new one begins with whatever source there is
    found = look(dsn, None if known is None else known.timeline)
    # At the first look nothing is known but what was read.
    reason = moved(known or Known(found.system, found.timeline or 0, epoch), found, read)
    if reason:
        doubt = Doubt(CUT_OFF, NO_SHARD, 0, reason, epoch=epoch)
        if doubt not in directory.doubts():
            directory.add_doubts((doubt,))
    elif found.timeline is not None:
        now = Known(found.system, found.timeline, epoch)
        if now != known:
            write_whole(directory.root / FILE, msgspec.json.encode(now))
    return reason


def _recall(folder: Path) -> Known | None:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Known)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def look(dsn: str, timeline: int | None) -> Found:
    """Ask the source. Blocking.

    Args:
        timeline: the one it was on; where it is on another, that one's history is read.

    Raises:
        Unreachable: it does not answer.
        ConfigurationError: it does not let us look.
    """
    import psycopg  # only where a source is configured

    try:
        with connect(dsn) as database:
            database.execute("SELECT set_config('statement_timeout', %s, false)", [f"{ANSWER_WAIT_S}s"])
            row = database.execute(_LOOK).fetchone()
            assert row is not None
            system, standby, lsn, file = row
            if standby:
                return Found(system, None, None, ())
            present = int(file[:8], 16)
            forks: tuple[tuple[int, int], ...] | None = ()
            if timeline is not None and timeline != present:
                forks = _forks(database, present)
            return Found(system, present, parse_lsn(lsn), forks)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            f"the role of `[source] dsn` may not look: {error.diag.message_primary}", "grant it EXECUTE there"
        ) from None
    except psycopg.Error as error:
        raise _away(error) from None


def connect(dsn: str) -> "Connection":
    """A connection to the source. Blocking.

    Raises:
        Unreachable: it does not answer.
    """
    import psycopg

    try:
        return psycopg.connect(dsn, connect_timeout=ANSWER_WAIT_S, autocommit=True)
    except psycopg.Error as error:
        raise _away(error) from None


def _away(error: Exception) -> Unreachable:
    return Unreachable(
        f"the source does not answer: {type(error).__name__}", "check `[source] dsn` and that PostgreSQL runs"
    )


async def until_next_look(dsn: str, usual_s: float) -> None:
    """Wait as long as usual, or until the source's server ends: what starts in its place may be an older one."""
    with trio.move_on_after(usual_s):
        with suppress(KycacheError):
            connection = await trio.to_thread.run_sync(connect, dsn, abandon_on_cancel=True)
            try:
                await trio.lowlevel.wait_readable(connection.fileno())  # nothing was asked: it is the end
            finally:
                connection.close()
        await trio.sleep(AWAY_LOOK_S)  # also where something ends every session, or says something else at once


def _forks(database: "Connection", timeline: int) -> tuple[tuple[int, int], ...] | None:
    """What a timeline's history file says, in lines of `parent <tab> LSN <tab> reason`; None: not to be read."""
    from psycopg.errors import InsufficientPrivilege

    try:
        row = database.execute("SELECT pg_read_file(%s, true)", [f"pg_wal/{timeline:08X}.history"]).fetchone()
    except InsufficientPrivilege:
        return None
    text = "" if row is None or row[0] is None else str(row[0])
    forks = []
    for line in text.splitlines():
        parent, lsn, *_ = [*line.split("\t"), "", ""]
        at = parse_lsn(lsn)
        if parent.strip().isdigit() and at is not None:
            forks.append((int(parent), at))
    return tuple(forks)
