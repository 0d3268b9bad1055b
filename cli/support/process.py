"""A long-running process: its services start in order, end in reverse by a signal, or all at once by a failure.

The first SIGTERM or SIGINT ends the services from the last to the first, each in its own orderly way. A second one
does not wait for that. A signal that comes before all have started cancels what there is.
"""

import signal
from collections.abc import Iterator, Sequence
from typing import Protocol

import structlog
import trio

from kycache.model.errors import KycacheError

log = structlog.get_logger()


class Service(Protocol):
    """Runs until cancelled; calls `task_status.started()` when it does its work."""

    async def __call__(self, *, task_status: "trio.TaskStatus[None]") -> None: ...


def run_until_stopped(*services: Service) -> None:
    """Run the services until a signal.

    Raises:
        KycacheError: what a service ended with.
    """
    try:
        trio.run(_run, services)
    except BaseExceptionGroup as group:
        # Nurseries wrap; the operator is told the one thing that went wrong.
        causes = list(_leaves(group))
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            raise KeyboardInterrupt from None
        if all(isinstance(cause, (KycacheError, OSError)) for cause in causes):
            raise causes[0] from None
        raise


async def _run(services: Sequence[Service]) -> None:
    stop, started = trio.Event(), trio.Event()
    async with trio.open_nursery() as nursery:

        async def listen(task_status: "trio.TaskStatus[None]") -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                task_status.started()
                async for number in signals:
                    log.info("stopping", signal=signal.Signals(number).name)
                    stop.set()
                    if not started.is_set():
                        nursery.cancel_scope.cancel()
                    # Left here: the next signal does what it does by default.
                    return

        await nursery.start(listen)
        await _hold(services, started, stop)
        nursery.cancel_scope.cancel()


async def _hold(services: Sequence[Service], started: trio.Event, stop: trio.Event) -> None:
    """Start the first service, hold the others inside it, and end it when they have ended."""
    if not services:
        started.set()
        await stop.wait()
        return
    async with trio.open_nursery() as nursery:
        await nursery.start(services[0])
        await _hold(services[1:], started, stop)
        nursery.cancel_scope.cancel()


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for inner in group.exceptions:
        if isinstance(inner, BaseExceptionGroup):
            yield from _leaves(inner)
        else:
            yield inner
