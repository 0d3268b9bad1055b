"""`kycache compact`: shards' files without their free pages, beside a running ingest or without one."""

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.files.shard_folder import ShardFolder
from kycache.actors.generations.compaction import Sizes, check_room, sizes
from kycache.actors.generations.compaction import compact as compact_shard
from kycache.actors.generations.takeover import state_of
from kycache.actors.integrity.vouching import Checker, vouched
from kycache.cli.settings.composition import copy_limits, data_directory, environments, kafka_settings
from kycache.cli.settings.invocation import JsonOption, NoWaitOption, ShardsOption, invocation
from kycache.cli.settings.loading import Settings
from kycache.cli.support.catch_up import wait_caught_up
from kycache.cli.support.own_pid import own_pid
from kycache.cli.support.transfer import TransferBars, room_wanted
from kycache.model.errors import Refused
from kycache.model.view import View


def compact(
    context: typer.Context,
    shard: ShardsOption = None,
    no_wait: NoWaitOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be gained, and do nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Rewrite shards' files without their free pages, and without what was deleted. Reads and ingest go on.

    Each is copied while it serves, reads on what was committed meanwhile, and takes over.
    """
    settings = invocation(context).settings()
    view = settings.load_view()
    directory = data_directory(settings)
    claim = own_pid(context, directory)
    node = directory.node()
    if node is None:
        raise Refused(f"nothing was ingested into {directory.root}", "start `kycache ingest`")
    directory.check_view(node, view.hash)
    wanted = sorted(set(shard)) if shard else [n for n in range(node.shards) if directory.shard(n).current()]
    if wanted and wanted[-1] >= node.shards:
        raise Refused(
            f"there is no shard {wanted[-1]} in {directory.root}", f"name shards from 0 to {node.shards - 1}"
        )
    done: list[dict[str, Any]] = []
    with TransferBars("compacted", as_json) as bars:
        for number in wanted:
            found = _one(settings, claim, directory, view, number, bars, dry_run=dry_run)
            done.append({"shard": number, "before": found.before, "after": found.after})
    if not dry_run and not no_wait:
        _wait(settings, claim, directory, wanted, as_json)
    if as_json:
        typer.echo(json.dumps({"dryRun": dry_run, "shards": done}))
        return
    for entry in done:
        what = "would have" if dry_run else "has"
        typer.echo(f"shard {entry['shard']}: had {_mib(entry['before'])}, {what} {_mib(entry['after'])}")


def _one(
    settings: Settings,
    claim: PidClaim,
    directory: DataDirectory,
    view: View,
    number: int,
    bars: TransferBars,
    *,
    dry_run: bool,
) -> Sizes:
    """Compact one shard, or say what it would bring."""
    from kycache.ingest.remedies.command import command_shard
    from kycache.ingest.remedies.protocol import Compact

    folder = directory.shard(number)
    generation = _compactable(folder, view)
    reading = environments(settings, claim, readonly=True)
    expected = sizes(reading, folder, generation)
    if dry_run:
        return expected
    check_room(folder, expected)

    def use(made: Path) -> None:
        home = Home(directory, environments(settings, claim, readonly=False), view)
        command_shard(Compact(number, made.name, of=generation.name), kafka_settings(settings), home)

    bars.begin(number, expected.after)
    limits, advance = copy_limits(settings), partial(bars.advance, number)
    with room_wanted(number, directory.root):
        found = compact_shard(reading, folder, generation, view, limits, directory.run, use, advance)
    bars.done(number, f"shard {number}: compacted, {_mib(found.before)} to {_mib(found.after)}")
    return found


def _compactable(folder: ShardFolder, view: View) -> Path:
    """The generation in use, which may be mapped.

    Raises:
        Refused: there is none, or another one is built beside it, which is compact itself.
    """
    generation = folder.current()
    if generation is None:
        raise Refused(f"shard {folder.number} has no file yet", "start `kycache ingest`")
    if folder.building() is not None:
        raise Refused(
            f"shard {folder.number} is built anew beside what serves, and compact afterwards",
            "wait until `kycache status` shows it ready, then run the command again if need be",
        )
    if not vouched(generation):
        Checker(view).ensure_unheld(generation, folder.number)
    return generation


def _wait(settings: Settings, claim: PidClaim, directory: DataDirectory, wanted: list[int], as_json: bool) -> None:
    """Until each copy serves; it has read on from where it was made to where the former one stood."""
    reading = environments(settings, claim, readonly=True)
    beside = [n for n in wanted if directory.shard(n).building() is not None]
    targets: dict[int, int] = {}
    for number in beside:
        folder = directory.shard(number)
        current = folder.current()
        state = None if current is None else state_of(reading, folder, current)
        targets[number] = 0 if state is None else state.position.offset
    if not wait_caught_up(directory, reading, targets, quiet=as_json):
        typer.echo("ingest does not run: what was committed meanwhile is read on when it is started", err=True)


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
