"""`kycache rebuild --acknowledge`: shards are trusted again whose tables were altered at the source."""

import sys
from collections.abc import Sequence

import lmdb
import typer

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.rules.alteration import describe_alteration
from kycache.cli.settings.composition import environments, kafka_settings, router
from kycache.cli.settings.loading import Settings
from kycache.model.errors import Refused
from kycache.model.view import View


def acknowledge_alterations(
    settings: Settings,
    claim: PidClaim,
    directory: DataDirectory,
    view: View,
    shards: Sequence[int],
    *,
    yes: bool,
    dry_run: bool,
) -> None:
    """Say what is in doubt, and have it trusted by each shard's holder.

    Raises:
        KycacheError: a shard's holder does not answer, or the shard is being rebuilt; the others may be done.
    """
    # Here, as Kafka's client takes its time to import.
    from kycache.ingest.remedies.command import command_shard
    from kycache.ingest.remedies.protocol import Acknowledge

    altered = _altered(settings, claim, directory, view, shards)
    for shard in shards:
        typer.echo(f"shard {shard}: {altered.get(shard, 'not altered')}")
    if dry_run or not altered:
        return
    if not yes and sys.stdin.isatty():
        typer.confirm("Trust what these shards hold, as it is?", abort=True)
    home = Home(directory, environments(settings, claim, readonly=False), view)
    for shard in altered:
        command_shard(Acknowledge(shard), kafka_settings(settings), home)
        typer.echo(f"shard {shard}: acknowledged")


def _altered(
    settings: Settings, claim: PidClaim, directory: DataDirectory, view: View, shards: Sequence[int]
) -> dict[int, str]:
    reads = router(settings, directory, environments(settings, claim, readonly=True), view)
    try:
        there = range(reads.shard_count or 0)
        states = {shard: reads.state(shard) for shard in shards if shard in there}
    except lmdb.Error as error:
        raise Refused(f"a shard's file cannot be read: {error}", "see `kycache status`") from None
    finally:
        reads.close()
    altered = {shard: None if state is None else state.altered for shard, state in states.items()}
    return {shard: describe_alteration(found) for shard, found in altered.items() if found is not None}
