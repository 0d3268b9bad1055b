"""`kycache rebuild`: starts shards over from the first offset of their partitions."""

import sys
from typing import Annotated

import typer

from kycache.model.errors import Refused

from .composition import data_directory, environments, kafka_settings
from .invocation import ShardsOption, invocation


def rebuild(
    context: typer.Context,
    shard: ShardsOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask. Nobody is asked where there is no terminal.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Start shards over: a new generation, read from offset 0. Refused where the log no longer starts there.

    A shard's former generation is given up; it answers as `bootstrapping` until the log is read again.
    """
    # Here, as Kafka's client takes its time to import.
    from kycache.ingest.control import Request, Worker, command_shard
    from kycache.ingest.rebuild import rebuild_for

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
    if dry_run:
        for number in shards:
            typer.echo(f"shard {number}: would start over from offset 0")
        return
    if not yes and sys.stdin.isatty():
        named = f"shard {', '.join(map(str, shards))}" if shard else f"all {home.shards} shards"
        typer.confirm(f"Give up what {named} of {directory.root} hold, and read the log again?", abort=True)
    if home.view != view.hash:
        if shard:
            raise Refused(
                f"data directory {directory.root} was made with view definition {home.view}, not {view.hash}",
                "run `kycache rebuild` without --shard: one view holds for all shards",
            )
        rebuild_for(kafka, directory, environments(settings, readonly=False), view)
        typer.echo(f"all {home.shards} shards: start over from offset 0 with view definition {view.hash}")
        return
    for number in shards:
        command_shard(
            directory,
            Request("rebuild", number),
            lambda: Worker(kafka, directory, environments(settings, readonly=False), view),
        )
        typer.echo(f"shard {number}: starts over from offset 0")
