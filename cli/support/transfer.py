"""Progress of files on their way: a bar for each shard on a terminal, a line for each finished one elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kycache.model.errors import Refused

if TYPE_CHECKING:
    from kycache.snapshots.storage.manifest import Manifest


@contextmanager
def room_wanted(shard: int, root: Path) -> Iterator[None]:
    """Says which shard's new file could not be written, what is left, and what next."""
    try:
        yield
    except OSError as error:
        raise Refused(
            f"shard {shard}: it cannot be written below {root}: {error.strerror}; what serves is as it was",
            "make room there, then run the command again for the shards that are left",
        ) from None


class TransferBars:
    """Bars while it is entered. Everything goes to stderr: stdout has the facts."""

    def __init__(self, what: str, quiet: bool) -> None:
        """Args:
        what: what becomes of a shard, for the label: `copied`.
        quiet: no lines where there is no terminal.
        """
        console = Console(stderr=True)
        self._what = what
        self._shown = console.is_terminal
        self._quiet = quiet
        columns = (DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
        self._bars = Progress(TextColumn("{task.description}"), BarColumn(), *columns, console=console)
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> Self:
        if self._shown:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._shown:
            self._bars.stop()

    def begin(self, shard: int, total: int) -> None:
        """A shard's file, of about so many bytes."""
        self._tasks[shard] = self._bars.add_task(f"shard {shard}", total=total)

    def advance(self, shard: int, count: int) -> None:
        """So many more of them."""
        self._bars.advance(self._tasks[shard], count)

    def done(self, shard: int, line: str) -> None:
        """A shard is finished: what to say of it."""
        if shard in self._tasks:
            task = self._bars.tasks[self._tasks[shard]]
            self._bars.update(self._tasks[shard], total=task.completed)
        if not (self._shown or self._quiet):
            typer.echo(line, err=True)


def say_lacking(manifest: "Manifest") -> None:
    """Where all of a snapshot was asked for: which shards that leaves out."""
    if lacking := ", ".join(map(str, manifest.lacking)):
        typer.echo(f"snapshot {manifest.id} does not hold shard {lacking} of {manifest.shard_count}", err=True)
