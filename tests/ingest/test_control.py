"""Commands that the holder of a shard carries out for another process: they fail as they would have there."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import trio

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.environment import Environments
from kycache.actors.files.home import Home
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.ingest.remedies.command import ask, command_shard
from kycache.ingest.remedies.control import serve_control
from kycache.ingest.remedies.protocol import Acknowledge, Bring, Command, Compact, Drop, Rebuild, Replay
from kycache.ingest.remedies.work import carry_out
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
    directory = DataDirectory(tmp_path)
    directory.prepare()
    directory.shard(0).prepare()
    lock = directory.shard(0).lock()
    assert lock is not None
    kafka = KafkaSettings("nowhere:9092")
    home = Home(directory, Environments(readonly=False, map_size=1 << 20), default_view())
    work = partial(carry_out, settings=kafka, home=home)
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            path = directory.run / "ingest-0.sock"
            nursery.start_soon(serve_control, Holding(error), work, path)
            await until(lambda: trio.to_thread.run_sync(ask, path, Rebuild(1)))
            with pytest.raises(type(error)) as raised:
                await trio.to_thread.run_sync(command_shard, Rebuild(0), kafka, home)
            assert (raised.value.problem, raised.value.remedy) == (error.problem, error.remedy)
            nursery.cancel_scope.cancel()
    lock.release()


LINES: dict[type, tuple[Command, bytes]] = {
    Rebuild: (Rebuild(2, replace=True), b'{"command":"rebuild","shard":2,"replace":true}'),
    Acknowledge: (Acknowledge(2), b'{"command":"acknowledge","shard":2}'),
    Replay: (Replay(2, (7, 9)), b'{"command":"replay","shard":2,"offsets":[7,9]}'),
    Drop: (Drop(2, (7,)), b'{"command":"drop","shard":2,"offsets":[7]}'),
    Bring: (Bring(2, "gen-000007"), b'{"command":"bring","shard":2,"generation":"gen-000007","replace":false}'),
    Compact: (
        Compact(2, "gen-000007", "gen-000006"),
        b'{"command":"compact","shard":2,"generation":"gen-000007","of":"gen-000006"}',
    ),
}


@pytest.mark.parametrize("kind", get_args(Command))
def test_a_command_is_one_line(kind: type) -> None:
    command, line = LINES[kind]
    assert msgspec.json.encode(command) == line
    assert msgspec.json.decode(line, type=Command) == command


@pytest.mark.parametrize(
    ("command", "error", "problem"),
    [
        (Rebuild(0), Unreachable, "broker"),
        (Acknowledge(0), Refused, "shard 0 has no store"),
        (Replay(0, (1,)), Refused, "shard 0 has no store"),
        (Drop(0, (1,)), Refused, "shard 0 has no store"),
        (Bring(0, "gen-000001"), Refused, "is no whole generation"),
        (Compact(0, "gen-000001", "gen-000000"), Refused, "is no whole generation"),
    ],
)
def test_where_nobody_holds_the_shard_the_command_does_its_work_itself(
    tmp_path: Path, command: Command, error: type[KycacheError], problem: str
) -> None:
    directory = DataDirectory(tmp_path)
    home = Home(directory, Environments(readonly=False, map_size=1 << 20), default_view())
    with pytest.raises(error, match=problem):
        command_shard(command, KafkaSettings("127.0.0.1:1"), home)
    lock = directory.shard(0).lock()  # given back
    assert lock is not None
    lock.release()
