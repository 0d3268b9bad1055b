"""`kycache rebuild`: starts shards over, from the log or from a whole snapshot that it orders."""

import sys
import time
from collections.abc import Mapping
from typing import Annotated

import typer

from kycache.actors.files.directory import DataDirectory, Node
from kycache.actors.files.home import Home
from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.generations.takeover import served_state
from kycache.cli.settings.composition import data_directory, environments, kafka_connect, kafka_settings
from kycache.cli.settings.invocation import ShardsOption, invocation
from kycache.cli.settings.kafka_connect import KafkaConnect
from kycache.cli.settings.loading import Settings
from kycache.cli.support.acknowledging import acknowledge_alterations
from kycache.cli.support.own_pid import own_pid
from kycache.ingest.consuming.settings import KafkaSettings
from kycache.model.errors import Refused, Unreachable
from kycache.model.view import View

ENDS_WAIT_S = 10.0
"""For the broker to say where its partitions end: longer than a leader election."""

QUIET_S = 2.0
"""A connector that is said to be stopped beats every half second if it is not."""


def rebuild(
    context: typer.Context,
    shard: ShardsOption = None,
    epoch: Annotated[
        bool,
        typer.Option(
            "--epoch",
            help="Order a whole snapshot from Debezium and start over from it, as if the topic were new.",
        ),
    ] = False,
    by_hand: Annotated[
        bool,
        typer.Option(
            "--by-hand",
            help="With --epoch: Debezium is stopped and its offsets are removed already; start it afterwards.",
        ),
    ] = False,
    acknowledge: Annotated[
        bool,
        typer.Option(
            "--acknowledge",
            help="Instead: trust what is there, where the source's tables were altered and no row changed.",
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Give up what serves at once (503 meanwhile) instead of building beside it."
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask. Nobody is asked where there is no terminal.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
) -> None:
    """Start shards over: a new generation, read from where the log is whole. Refused where it no longer is.

    It is built beside the former one, which goes on serving, as `stale`, until the new one may take over.
    """
    if by_hand and not epoch:
        raise typer.BadParameter("goes with --epoch only", param_hint="--by-hand")
    if acknowledge and (epoch or replace):
        raise typer.BadParameter("rebuilds nothing, so it goes with --shard only", param_hint="--acknowledge")
    settings = invocation(context).settings()
    view = settings.load_view()
    directory = data_directory(settings)
    claim = own_pid(context, directory)
    home = directory.node()
    if home is None:
        raise Refused(
            f"nothing was ingested into {directory.root}", "start `kycache ingest`: it reads all there is"
        )
    shards = _named(directory, home, view, shard)
    if acknowledge:
        directory.check_view(home, view.hash)
        acknowledge_alterations(settings, claim, directory, view, shards, yes=yes, dry_run=dry_run)
        return
    connect = _connect(settings, by_hand) if epoch else None
    if dry_run:
        start = "the whole snapshot that would be ordered" if epoch else "where the log is whole"
        for number in shards:
            typer.echo(f"shard {number}: would start over from {start}")
        return
    if not yes and sys.stdin.isatty():
        named = f"shard {', '.join(map(str, shards))}" if shard else f"all {home.shards} shards"
        order = "have Debezium read every table of the source again, and " if epoch else ""
        typer.confirm(f"{order}build {named} of {directory.root} anew?".capitalize(), abort=True)
    kafka = kafka_settings(settings)
    if not epoch:
        _start_over(settings, claim, kafka, directory, view, shards, replace=replace)
        return
    if connect is None:
        _begin_epoch(kafka, directory, home, shards, by_hand=True)
        _start_over(settings, claim, kafka, directory, view, shards, replace=replace)
        typer.echo("start Debezium now: it takes a whole snapshot")
        return
    typer.echo(f"connector {connect.name!r}: stops")
    try:
        connect.stop()
        connect.drop_offsets()
        _begin_epoch(kafka, directory, home, shards, by_hand=False)
        _start_over(settings, claim, kafka, directory, view, shards, replace=replace)
    finally:
        # Whatever became of it, also of a stop that takes long: without it nothing would be fresh, and a snapshot
        # more does no harm.
        connect.resume()
    typer.echo(
        f"connector {connect.name!r}: resumes, and takes a whole snapshot; `kycache status` shows the shards"
    )


def _named(directory: DataDirectory, home: Node, view: View, shard: list[int] | None) -> list[int]:
    shards = sorted(set(shard)) if shard else list(range(home.shards))
    if shards[-1] >= home.shards:
        raise Refused(
            f"there is no shard {shards[-1]} in {directory.root}", f"name shards from 0 to {home.shards - 1}"
        )
    if shard and home.view != view.hash:
        raise Refused(
            f"data directory {directory.root} was made with view definition {home.view}, not {view.hash}",
            "run `kycache rebuild` without --shard: one view holds for all shards",
        )
    return shards


def _connect(settings: Settings, by_hand: bool) -> KafkaConnect | None:
    """Whom to order the snapshot from; None: it was prepared by hand."""
    if by_hand:
        return None
    connect = kafka_connect(settings)
    if connect is None:
        raise Refused(
            "a whole snapshot cannot be ordered: `[connect] url` is not set",
            "set it; or stop Debezium, remove its stored offsets, run `kycache rebuild --epoch --by-hand`, "
            "and start Debezium again",
        )
    return connect


def _begin_epoch(
    kafka: KafkaSettings, directory: DataDirectory, home: Node, shards: list[int], *, by_hand: bool
) -> None:
    """Write down that the snapshot begins where the partitions end now."""
    from kycache.ingest.remedies.rebuild import begin_epoch  # here, as Kafka's client takes its time to import

    ends = _ends(kafka, home)
    if by_hand:
        time.sleep(QUIET_S)
        if _ends(kafka, home) != ends:
            raise Refused(
                f"topic {kafka.topic!r} still grows: Debezium is not stopped", "stop it, then run this again"
            )
    node = begin_epoch(kafka, directory, ends, shards)
    begins = ", ".join(map(str, node.starts))
    typer.echo(f"epoch {node.epoch} of {directory.root} begins at offsets {begins}")


def _ends(kafka: KafkaSettings, home: Node) -> Mapping[int, int]:
    from kycache.cli.support.broker import end_offsets

    ends = end_offsets(kafka, kafka.topic, home.shards, ENDS_WAIT_S)
    if ends is None:
        raise Unreachable(
            f"the broker at {kafka.bootstrap} does not say where topic {kafka.topic!r} ends",
            "check `[kafka] bootstrap` and that the broker runs, then run this again",
        )
    return ends


def _start_over(
    settings: Settings,
    claim: PidClaim,
    kafka: KafkaSettings,
    directory: DataDirectory,
    view: View,
    shards: list[int],
    *,
    replace: bool,
) -> None:
    from kycache.ingest.remedies.command import command_shard
    from kycache.ingest.remedies.protocol import Rebuild
    from kycache.ingest.remedies.rebuild import rebuild_for

    node = directory.node()
    assert node is not None
    home = Home(directory, environments(settings, claim, readonly=False), view)
    if node.view != view.hash:
        rebuild_for(kafka, home, replace=replace)
        typer.echo(f"view definition is {view.hash} now")
        for number in shards:
            typer.echo(_began(settings, claim, directory, number))
        return
    for number in shards:
        command_shard(Rebuild(number, replace), kafka, home)
        typer.echo(_began(settings, claim, directory, number))


def _began(settings: Settings, claim: PidClaim, directory: DataDirectory, shard: int) -> str:
    """What is said of a shard that is built anew: looked at, as nothing serves in the place of a damaged file."""
    serves = served_state(environments(settings, claim, readonly=True), directory.shard(shard)) is not None
    until = (
        "what serves goes on until then" if serves else "nothing serves in its place: it answers 503 until then"
    )
    return f"shard {shard}: is built anew; {until}"
