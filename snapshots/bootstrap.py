"""Where a shard without a file comes from: the newest snapshot that it can come back from, else the log.

Asked by ingest before it opens such a shard. The store is read by a child process (`filling.py`), so that the
shards that run are not slowed down, and a store that does not answer holds up no shutdown. What was chosen, and
what was passed over and why, stands in the log.

    a snapshot can be used      its generation is handed to ingest, which reads on from there
    none can                    the log is read from its start, where it still has that; else the shard halts
    the store does not answer   it is asked again: for a while where the log is whole, for ever where it is not
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import chain, repeat

import msgspec
import structlog
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.shard_folder import holder_name
from kycache.actors.rules.reports import Report, WriterState
from kycache.model.errors import Refused
from kycache.model.view import View
from kycache.snapshots.storage.settings import SnapshotSettings

from .home import home_facts
from .plan import HomeFacts, TopicFacts

AT_ONCE = 2
"""Shards that are fetched at a time: each keeps a core and a line busy, and those that run need some too."""

RETRY_S = (1.0, 5.0, 15.0, 30.0, 60.0)
"""Waits between questions to a store that does not answer; the last one repeats."""

STORE_WAIT_S = 120.0
"""For so long a store is asked before the log is read instead: a restart of it, or of the line to it. Longer would
be a shard that answers nobody although nothing is missing."""

EMPTY_S = 5.0
"""For so long a store that held no snapshot is not asked again: shards that start together ask once."""

log = structlog.get_logger()


class Job(msgspec.Struct, frozen=True):
    """What the child is to do."""

    settings: SnapshotSettings
    root: str
    shard: int
    view: View
    topic: TopicFacts
    home: HomeFacts


class Skips(msgspec.Struct, frozen=True, tag=True):
    """A snapshot was passed over."""

    snapshot: str
    reason: str


class Takes(msgspec.Struct, frozen=True, tag=True):
    """A snapshot is being fetched."""

    snapshot: str
    created_at: str
    bytes: int
    behind: int


class Brought(msgspec.Struct, frozen=True, tag=True):
    """The last word: a generation is there, whole and vouched for, and nobody uses it."""

    snapshot: str
    generation: str


class Nothing(msgspec.Struct, frozen=True, tag=True):
    """The last word: no snapshot can be used."""

    snapshots: int
    """That the store holds of any shard."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The last word: nothing is known."""

    problem: str
    remedy: str
    away: bool
    """The store may answer later."""
    final: bool = False
    """The log will not do either."""


Word = Skips | Takes | Brought | Nothing | Failed

_encode = msgspec.json.Encoder(enc_hook=os.fspath).encode
_decode = msgspec.json.Decoder(Word).decode


class Bootstrap:
    """The snapshots of one store, for the shards of one data directory. One per process."""

    def __init__(
        self,
        settings: SnapshotSettings,
        directory: DataDirectory,
        view: View,
        describe: Callable[[], TopicFacts],
    ) -> None:
        """Args:
        describe: asks the broker, blocking; raises `Unreachable`.
        """
        self._settings = settings
        self._directory = directory
        self._view = view
        self._describe = describe
        self._slots = trio.CapacityLimiter(AT_ONCE)
        self._empty_until = -1.0

    async def __call__(self, shard: int) -> str | None:
        """The name of a generation to bring into use; None: read the log from its start. The caller holds the
        shard's lock. Cancelled, it leaves at most a generation that nobody uses.

        Raises:
            Refused: neither will do.
            Unreachable: the broker does not answer.
        """
        began = trio.current_time()
        waits = chain(RETRY_S, repeat(RETRY_S[-1]))
        self._say(shard, f"looks for a snapshot in {self._settings.shown}")
        while True:
            topic = await trio.to_thread.run_sync(self._describe)
            node = self._directory.node()
            whole = node is not None and topic.starts[shard] <= node.start(shard, topic.id)
            if trio.current_time() < self._empty_until:
                word: Word = Nothing(0)
            else:
                async with self._slots:
                    word = await self._filled(shard, topic)
            match word:
                case Brought(snapshot, generation):
                    took = round(trio.current_time() - began, 1)
                    log.info("a shard came back from a snapshot", shard=shard, snapshot=snapshot, seconds=took)
                    return generation
                case Failed(problem, remedy, final=True):
                    raise Refused(problem, remedy)
                case Failed(problem, _, away=True) if not whole or trio.current_time() - began < STORE_WAIT_S:
                    self._say(shard, f"no snapshot can be had yet: {problem}")
                    log.warning("no snapshot can be had yet, trying again", shard=shard, problem=problem)
                    await trio.sleep(next(waits))
                case _:
                    self._read_log(shard, topic, word, whole=whole)
                    return None

    def _read_log(self, shard: int, topic: TopicFacts, word: Word, *, whole: bool) -> None:
        """Say that the log is read instead, and why. Raises `Refused` where it will not do either."""
        problem, remedy = f"no snapshot in {self._settings.shown} can be used", "see the log for why"
        if isinstance(word, Nothing) and not word.snapshots:
            problem, remedy = f"there are no snapshots in {self._settings.shown}", ""
            self._empty_until = trio.current_time() + EMPTY_S
        elif isinstance(word, Failed):
            problem, remedy = word.problem, word.remedy
        if not whole:
            raise Refused(
                f"shard {shard}: its log begins at offset {topic.starts[shard]}, and {problem}",
                f"{remedy or 'have one taken where the shard is'}, or run `kycache rebuild --shard {shard} "
                "--epoch`, which orders a whole snapshot: skipping would resurrect what was deleted",
            )
        quiet = isinstance(word, Nothing) and not word.snapshots
        say = log.info if quiet else log.warning
        say("the shard is read from the start of its log", shard=shard, because=problem)

    async def _filled(self, shard: int, topic: TopicFacts) -> Word:
        """What a child process comes to in the end; what it says before that is told."""
        home = await trio.to_thread.run_sync(home_facts, self._directory, self._view.hash)
        job = Job(self._settings, os.fspath(self._directory.root), shard, self._view, topic, home)
        return await _last_word(_encode(job), partial(self._heard, shard))

    def _heard(self, shard: int, word: Word) -> None:
        match word:
            case Skips(snapshot, reason):
                log.warning("a snapshot was passed over", shard=shard, snapshot=snapshot, reason=reason)
            case Takes(snapshot, created_at, size, behind):
                about = f"{size >> 20} MiB, then {behind} records of the log"
                self._say(shard, f"comes back from snapshot {snapshot} of {created_at}: {about}")
                log.info("a shard is fetched", shard=shard, snapshot=snapshot, bytes=size, behind=behind)

    def _say(self, shard: int, reason: str) -> None:
        """Let `status` and `/readyz` tell; that it cannot be said, for want of room, stops nothing."""
        with suppress(OSError):
            self._directory.shard(shard).write_report(Report(WriterState.RESTORING, reason, holder=holder_name()))


async def _last_word(job: bytes, heard: Callable[[Word], None]) -> Word:
    """Run the child to its end. It ends with its standard input, so with this process at the latest."""
    command = [sys.executable, "-m", "kycache.snapshots.filling"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    last: Word = Failed("the process that reads snapshots was ended", "see that it has memory", away=True)
    try:
        async with trio.open_nursery() as nursery:
            child: trio.Process = await nursery.start(partial(trio.run_process, command, check=False, **streams))
            assert child.stdin is not None
            assert child.stdout is not None
            with suppress(trio.BrokenResourceError):  # it has ended: so does what it says
                await child.stdin.send_all(job + b"\n")
            rest = b""
            async for chunk in child.stdout:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    last = _decode(line)
                    heard(last)
            await child.stdin.aclose()
    except* OSError as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        last = Failed(f"no process could be started to read snapshots: {first}", "see `ulimit -a`", away=True)
    return last
