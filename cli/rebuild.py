"""`kycache rebuild`: starts shards over from the first offset of their partitions."""

from typing import Annotated

import typer

from kycache.actors.files import DataDirectory
from kycache.model.errors import Refused
from kycache.model.view import View

from .composition import data_directory, environments, kafka_settings
from .invocation import ShardsOption, invocation


def rebuild(
    context: typer.Context,
    shard: ShardsOption = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Start shards over: a new generation, read from offset 0. Refused where the log no longer starts there.

    A shard's former generation is given up; it answers as `bootstrapping` until the log is read again.
    """
    # Here, as Kafka's client takes its time to import.
    from kycache.ingest.control import Request, Worker, command_shard

    settings = invocation(context).settings()
    view = settings.load_view()
    directory = data_directory(settings)
    kafka = kafka_settings(settings)
    home = directory.node()
    if home is None:
        raise Refused(
            f"nothing was ingested into {directory.root}", "start `kycache ingest`: it reads all there is"
        )
    shards = sorted(set(shard)) if shard else list(range(home.shards))
    if shards[-1] >= home.shards:
        raise Refused(
            f"there is no shard {shards[-1]} in {directory.root}", f"name shards from 0 to {home.shards - 1}"
        )
    if not yes:
        named = f"shard {', '.join(map(str, shards))}" if shard else f"all {home.shards} shards"
        typer.confirm(f"Give up what {named} of {directory.root} hold, and read the log again?", abort=True)
    if home.view != view.hash:
        _rehome(directory, view, whole=not shard)
    for number in shards:
        command_shard(
            directory,
            Request("rebuild", number),
            lambda: Worker(kafka, directory, environments(settings, readonly=False), view),
        )
        typer.echo(f"shard {number}: starts over from offset 0")


def _rehome(directory: DataDirectory, view: View, *, whole: bool) -> None:
    """Give the directory to another view definition, whose shards are then all built anew.

    Raises:
        Refused: only some shards were named, or a process still holds one.
    """
    home = directory.node()
    assert home is not None
    if not whole:
        raise Refused(
            f"data directory {directory.root} was made with view definition {home.view}, not {view.hash}",
            "run `kycache rebuild` without --shard: one view holds for all shards",
        )
    holders = {directory.shard(number).holder() for number in range(home.shards)} - {None}
    if holders:
        raise Refused(
            f"the shards of {directory.root} are held by {', '.join(sorted(filter(None, holders)))}",
            "stop it: it works with the former view definition",
        )
    directory.rehome(view.hash)
