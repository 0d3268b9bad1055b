"""Which shard files may be mapped: those closed in order, or walked since.

A generation's `CHECKED` file vouches for its `data.mdb`. A writer holds a lock on it for as long as it has the
shard open, and leaves it empty meanwhile; closing in order writes down the file's size and time. So whoever wants
to map a file sees one of three things, of which the kernel keeps two true whoever is killed:

    locked                     a writer has it open, and looked at it before: map it
    size and time of the file  it was closed in order, or walked, and nobody touched it since: map it
    anything else              an unclean stop, or a stranger's hand: a child walks it first (`child_walk.py`)

Readers never wait: until the file was walked the shard has no store for them. Who has it open already goes on:
what a walk could find, it has mapped for long.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore
from time import monotonic, sleep

import msgspec
import structlog
import trio

from kycache.actors.files.environment import DamagedFile, check_before_mapping, data_file, used_bytes
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.rules.reports import WriterState
from kycache.model.errors import KycacheError, Refused
from kycache.model.view import View

from .child_walk import walk_in_child

MARK = "CHECKED"
WALKING = "WALKING"

FULL_WALK_BYTES_MAX = 16 << 20
"""Up to so many bytes in use, about 20,000 users, every record is looked at, which takes 2 s; of a larger file
every page, which finds what could end a process. The rest is a full verification's to find."""

MARK_BYTES_MAX = 200
"""Two numbers and their names."""

HOLD_WAIT_S = 5.0
"""How long a writer waits for its hold. Readers' looks and vouches take microseconds; another writer, which the
shard's lock keeps away, would take for ever."""

HOLD_LOOK_S = 0.001

LOOK_S = 0.05
"""How often who waits for another's walk looks again."""

PENDING_LOOK_S = 0.2
"""How often files that readers asked for in vain are looked at: a fraction of what walking one takes."""

log = structlog.get_logger()


class Unchecked(Refused):
    """Nobody vouches for the file yet."""

    def __init__(self, shard: int) -> None:
        super().__init__(
            f"shard {shard}: its file is walked first, after an unclean stop", "wait; it is open when that is done"
        )


class Mark(msgspec.Struct, frozen=True):
    """What is vouched for: `data.mdb` with this size and time of its last change."""

    size: int
    mtime_ns: int


def mark_of(generation: Path) -> Mark:
    """The file as it lies there now."""
    found = data_file(generation).stat()
    return Mark(found.st_size, found.st_mtime_ns)


def vouched(generation: Path) -> bool:
    """Whether the file may be mapped. Costs microseconds."""
    try:
        mark = os.open(generation / MARK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _locked(mark, fcntl.LOCK_SH) or _says(mark, generation)
    finally:
        os.close(mark)


def vouch(generation: Path, seen: Mark) -> None:
    """Let others map a file that was whole when it was as `seen`."""
    mark = _open(generation)
    try:
        if _locked(mark, fcntl.LOCK_EX):  # else a writer was quicker, and looked for itself
            _write(mark, seen)
    finally:
        os.close(mark)


class Held:
    """A writer's hold on a file that was vouched for."""

    def __init__(self, generation: Path, shard: int) -> None:
        """
        Raises:
            Unchecked: nobody vouches for it.
            Refused: another writer has it open.
        """
        self._generation = generation
        self._mark = _open(generation)
        try:
            deadline = monotonic() + HOLD_WAIT_S
            while not _locked(self._mark, fcntl.LOCK_EX):
                if monotonic() > deadline:
                    raise Refused(f"shard {shard}: {generation} is open in another writer", "stop that one first")
                sleep(HOLD_LOOK_S)
            if not _says(self._mark, generation):
                raise Unchecked(shard)
            # Durable before the first write, or power loss could leave the old word beside torn pages.
            os.ftruncate(self._mark, 0)
            os.fsync(self._mark)
        except BaseException:
            os.close(self._mark)
            raise

    def release(self, *, whole: bool) -> None:
        """Let go. `whole`: everything written is synced, and may be mapped without a walk."""
        if whole:
            with suppress(OSError):  # no room for the word: it will be walked, as after an unclean stop
                _write(self._mark, mark_of(self._generation))
        os.close(self._mark)


def _open(generation: Path) -> int:
    return os.open(generation / MARK, os.O_RDWR | os.O_CREAT, 0o600)


def _locked(mark: int, how: int) -> bool:
    try:
        fcntl.flock(mark, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(mark: int, seen: Mark) -> None:
    os.ftruncate(mark, 0)
    os.pwrite(mark, msgspec.json.encode(seen), 0)
    os.fsync(mark)


def _says(mark: int, generation: Path) -> bool:
    try:
        return msgspec.json.decode(os.pread(mark, MARK_BYTES_MAX, 0), type=Mark) == mark_of(generation)
    except (msgspec.MsgspecError, FileNotFoundError):
        return False


class Checker:
    """Walks files nobody vouches for. One per process."""

    def __init__(self, view: View, at_once: int | None = None) -> None:
        """Args:
        at_once: children at a time, by default one per core.
        """
        self._view = view
        self._slots = BoundedSemaphore(at_once or os.cpu_count() or 1)
        self._damaged: dict[Path, tuple[Mark, DamagedFile]] = {}

    def ensure_unheld(self, generation: Path, shard: int) -> None:
        """The same for a reader that may wait, such as a command; a holder looks for itself.

        Raises:
            Unchecked: the shard has a holder, which has not opened it yet.
            Refused: it has looked, and halted the shard.
            DamagedFile: it must not be mapped.
        """
        folder = ShardFolder(generation.parent, shard)
        if folder.holder() is not None and not vouched(generation):
            report = folder.report()
            if report is not None and report.state is WriterState.HALTED:
                raise Refused(report.reason, report.remedy)
            raise Unchecked(shard)
        self.ensure(generation, shard)

    def ensure(self, generation: Path, shard: int, look: Callable[[], None] | None = None) -> bool:
        """See to it that a file that nobody has open may be mapped. Blocking: seconds, for a large one minutes.

        Args:
            look: called now and then; what it raises ends the wait and leaves here.

        Returns:
            Whether it had to be walked.

        Raises:
            DamagedFile: it must not be mapped.
        """
        if vouched(generation):
            return False
        check_before_mapping(generation, shard)
        with _walking(generation, look):
            if vouched(generation):
                return False
            seen = mark_of(generation)
            before, error = self._damaged.get(generation, (None, None))
            if error is not None and before == seen:
                raise error
            view = self._view if used_bytes(generation) <= FULL_WALK_BYTES_MAX else None
            try:
                with self._slots:
                    walk_in_child(generation, shard, view, look=look)
            except DamagedFile as damage:
                self._damaged[generation] = (seen, damage)
                raise
            vouch(generation, seen)
            return True


@contextmanager
def _walking(generation: Path, look: Callable[[], None] | None) -> Iterator[None]:
    """One process walks a file, the others wait for what it finds; so nobody writes to it meanwhile either."""
    with (generation / WALKING).open("wb") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sleep(LOOK_S)
                if look is not None:
                    look()
            else:
                break
        yield


class Walks:
    """Walks what a server's readers asked for in vain, beside its event loop."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._pending: dict[Path, int] = {}
        self._refused: dict[Path, KycacheError] = {}

    def miss(self, generation: Path, shard: int) -> None:
        """A reader met a file that nobody vouches for.

        Raises:
            Unchecked: it will be walked.
            KycacheError: it was, and must not be mapped.
        """
        error = self._refused.get(generation)
        if error is not None:
            raise error
        self._pending[generation] = shard
        raise Unchecked(shard)

    async def run(self) -> None:
        """Walk what is asked for and held by no writer, which would look for itself. Never returns."""
        while True:
            await trio.sleep(PENDING_LOOK_S)
            pending, self._pending = self._pending, {}
            async with trio.open_nursery() as nursery:
                for generation, shard in pending.items():
                    if ShardFolder(generation.parent, shard).holder() is None:
                        nursery.start_soon(self._walk, generation, shard)

    async def _walk(self, generation: Path, shard: int) -> None:
        try:
            walked = await trio.to_thread.run_sync(
                self._checker.ensure, generation, shard, trio.from_thread.check_cancelled
            )
            log.info("a file may be mapped after an unclean stop", shard=shard, walked=walked)
        except KycacheError as error:
            log.error("a shard's file must not be mapped", shard=shard, problem=error.problem, remedy=error.remedy)
            self._refused[generation] = error
        except OSError as error:  # the generation was replaced meanwhile, or there is no room for its mark
            log.warning("a shard's file could not be walked", shard=shard, error=error.strerror)
