"""Commands that the holder of a shard carries out for another process: they fail as they would have there."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.remedies.command import ask, command_shard
from kycache.ingest.remedies.control import Request, Worker, serve_control
from kycache.model.definition import default_view
from kycache.model.errors import KycacheError, Refused, Unreachable
from support.waiting import until

WAIT_S = 10.0


class Holding:
    """Holds every shard, and carries nothing out."""

    def __init__(self, error: KycacheError) -> None:
        self._error = error

    def holds(self, shard: int) -> bool:
        return shard == 0

    async def carry_out(self, shard: int, work: Callable[[], None]) -> None:  # noqa: ARG002
        raise self._error


@pytest.mark.parametrize("error", [Refused("no", "ask later"), Unreachable("nobody there", "start it")])
async def test_what_the_holder_could_not_do_is_the_commands_own_failure(
    tmp_path: Path, error: KycacheError
) -> None:
    """Of the same exit code, that is: 4 where a broker does not answer, 5 where it is refused."""
    directory, view = DataDirectory(tmp_path), default_view()
    directory.prepare()
    directory.shard(0).prepare()
    lock = directory.shard(0).lock()
    assert lock is not None
    worker = Worker(KafkaSettings("nowhere:9092"), directory, Environments(readonly=False, map_size=1 << 20), view)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            path = directory.run / "ingest-0.sock"
            nursery.start_soon(serve_control, Holding(error), worker, path)
            await until(lambda: trio.to_thread.run_sync(ask, path, Request("rebuild", 1)))
            with pytest.raises(type(error)) as raised:
                await trio.to_thread.run_sync(command_shard, directory, Request("rebuild", 0), lambda: worker)
            assert (raised.value.problem, raised.value.remedy) == (error.problem, error.remedy)
            nursery.cancel_scope.cancel()
    lock.release()
