"""How far shards are from where the log ended, while ingest reads them on; until they have caught up."""

import time
from collections.abc import Mapping

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.generations.takeover import state_of
from kycache.actors.rules.reports import WriterState
from kycache.model.errors import Refused

LOOK_S = 0.2
"""Between two looks at each shard, which cost a read of its state."""

OPEN_WAIT_S = 10.0
"""A shard without a holder for so long is read on by nobody at present; and one that is still halted then did not
halt before its files were brought back, but since."""


def wait_caught_up(
    directory: DataDirectory, environments: Environments, targets: Mapping[int, int], *, quiet: bool
) -> bool:
    """Wait until the shards' holders have read each up to an offset, and nothing is built beside it any more.

    Interrupted, it changes nothing: the shards go on by themselves.

    Args:
        environments: read-only ones.
        targets: per shard, the offset.
        quiet: no lines where there is no terminal.

    Returns:
        False where nobody holds one of them: it reads on when ingest is started.

    Raises:
        Refused: one halted.
    """
    console = Console(stderr=True)
    left = dict(targets)
    held_at = dict.fromkeys(left, time.monotonic())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        tasks = {shard: bars.add_task(f"shard {shard} reads on", total=None) for shard in left}
        began: dict[int, int] = {}
        while left:
            for shard, target in list(left.items()):
                offset, done = _progress(directory, environments, shard, target)
                began.setdefault(shard, offset)
                bars.update(tasks[shard], completed=offset - began[shard], total=max(0, target - began[shard]))
                if done:
                    del left[shard]
                    if not (console.is_terminal or quiet):
                        typer.echo(f"shard {shard}: has caught up, at offset {offset}", err=True)
                elif _is_read_on(directory, shard):
                    held_at[shard] = time.monotonic()
                elif time.monotonic() - held_at[shard] > OPEN_WAIT_S:
                    _refuse_halted(directory, shard)
                    return False
            if left:
                time.sleep(LOOK_S)
    return True


def _is_read_on(directory: DataDirectory, shard: int) -> bool:
    folder = directory.shard(shard)
    report = folder.report()
    return folder.holder() is not None and report is not None and report.state is WriterState.OPEN


def _refuse_halted(directory: DataDirectory, shard: int) -> None:
    folder = directory.shard(shard)
    report = folder.report()
    if folder.holder() is not None and report is not None and report.state is WriterState.HALTED:
        raise Refused(report.reason, report.remedy)


def _progress(directory: DataDirectory, environments: Environments, shard: int, target: int) -> tuple[int, bool]:
    """Where the generation that is written stands, and whether it serves and has reached the target."""
    folder = directory.shard(shard)
    building = folder.building()
    written = building or folder.current()
    state = None if written is None else state_of(environments, folder, written)
    offset = 0 if state is None else state.position.offset
    return offset, building is None and offset >= target
