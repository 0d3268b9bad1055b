"""What the demo tells its user while it starts: bars on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

PLAIN_LINE_EVERY_S = 5.0
"""Without a terminal a long step says where it is this often: alive, and not a flood in a log."""


class Narrator:
    """Prints steps and their progress."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._started_at = time.monotonic()

    def say(self, text: str = "") -> None:
        """One line, never wrapped: commands in it are meant to be copied."""
        self._console.print(text, markup=False, soft_wrap=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._started_at

    @contextmanager
    def step(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A step of the start; yields a function that takes the amount done so far."""
        showing = self._bar(what, total) if self._console.is_terminal else self._lines(what, total)
        with showing as done:
            yield done

    @contextmanager
    def _bar(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        columns = [SpinnerColumn(), TextColumn("{task.description:<28}"), BarColumn(24)]
        columns += [MofNCompleteColumn()] if total else []
        with Progress(*columns, TimeElapsedColumn(), console=self._console) as bars:
            task = bars.add_task(what, total=total)
            yield lambda amount: bars.update(task, completed=amount)
            bars.update(task, total=total or 1, completed=total or 1)

    @contextmanager
    def _lines(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        began = said = time.monotonic()
        self.say(f"{what} …")

        def done(amount: int) -> None:
            nonlocal said
            if total and time.monotonic() - said > PLAIN_LINE_EVERY_S:
                said = time.monotonic()
                self.say(f"{what}: {amount:,} of {total:,}")

        yield done
        self.say(f"{what}: done in {time.monotonic() - began:.1f} s")
