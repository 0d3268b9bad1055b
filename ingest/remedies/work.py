"""Which work each command means."""

from typing import assert_never

from kycache.actors.files.home import Home
from kycache.actors.store.store import Settled
from kycache.ingest.consuming.settings import KafkaSettings

from .acknowledge import acknowledge
from .bring import bring, bring_compacted
from .protocol import OFFSETS_MAX, Acknowledge, Bring, Command, Compact, Drop, Rebuild, Replay
from .quarantine import settle
from .rebuild import rebuild


def carry_out(command: Command, settings: KafkaSettings, home: Home) -> tuple[Settled, ...]:
    """Do it, on a shard whose lock the caller holds and whose actor is stopped. Blocking.

    Returns:
        What became of each record of the quarantine that it is about.

    Raises:
        KycacheError: it cannot be done; nothing was changed.
    """
    shard = command.shard
    match command:
        case Rebuild():
            rebuild(settings, home, shard, replace=command.replace)
        case Acknowledge():
            acknowledge(home, shard)
        case Replay() | Drop():
            offsets, drop = command.offsets[:OFFSETS_MAX], isinstance(command, Drop)
            return tuple(settle(settings, home, shard, offsets, drop=drop))
        case Bring():
            bring(home, shard, command.generation, replace=command.replace)
        case Compact():
            bring_compacted(settings, home, shard, command.generation, command.of)
        case _:
            assert_never(command)
    return ()
