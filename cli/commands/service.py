"""`kycache ingest`, `web` and `node`: long-running processes, composed from the other folders.

Each runs until SIGTERM or SIGINT and then ends in order: answers in flight are given, batches in hand committed,
shards closed; exit 0.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import structlog
import trio
import typer

from kycache.actors.files.pid_claim import PidClaim
from kycache.cli.settings.composition import (
    bootstrap,
    data_directory,
    environments,
    http_settings,
    kafka_settings,
    router,
    snapshot_schedule,
    source_dsn,
)
from kycache.cli.settings.invocation import invocation
from kycache.cli.settings.sections import WORKERS_MAX
from kycache.cli.support.log import configure_log
from kycache.cli.support.own_pid import own_pid
from kycache.cli.support.process import run_until_stopped

if TYPE_CHECKING:
    from kycache.actors.files.environment import Environments
    from kycache.cli.settings.loading import Settings
    from kycache.http.serving.settings import HttpSettings
    from kycache.http.serving.workers import Worker
    from kycache.ingest.consuming.holders import Holders
    from kycache.model.view import View
    from kycache.snapshots.schedule import Schedule

log = structlog.get_logger()

GC_NEW_OBJECTS = 50_000
"""Between two looks of the garbage collector: a batch makes as many that live as long as it does, and the default
of 700 would look at them again and again (a tenth of ingest's time)."""

HostOption = Annotated[str | None, typer.Option(help="The address to listen on. Default: `[http] host`.")]
PortOption = Annotated[
    int | None, typer.Option(min=0, max=65535, help="The port; 0 takes a free one. Default: `[http] port`.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, max=WORKERS_MAX, help="Processes that share the port. Default: `[http] workers`."),
]


def ingest(context: typer.Context) -> None:
    """Tail the topic and keep the view up to date, until SIGTERM or Ctrl-C."""
    run = invocation(context)
    settings = run.settings()
    view = settings.load_view()
    schedule = snapshot_schedule(settings, run.file)
    configure_log()
    opened = environments(settings, _own_pid(context, settings), readonly=False)
    run_until_stopped(partial(_ingest, settings, opened, view, schedule))


def web(
    context: typer.Context, workers: WorkersOption = None, host: HostOption = None, port: PortOption = None
) -> None:
    """Answer the two reads over HTTP from the data directory, until SIGTERM or Ctrl-C."""
    settings = invocation(context).settings()
    view = settings.load_view()
    http = _asked(http_settings(settings), host, port, workers)
    configure_log()

    def serve_here(worker: Worker | None = None) -> None:
        # After the fork: neither a claim, LMDB's environments nor trio's loop may be carried over one.
        if worker is None:
            claim = _own_pid(context, settings)
        else:
            claim = PidClaim(data_directory(settings).run)
            claim.hold()
        opened = environments(settings, claim, readonly=True)
        run_until_stopped(partial(_serve, settings, http, opened, view, worker))

    if http.workers == 1:
        serve_here()
        return
    data_directory(settings).prepare()
    from kycache.http.serving.workers import run_workers

    raise typer.Exit(run_workers(http, serve_here))


def node(context: typer.Context, host: HostOption = None, port: PortOption = None) -> None:
    """Do both in one process: tail the topic, and answer over HTTP."""
    run = invocation(context)
    settings = run.settings()
    view = settings.load_view()
    schedule = snapshot_schedule(settings, run.file)
    http = _asked(http_settings(settings), host, port, 1)
    configure_log()
    opened = environments(
        settings, _own_pid(context, settings), readonly=False
    )  # one for both: LMDB opens a file once per process
    # The server is the one that ends first, so that its last answers are still fresh.
    run_until_stopped(
        partial(_ingest, settings, opened, view, schedule), partial(_serve, settings, http, opened, view, None)
    )


def _own_pid(context: typer.Context, settings: Settings) -> PidClaim:
    """A claim from the start on, also where nothing was ingested yet: a service stays when that changes."""
    directory = data_directory(settings)
    directory.prepare()
    return own_pid(context, directory)


def _asked(http: HttpSettings, host: str | None, port: int | None, workers: int | None) -> HttpSettings:
    """The settings with what the command line says in their place, checked."""
    http = replace(
        http,
        host=http.host if host is None else host,
        port=http.port if port is None else port,
        workers=http.workers if workers is None else workers,
    )
    http.check()
    return http


async def _ingest(
    settings: Settings,
    opened: Environments,
    view: View,
    schedule: Schedule | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    gc.set_threshold(GC_NEW_OBJECTS)
    # Imported in the services: Kafka's client and Quart take their time, and `status` needs neither.
    from kycache.actors.files.home import Home
    from kycache.ingest.process import run_ingest
    from kycache.snapshots.schedule import take_snapshots
    from kycache.snapshots.scratch import sweep

    async with trio.open_nursery() as nursery:
        directory = data_directory(settings)
        sweep(directory.run)
        home, warm_start = Home(directory, opened, view), bootstrap(settings, view)
        holders: Holders = await nursery.start(
            run_ingest, kafka_settings(settings), home, warm_start, source_dsn(settings)
        )
        log.info("ingesting", topic=settings.kafka.topic, data=str(settings.data.dir))
        if schedule is not None:
            nursery.start_soon(take_snapshots, schedule, directory, holders.holds_what_is_worth_keeping)
        task_status.started()


async def _serve(
    settings: Settings,
    http: HttpSettings,
    opened: Environments,
    view: View,
    worker: Worker | None,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    from kycache.actors.integrity.vouching import Checker, Walks
    from kycache.http.serving.server import serve

    directory = data_directory(settings)
    walks = Walks(Checker(view))
    reads = router(settings, directory, opened, view, walks.miss)
    listener, counts = (worker.listener, worker.counts) if worker is not None else (None, None)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(walks.run)
            url: str = await nursery.start(
                partial(serve, reads, http, directory, listener=listener, counts=counts)
            )
            log.info("listening", url=url, worker=worker.number if worker is not None else 0)
            task_status.started()
    finally:
        reads.close()
