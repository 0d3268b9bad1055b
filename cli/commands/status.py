"""`kycache status`: every shard of the data directory, whether ingest runs, is stopped or is broken."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import lmdb
import typer
from rich.console import Console
from rich.table import Table

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.snapshot_report import read_report
from kycache.actors.router import Router
from kycache.actors.rules.standing import ShardStatus, Standing
from kycache.cli.settings.composition import data_directory, environments, kafka_settings, router
from kycache.cli.settings.invocation import Invocation, JsonOption, invocation
from kycache.cli.settings.loading import shown
from kycache.cli.support.own_pid import own_pid
from kycache.model.lsn import format_lsn

BROKER_WAIT_S = 1.0
"""How long the broker is waited for: the lag is known from the last fetch too, so it is only refined."""

_COLUMNS = ("shard", "state", "users", "lag", "staleness", "watermark", "quarantined", "suspect", "owner")


def status(
    context: typer.Context,
    as_json: JsonOption = False,
    config: Annotated[
        bool, typer.Option("--config", help="Print the settings in effect instead, secrets redacted.")
    ] = False,
) -> None:
    """Show every shard: state, users, position, lag, freshness, quarantine, owner."""
    run = invocation(context)
    if config:
        _print_settings(run, as_json)
        return
    settings = run.settings()
    view = settings.load_view()
    directory = data_directory(settings)
    reads = router(settings, directory, environments(settings, own_pid(context, directory), readonly=True), view)
    try:
        if not reads.shard_count:
            ends = None
        else:
            from kycache.cli.support.broker import end_offsets  # here, as Kafka's client takes its time to import

            kafka = kafka_settings(settings)
            ends = end_offsets(kafka, reads.topic or kafka.topic, reads.shard_count, BROKER_WAIT_S)
        shards = [describe(directory, _standing(reads, directory, n), ends) for n in range(reads.shard_count or 0)]
    finally:
        reads.close()
    if as_json:
        typer.echo(json.dumps({"view": view.hash, "shards": shards}))
    else:
        _print_table(directory, view.hash, shards)


def _standing(reads: Router, directory: DataDirectory, shard: int) -> ShardStatus:
    try:
        return reads.status(shard)
    except lmdb.Error as error:
        # A shard whose file LMDB itself refuses is told like the others; the rest of the table still matters.
        holder = directory.shard(shard).holder()
        return ShardStatus(shard, Standing.HALTED, f"the file cannot be read: {error}", None, None, holder)


def describe(directory: DataDirectory, standing: ShardStatus, ends: Mapping[int, int] | None) -> dict[str, Any]:
    """One shard as `status --json` prints it.

    Args:
        ends: end offsets per partition as the broker says now; None where it does not answer.
    """
    folder = directory.shard(standing.shard)
    state = standing.state
    entry: dict[str, Any] = {"shard": standing.shard, "state": standing.standing.value}
    if state is None:
        # Nothing was ever ingested: zero is true. A file that cannot be read: nothing is known.
        known = 0 if folder.current() is None else None
        entry |= {"users": known, "position": None, "lag": None, "watermark": None, "asOf": None}
        entry |= {"stalenessSeconds": None, "quarantined": known, "suspect": known}
    else:
        position = state.position
        end = max(state.high_water, (ends or {}).get(position.partition, 0))
        entry |= {
            "users": state.users,
            "position": {
                "topic": position.topic,
                "partition": position.partition,
                "offset": position.offset,
            },
            "lag": max(0, end - position.offset),
            "watermark": format_lsn(state.watermark) if state.watermark else None,
            "asOf": _instant(state.as_of_ms) if standing.staleness_s is not None else None,
            "stalenessSeconds": None if standing.staleness_s is None else round(standing.staleness_s, 3),
            "quarantined": state.quarantined,
            "suspect": state.suspects,
        }
    return {**entry, "owner": folder.holder(), "reason": standing.reason or None}


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _print_table(directory: DataDirectory, view: str, shards: list[dict[str, Any]]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"data directory {directory.root}, view {view}", markup=False)
    if not shards:
        console.print("nothing was ingested here yet; start `kycache ingest`", markup=False)
        return
    table = Table(*_COLUMNS, box=None, pad_edge=False)
    for entry in shards:
        stale = entry["stalenessSeconds"]
        cells = {**entry, "staleness": None if stale is None else f"{stale:.1f} s"}
        table.add_row(*("-" if cells[name] is None else str(cells[name]) for name in _COLUMNS))
    console.print(table)
    for entry in shards:
        if entry["reason"]:
            console.print(_told(entry["shard"], entry["reason"]), markup=False)
    report = read_report(directory)
    if report.id:
        console.print(f"newest snapshot: {report.id}, {report.shards} shards", markup=False)
    if report.problem:
        what = "" if report.partly_at == report.failed_at else "the latest snapshot failed: "
        console.print(f"{what}{report.problem}", markup=False)


def _told(shard: int, reason: str) -> str:
    """The reason with its shard, which errors name by themselves."""
    named = reason.startswith((f"shard {shard}:", f"shard {shard} "))
    return reason if named else f"shard {shard}: {reason}"


def _print_settings(run: Invocation, as_json: bool) -> None:
    document = shown(run.settings())
    if as_json:
        typer.echo(json.dumps(document))
        return
    typer.echo(f"# the defaults, {run.file or 'no file'}, and KYCACHE_… variables; secrets are redacted")
    for name, section in document.items():
        typer.echo(f"\n[{name}]")
        for key, value in section.items():
            # JSON's strings, numbers, booleans and lists of strings are TOML's too.
            typer.echo(
                f"# {key} is unset" if value is None else f"{key} = {json.dumps(value, ensure_ascii=False)}"
            )
