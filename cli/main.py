"""`kycache`: the commands, and how a run of one ends.

An expected failure is two lines on stderr, what is wrong and what to do next, and an exit code. So is an
unexpected one, a bug of ours: it says where it happened, without the messages and values of a stack trace.
"""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from kycache.model.errors import ConfigurationError, KycacheError, Refused, whereabouts

from .compact import compact
from .connector import connector
from .demo import demo
from .doctor import doctor
from .invocation import Invocation
from .quarantine import app as quarantine
from .rebuild import rebuild
from .restore import restore
from .service import ingest, node, web
from .settings import CONFIG_VARIABLE
from .snapshot import app as snapshot
from .status import status

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


for _command in (demo, node, ingest, web, status, connector, doctor, rebuild, compact):
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
