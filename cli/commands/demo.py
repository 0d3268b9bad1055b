"""`kycache demo`: the whole pipeline on this machine, to try it out."""

from pathlib import Path
from typing import Annotated

import typer


def demo(
    stack: Annotated[
        str, typer.Option(help="`embedded` (Python wheels only) or `apache` (Kafka and Connect by Maven).")
    ] = "embedded",
    users: Annotated[int, typer.Option(min=0, help="How many users to make up.")] = 10_000,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="The port of the APIs. Default: 8080, or a free one.")
    ] = None,
    shards: Annotated[int | None, typer.Option(min=1, max=64, help="Partitions of the topic.")] = None,
    write_rate: Annotated[
        float, typer.Option(min=0, help="Changes per second that the source keeps on making.")
    ] = 0,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Keep everything in this folder. Default: a temporary one.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write where everything is to this file, when ready.")
    ] = None,
) -> None:
    """Start PostgreSQL, a Kafka broker, Debezium, ingest and web here, with made-up users, until Ctrl-C."""
    # Imported here: the demo's packages are an extra, and the other commands go without.
    from kycache.demo.run import DemoOptions, run_demo

    options = DemoOptions(
        stack=stack,
        users=users,
        port=port,
        shards=shards,
        write_rate=write_rate,
        directory=directory,
        ready_file=ready_file,
    )
    raise typer.Exit(run_demo(options))
