"""`kycache snapshot restore`: planned, then brought back shard by shard, with or without a running ingest."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.actors.files.pid_claim import PidClaim
from kycache.cli.settings.composition import data_directory, environments, kafka_settings, opened_store
from kycache.cli.settings.invocation import JsonOption, NoWaitOption, ShardsOption, StoreOption, invocation
from kycache.cli.settings.loading import Settings
from kycache.cli.support.catch_up import wait_caught_up
from kycache.cli.support.own_pid import own_pid
from kycache.cli.support.transfer import TransferBars, room_wanted, say_lacking

if TYPE_CHECKING:
    from kycache.snapshots.plan import Plan


def restore(
    context: typer.Context,
    snapshot: Annotated[str, typer.Argument(metavar="ID", help="As `kycache snapshot list` shows it.")],
    shard: ShardsOption = None,
    store: StoreOption = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Serve what comes back at once, also where it is older than what serves."),
    ] = False,
    no_wait: NoWaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Bring shards back from a snapshot; each then reads on in the log from where its file ends.

    What still serves goes on, marked stale, until the shard has caught up with it.
    """
    # Here, as Kafka's client and obstore take their time to import.
    from kycache.ingest.consuming.topic import describe_topic
    from kycache.ingest.remedies.command import command_shard
    from kycache.ingest.remedies.protocol import Bring
    from kycache.snapshots.home import home_facts
    from kycache.snapshots.plan import TopicFacts, plan
    from kycache.snapshots.restore import bring_back
    from kycache.snapshots.storage.listing import read_manifest

    settings = invocation(context).settings()
    view = settings.load_view()
    directory = data_directory(settings)
    claim = own_pid(context, directory)
    kafka = kafka_settings(settings)
    _, opened, keys = opened_store(settings, store)
    manifest = read_manifest(opened, keys, snapshot)
    topic = describe_topic(kafka)
    facts = TopicFacts(topic.name, topic.id, topic.starts, topic.ends)
    made = plan(manifest, facts, home_facts(directory, view.hash, kafka.times), shard)
    if shard is None:
        say_lacking(manifest)
    if dry_run:
        _print(made, "would be restored", as_json)
        return
    directory.found(manifest.view, topic.name, topic.id, topic.partitions, made.steps[0].entry.times)
    home = Home(directory, environments(settings, claim, readonly=False), view)
    with TransferBars("restored", as_json) as bars:
        for entry, behind in made.steps:
            number = entry.shard

            def use(generation: Path, number: int = number) -> None:
                command_shard(Bring(number, generation.name, replace), kafka, home)

            bars.begin(number, entry.raw_bytes)
            with room_wanted(number, directory.root):
                bring_back(opened, keys, manifest, entry, directory, view, use, partial(bars.advance, number))
            bars.done(number, f"shard {number}: {entry.users} users, {behind} records behind the log")
    if not no_wait:
        _wait(settings, claim, directory, made, as_json)
    _print(made, "restored", as_json)


def _wait(settings: Settings, claim: PidClaim, directory: DataDirectory, made: "Plan", as_json: bool) -> None:
    """Until ingest has read each shard on to where the log ended when the restore was planned."""
    targets = {entry.shard: entry.position.offset + behind for entry, behind in made.steps}
    if not wait_caught_up(directory, environments(settings, claim, readonly=True), targets, quiet=as_json):
        typer.echo("ingest does not run: the shards read on when it is started", err=True)


def _print(made: "Plan", what: str, as_json: bool) -> None:
    steps: list[dict[str, Any]] = [
        {
            "shard": entry.shard,
            "users": entry.users,
            "bytes": entry.raw_bytes,
            "position": {
                "topic": entry.position.topic,
                "partition": entry.position.partition,
                "offset": entry.position.offset,
            },
            "behind": behind,
        }
        for entry, behind in made.steps
    ]
    if as_json:
        typer.echo(json.dumps({"id": made.snapshot, "shards": steps}))
        return
    for step in steps:
        typer.echo(
            f"shard {step['shard']}: {what} with {step['users']} users, {step['bytes'] >> 20} MiB; "
            f"{step['behind']} records to read on from offset {step['position']['offset']}"
        )
