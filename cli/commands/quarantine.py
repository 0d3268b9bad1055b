"""`kycache quarantine list|show|replay|drop`: changes that could not be applied, kept whole.

They work beside a running ingest: what changes a shard is carried out by the process that holds it.
"""

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from kycache.actors.files.directory import DataDirectory
from kycache.actors.files.home import Home
from kycache.actors.files.pid_claim import PidClaim
from kycache.actors.files.quarantine import QUARANTINE_PAGE, Quarantined
from kycache.actors.reader import NoStore
from kycache.actors.router import Router
from kycache.cli.settings.composition import data_directory, environments, kafka_settings, router
from kycache.cli.settings.invocation import JsonOption, ShardsOption, invocation
from kycache.cli.settings.loading import Settings
from kycache.cli.support.own_pid import own_pid
from kycache.model.errors import Refused

OffsetsOption = Annotated[
    list[int] | None,
    typer.Option("--offset", min=0, metavar="O", help="Only this record; may be repeated. Default: all."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

app = typer.Typer(no_args_is_help=True, help="Changes that could not be applied, and what becomes of them.")


@app.command("list")
def list_(context: typer.Context, shard: ShardsOption = None, as_json: JsonOption = False) -> None:
    """List the records in quarantine: where each came from and why it could not be applied. No values."""
    _, _, reads, _ = _opened(context)
    facts = [_fact(reads, number, record) for number, record in _records(reads, shard)]
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = Table("shard", "offset", "table", "scope", "reason", box=None, pad_edge=False)
    for fact in facts:
        table.add_row(str(fact["shard"]), str(fact["offset"]), fact["table"] or "-", fact["scope"], fact["reason"])
    Console().print(table if facts else "nothing is in quarantine")


@app.command()
def show(
    context: typer.Context,
    shard: Annotated[int, typer.Argument(min=0)],
    offset: Annotated[int, typer.Argument(min=0)],
    as_json: JsonOption = False,
) -> None:
    """Show one record whole. It holds personal data."""
    _, _, reads, _ = _opened(context)
    for _, record in _records(reads, [shard], offset):
        if record.offset != offset:
            break
        fact = _fact(reads, shard, record) | {
            "timestampMs": record.timestamp_ms,
            "key": _text(record.kafka_key),
            "value": _text(record.kafka_value),
        }
        typer.echo(json.dumps(fact) if as_json else "\n".join(f"{name}: {value}" for name, value in fact.items()))
        return
    raise Refused(f"shard {shard} has no record of offset {offset} in quarantine", "run `kycache quarantine list`")


@app.command()
def replay(
    context: typer.Context,
    shard: ShardsOption = None,
    offset: OffsetsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Apply records again, now that the cause is mended. What cannot be applied yet stays."""
    _settle(context, "replay", shard, offset, dry_run=dry_run, as_json=as_json)


@app.command()
def drop(
    context: typer.Context,
    shard: ShardsOption = None,
    offset: OffsetsOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Give records up: they are never applied, and what they put in doubt is trusted again."""
    if not (dry_run or yes) and not sys.stdin.isatty():
        raise Refused("giving changes up for good wants a word", "say --yes")
    if not (dry_run or yes):
        typer.confirm("Give these changes up for good, and trust the profiles they concern?", abort=True)
    _settle(context, "drop", shard, offset, dry_run=dry_run, as_json=as_json)


def _settle(
    context: typer.Context,
    command: Literal["replay", "drop"],
    shards: list[int] | None,
    offsets: list[int] | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    # Here, as Kafka's client takes its time to import.
    from kycache.ingest.remedies.command import command_shard
    from kycache.ingest.remedies.protocol import OFFSETS_MAX, Drop, Replay

    settings, claim, reads, directory = _opened(context)
    by_shard: dict[int, list[int]] = {}
    for number, record in _records(reads, shards):
        if offsets is None or record.offset in offsets:
            by_shard.setdefault(number, []).append(record.offset)
    reads.close()
    results: list[dict[str, Any]] = []
    kafka = kafka_settings(settings)
    home = Home(directory, environments(settings, claim, readonly=False), settings.load_view())
    for number, found in by_shard.items():
        for first in range(0, len(found), OFFSETS_MAX):
            part = tuple(found[first : first + OFFSETS_MAX])
            if dry_run:
                results += [{"shard": number, "offset": o, "outcome": f"would {command}"} for o in part]
                continue
            ordered = Drop(number, part) if command == "drop" else Replay(number, part)
            settled = command_shard(ordered, kafka, home)
            results += [{"shard": number, "offset": s.offset, "outcome": s.outcome} for s in settled]
    if as_json:
        typer.echo(json.dumps(results))
    else:
        for result in results:
            typer.echo(f"shard {result['shard']} offset {result['offset']}: {result['outcome']}")
        if not results:
            typer.echo("nothing to do")


def _opened(context: typer.Context) -> tuple[Settings, PidClaim, Router, DataDirectory]:
    settings = invocation(context).settings()
    directory = data_directory(settings)
    claim = own_pid(context, directory)
    reads = router(settings, directory, environments(settings, claim, readonly=True), settings.load_view())
    return settings, claim, reads, directory


def _records(reads: Router, shards: list[int] | None, first: int = 0) -> Iterator[tuple[int, Quarantined]]:
    count = reads.shard_count or 0
    for number in shards if shards is not None else range(count):
        if number >= count:
            raise Refused(f"there is no shard {number}", f"this data directory has {count} shards")
        after = first
        while True:
            try:
                with reads.snapshot(number) as snapshot:
                    page = snapshot.quarantine(after)
            except NoStore:
                break
            yield from ((number, record) for record in page)
            if len(page) < QUARANTINE_PAGE:
                break
            after = page[-1].offset + 1


def _fact(reads: Router, shard: int, record: Quarantined) -> dict[str, Any]:
    return {
        "shard": shard,
        "offset": record.offset,
        "table": None if record.table is None else reads.view.tables[record.table].name,
        "scope": record.scope,
        "reason": record.reason,
    }


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode(errors="backslashreplace")
