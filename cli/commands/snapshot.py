"""`kycache snapshot create|list|verify|prune`: copies of shard files, taken while everything runs."""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Column, Table

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.snapshot_report import Taken, failed, partly, read_report, succeeded
from kycache.actors.integrity.vouching import Checker
from kycache.cli.settings.composition import data_directory, environments, opened_store, snapshot_settings
from kycache.cli.settings.durations import seconds
from kycache.cli.settings.invocation import JsonOption, ShardsOption, StoreOption, invocation
from kycache.cli.settings.loading import Settings
from kycache.cli.support.own_pid import own_pid
from kycache.cli.support.transfer import TransferBars, say_lacking
from kycache.model.errors import KycacheError, Refused, whereabouts
from kycache.snapshots.storage.settings import SnapshotSettings

if TYPE_CHECKING:
    from kycache.snapshots.storage.listing import Found
    from kycache.snapshots.storage.manifest import Manifest, ShardEntry


LINE_CHARACTERS = 110
"""Of a line of the list: an id that is cut short cannot be given to another command."""

TOLD_MAX = 5
"""Shards that a snapshot lacks whose reasons are told, in a line of the log and of `status`: mostly it is one."""

_LISTED = ("id", "condition", "shards", "users", "bytes", "as of")

app = typer.Typer(no_args_is_help=True, help="Copies of shard files, and their way back.")


@app.command()
def create(
    context: typer.Context, shard: ShardsOption = None, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Copy shards into the store while everything runs. Goes on with a run that was cut off.

    Of all that are this node's, where none is named. One that cannot be copied is left out; the exit code is 5.
    """
    from kycache.snapshots.lock import one_at_a_time
    from kycache.snapshots.take import Progress, Taker

    settings = invocation(context).settings()
    directory = data_directory(settings)
    if directory.node() is None:  # before a lock, and what it lies in, is made
        raise Refused(f"nothing was ingested into {directory.root}", "start `kycache ingest`")
    claim = own_pid(context, directory)
    routine = shard is None and store is None
    with _private_files(), one_at_a_time(directory), _reporting(directory, routine) as report:
        if routine:
            _look_at_store(snapshot_settings(settings, None), directory)
        wanted, opened, keys = opened_store(settings, store, writing=True)
        with TransferBars("copied", as_json) as bars:
            progress = Progress(
                bars.begin, bars.advance, lambda entry, resumed: bars.done(entry.shard, _copied(entry, resumed))
            )
            reading = environments(settings, claim, readonly=True)
            taker = Taker(directory, reading, opened, keys, wanted, partial(_walk, settings), progress)
            manifest = taker.take(shard)
        if taker.elsewhere:
            typer.echo(taker.elsewhere, err=True)
        if as_json:
            typer.echo(json.dumps({"id": manifest.id, "shards": [described(entry) for entry in manifest.shards]}))
        else:
            typer.echo(f"{manifest.id}: {len(manifest.shards)} of {manifest.shard_count} shards, in {opened.url}")
        lacking = _lacking(taker.refused)
        report(manifest, opened.url, lacking)
    if lacking is not None:
        raise lacking


@contextmanager
def _private_files() -> Iterator[None]:
    """What is written to a folder is its owner's alone from its first byte on, also in one that was made anew."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def _look_at_store(wanted: "SnapshotSettings", directory: DataDirectory) -> None:
    """Refuse one that has lost all that was taken into it: a folder whose disk is not mounted is empty. What was
    written there would fill the disk below, and be out of sight when the other one is mounted again."""
    from kycache.snapshots.storage.manifest import MANIFEST
    from kycache.snapshots.storage.stores import Store

    report = read_report(directory)
    if report.store != wanted.shown:
        return
    if not any(file.path.endswith(f"/{MANIFEST}") for file in Store(wanted.store).files()):
        raise Refused(
            f"{wanted.shown} holds no snapshot, and {report.id} was taken into it",
            "see that it is mounted; where it was emptied on purpose, run once "
            f"`kycache snapshot create --store {wanted.shown}`",
        )


def _lacking(refused: Mapping[int, Refused]) -> Refused | None:
    """What is to be said where a snapshot lacks shards; nothing where it lacks none."""
    if not refused:
        return None
    told = [error.problem for error in refused.values()][:TOLD_MAX]
    if len(refused) > TOLD_MAX:
        told.append(f"and {len(refused) - TOLD_MAX} more")
    first = next(iter(refused.values()))
    lost = f"shard {next(iter(refused))}" if len(refused) == 1 else f"{len(refused)} shards"
    return Refused(f"the snapshot is without {lost}: {'; '.join(told)}", first.remedy)


def _walk(settings: Settings, generation: Path, shard: int) -> None:
    """After an unclean stop, where no ingest has looked at the file since."""
    Checker(settings.load_view()).ensure_unheld(generation, shard)


@contextmanager
def _reporting(
    directory: DataDirectory, routine: bool
) -> "Iterator[Callable[[Manifest, str, Refused | None], None]]":
    """Tells `/metrics` and `status` how it ended; not of some shards alone, nor of another store."""
    began = time.monotonic()

    def report(manifest: "Manifest", store: str, lacking: Refused | None) -> None:
        if not routine:
            return
        stored = sum(entry.stored_bytes for entry in manifest.shards)
        taken = Taken(manifest.id, time.monotonic() - began, stored, len(manifest.shards), store)
        if lacking is None:
            succeeded(directory, taken)
        else:
            partly(directory, taken, lacking.problem)

    try:
        yield report
    except Exception as error:  # not a signal: that one was told to stop
        if routine:
            with suppress(Refused):  # for want of room: what led here matters more
                failed(directory, error.problem if isinstance(error, KycacheError) else whereabouts(error))
        raise


@app.command("list")
def list_(context: typer.Context, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """List the snapshots of the store, the oldest first: what each holds, and as of when."""
    from kycache.snapshots.storage.listing import survey

    _, opened, keys = opened_store(invocation(context).settings(), store)
    found = survey(opened, keys)
    if as_json:
        typer.echo(json.dumps([_listed(snapshot) for snapshot in found]))
        return
    table = Table(*(Column(name, no_wrap=True) for name in _LISTED), box=None, pad_edge=False)
    for snapshot in found:
        facts = _listed(snapshot)
        oldest = min((entry["asOf"] or "-" for entry in facts["shards"]), default="-")
        of = f"/{snapshot.manifest.shard_count}" if snapshot.manifest is not None else ""
        cells = (f"{len(facts['shards'])}{of}", facts["users"], facts["bytes"], oldest)
        table.add_row(snapshot.id, facts["condition"], *map(str, cells))
    console = Console()
    console.width = max(console.width, LINE_CHARACTERS)
    nowhere = "" if opened.root is None or opened.root.exists() else ": there is no such folder"
    console.print(table if found else f"there are no snapshots in {opened.url}{nowhere}", soft_wrap=True)
    for snapshot in found:
        if snapshot.reason:
            typer.echo(f"{snapshot.id}: {snapshot.reason}")


@app.command()
def verify(
    context: typer.Context,
    snapshot: Annotated[str, typer.Argument(metavar="ID", help="Of `kycache snapshot list`.")],
    full: Annotated[bool, typer.Option("--full", help="Look at every record, not only at every page.")] = False,
    shard: ShardsOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a snapshot back: hashes, keys, and a walk of each shard's file. Exit code 5 where it is not good."""
    from kycache.snapshots import verify as verifying
    from kycache.snapshots.storage.listing import read_manifest

    settings = invocation(context).settings()
    view = settings.load_view()
    _, opened, keys = opened_store(settings, store)
    manifest = read_manifest(opened, keys, snapshot)
    if full and manifest.view != view.hash:
        raise Refused(
            f"snapshot {snapshot} is of view definition {manifest.view}, not {view.hash}",
            "verify it without --full, or set `[view] file` to its definition",
        )
    with TransferBars("read", as_json) as bars:
        verdicts = verifying.verify(
            opened,
            keys,
            manifest,
            _scratch(data_directory(settings)),
            view if full else None,
            shard,
            lambda entry: bars.begin(entry.shard, entry.raw_bytes),
            bars.advance,
        )
    wrong = [verdict for verdict in verdicts if verdict.problem]
    if as_json:
        shards = [{"shard": v.shard, "good": not v.problem, "problem": v.problem or None} for v in verdicts]
        facts = {"id": snapshot, "good": not wrong, "full": full, "shards": shards, "lacking": manifest.lacking}
        typer.echo(json.dumps(facts))
    for verdict in verdicts:
        if verdict.problem:
            typer.echo(verdict.problem, err=True)
        elif not as_json:
            typer.echo(f"shard {verdict.shard}: good, {manifest.entry(verdict.shard).users} users")
    if shard is None:
        say_lacking(manifest)
    if wrong:
        raise Refused(
            f"{len(wrong)} of {len(verdicts)} shards of snapshot {snapshot} are not good", wrong[0].remedy
        )


@app.command()
def prune(
    context: typer.Context,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, help="Keep as many newest ones of each shard. Default: `[snapshots] keep`."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="DURATION", help="Remove only what is older: `12h`, `30d`, `4w`."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and do nothing.")] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove old snapshots and leftovers; never the last good one of a shard."""
    from kycache.snapshots.prune import carry_out, decide_surely
    from kycache.snapshots.storage.listing import Condition, survey

    settings = invocation(context).settings()
    try:
        age = None if older_than is None else timedelta(seconds=seconds(older_than))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--older-than") from None
    keep = keep if keep is not None or age is not None else settings.snapshots.keep
    if keep is None and age is None:
        raise typer.BadParameter("say what may go: --keep, --older-than, or both", param_hint="--keep")
    _, opened, keys = opened_store(settings, store)
    found, decisions = decide_surely(opened, survey(opened, keys), datetime.now(UTC), keep=keep, older_than=age)
    if not dry_run:
        carry_out(opened, found, decisions)
    removed = [decision.id for decision in decisions if decision.removed]
    if as_json:
        kept = [decision.id for decision in decisions if not decision.removed]
        typer.echo(json.dumps({"dryRun": dry_run, "removed": removed, "kept": kept}))
        return
    for snapshot in found:
        if snapshot.condition is Condition.DAMAGED:
            typer.echo(f"{snapshot.id}: damaged: {snapshot.reason}", err=True)
    for decision in decisions:
        what = ("would be removed" if dry_run else "removed") if decision.removed else "kept"
        typer.echo(f"{decision.id}: {what}: {decision.reason}")
    if not removed:
        typer.echo("nothing to remove")


def _scratch(directory: DataDirectory) -> Path:
    """Where a shard's file has room: beside the data, or where TMPDIR says; there is no data on every machine."""
    return Path(tempfile.gettempdir()) if "TMPDIR" in os.environ or not directory.run.is_dir() else directory.run


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
