"""`kycache`: the commands, and how a run of one ends.

An expected failure is two lines on stderr, what is wrong and what to do next, and an exit code. So is an
unexpected one, a bug of ours: it says where it happened, without the messages and values of a stack trace.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from kycache.cli.commands.compact import compact
from kycache.cli.commands.connector import connector
from kycache.cli.commands.demo import demo
from kycache.cli.commands.quarantine import app as quarantine
from kycache.cli.commands.rebuild import rebuild
from kycache.cli.commands.restore import restore
from kycache.cli.commands.service import ingest, node, web
from kycache.cli.commands.snapshot import app as snapshot
from kycache.cli.commands.status import status
from kycache.cli.doctor.command import doctor
from kycache.cli.init.command import init
from kycache.cli.settings.invocation import Invocation
from kycache.cli.settings.loading import CONFIG_VARIABLE
from kycache.model.errors import ConfigurationError, KycacheError, Refused, whereabouts

SIGNAL_EXIT = 128
"""Shells say how a process ended by a signal by this and the signal's number."""

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LONG_RUNNING = frozenset({"demo", "node", "ingest", "web"})
"""They end in an order of their own."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    # Their locals would show personal data.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kycache {version('kycache')}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option(
            envvar=CONFIG_VARIABLE,
            metavar="FILE",
            readable=False,  # our own message says more, and ends with the code of a wrong configuration
            help="The configuration file. Default: kycache.toml in the working directory, where there is one.",
        ),
    ] = None,
    show_version: Annotated[  # noqa: ARG001 (the callback has done it)
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A read cache for KYC user profiles that never guesses: Debezium changes in, two exact reads out."""
    context.obj = Invocation(config)
    if context.invoked_subcommand not in _LONG_RUNNING:
        context.with_resource(_unwound_by_signals())


@contextmanager
def _unwound_by_signals() -> Iterator[None]:
    """The first signal ends the block by `SystemExit`: what was begun is cleared away, and a connector that was
    stopped goes on. The next one does what it does by default."""
    came = 0

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came = number
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        sys.exit(SIGNAL_EXIT + number)

    # Not one that is ignored: `nohup` does so.
    before = {each: old for each in _ENDING if (old := signal.getsignal(each)) is not signal.SIG_IGN}
    for each in before:
        signal.signal(each, end)
    try:
        yield
    except Exception:
        if not came:
            raise
        # It struck where a thread was being started, say (seen once), and clearing away stumbled over that.
        sys.exit(SIGNAL_EXIT + came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


for _command in (init, demo, node, ingest, web, status, connector, doctor, rebuild, compact):
    app.command()(_command)
app.add_typer(quarantine, name="quarantine")
snapshot.command()(restore)
app.add_typer(snapshot, name="snapshot")


def main(arguments: list[str] | None = None) -> None:
    """The console script; ends the process."""
    try:
        app(arguments, prog_name="kycache")
    except KycacheError as error:
        sys.exit(report(error))
    except (NotADirectoryError, FileExistsError, IsADirectoryError) as error:
        sys.exit(report(ConfigurationError(f"{error.filename}: {error.strerror}", "set `[data] dir` to a folder")))
    except PermissionError as error:
        sys.exit(report(Refused(f"{error.filename}: {error.strerror}", "run kycache as the user who owns it")))
    except OSError as error:
        what = ": ".join(str(part) for part in (error.filename, error.strerror) if part)
        sys.exit(report(Refused(what or type(error).__name__, "mend that, and run the command again")))
    except Exception as error:
        what = f"failed unexpectedly, by a mistake of ours: {whereabouts(error)}"
        sys.exit(report(KycacheError(what, "report it with this line, which holds no data")))


def report(error: KycacheError) -> int:
    """Say what is wrong and what to do next; returns the exit code."""
    print(f"kycache: {error.problem}", file=sys.stderr)
    if error.remedy:
        print(f"  next: {error.remedy}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    main()
