"""`kycache snapshot create|list|…`: copies of shard files, taken while everything runs."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kycache.snapshots.settings import SnapshotSettings

from .composition import data_directory, environments, snapshot_settings
from .invocation import JsonOption, ShardsOption, invocation
from .settings import Settings
from .transfer import TransferBars

if TYPE_CHECKING:
    from kycache.snapshots.keys import Keys
    from kycache.snapshots.listing import Found
    from kycache.snapshots.manifest import ShardEntry
    from kycache.snapshots.stores import Store

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Another store than `[snapshots] store`.")
]

app = typer.Typer(no_args_is_help=True, help="Copies of shard files, and their way back.")


@app.command()
def create(
    context: typer.Context, shard: ShardsOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Copy shards into the store while everything runs. Goes on with a run that was cut off."""
    from kycache.snapshots.lock import one_at_a_time
    from kycache.snapshots.take import Progress, Taker

    settings = invocation(context).settings()
    wanted, opened, keys = opened_store(settings, store, writing=True)
    directory = data_directory(settings)
    with one_at_a_time(directory), TransferBars("copied", as_json) as bars:
        progress = Progress(
            bars.begin, bars.advance, lambda entry, resumed: bars.done(entry.shard, _copied(entry, resumed))
        )
        taker = Taker(directory, environments(settings, readonly=True), opened, keys, wanted, progress)
        manifest = taker.take(shard)
    if as_json:
        typer.echo(json.dumps({"id": manifest.id, "shards": [described(entry) for entry in manifest.shards]}))
    else:
        typer.echo(f"{manifest.id}: {len(manifest.shards)} of {manifest.shard_count} shards, in {opened.url}")


@app.command("list")
def list_(context: typer.Context, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the snapshots of the store, the oldest first: what each holds, and as of when."""
    from kycache.snapshots.listing import survey

    _, opened, keys = opened_store(invocation(context).settings(), store)
    found = survey(opened, keys)
    if as_json:
        typer.echo(json.dumps([_listed(snapshot) for snapshot in found]))
        return
    table = Table("id", "condition", "shards", "users", "bytes", "as of", box=None, pad_edge=False)
    for snapshot in found:
        facts = _listed(snapshot)
        oldest = min((entry["asOf"] or "-" for entry in facts["shards"]), default="-")
        of = f"/{snapshot.manifest.shard_count}" if snapshot.manifest is not None else ""
        cells = (f"{len(facts['shards'])}{of}", facts["users"], facts["bytes"], oldest)
        table.add_row(snapshot.id, facts["condition"], *map(str, cells))
    Console(soft_wrap=True).print(table if found else f"there are no snapshots in {opened.url}")
    for snapshot in found:
        if snapshot.reason:
            typer.echo(f"{snapshot.id}: {snapshot.reason}")


def opened_store(
    settings: Settings, store: str | None, *, writing: bool = False
) -> "tuple[SnapshotSettings, Store, Keys]":
    """The store that the settings, or `--store`, name, with its keys."""
    from kycache.snapshots.keys import (
        keys_of,
    )  # here and above: obstore and age's library take their time to import
    from kycache.snapshots.stores import Store

    wanted = snapshot_settings(settings, store)
    opened = Store(wanted.store, part_bytes=wanted.part_bytes)
    return wanted, opened, keys_of(wanted, opened, writing=writing)


def described(entry: "ShardEntry") -> dict[str, Any]:
    """One shard of a snapshot, as `--json` prints it: the names are those of `status --json`."""
    position = entry.position
    return {
        "shard": entry.shard,
        "users": entry.users,
        "position": {"topic": position.topic, "partition": position.partition, "offset": position.offset},
        "watermark": entry.watermark if entry.watermark_lsn else None,
        "asOf": _instant(entry.as_of_ms) if entry.as_of_ms else None,
        "file": entry.file,
        "bytes": entry.stored_bytes,
        "rawBytes": entry.raw_bytes,
        "encrypted": entry.encrypted,
    }


def _listed(snapshot: "Found") -> dict[str, Any]:
    manifest = snapshot.manifest
    shards = [described(entry) for entry in manifest.shards] if manifest is not None else []
    return {
        "id": snapshot.id,
        "condition": snapshot.condition.value,
        "reason": snapshot.reason or None,
        "createdAt": manifest.created_at if manifest is not None else None,
        "view": manifest.view if manifest is not None else None,
        "shardCount": manifest.shard_count if manifest is not None else None,
        "users": sum(entry["users"] for entry in shards),
        "bytes": sum(file.size for file in snapshot.files),
        "shards": shards,
    }


def _copied(entry: "ShardEntry", resumed: bool) -> str:
    how = "was copied by an earlier run" if resumed else f"copied, {entry.stored_bytes} bytes"
    return f"shard {entry.shard}: {entry.users} users, {how}"


def _instant(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
