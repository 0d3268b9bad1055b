"""One run of the command line: which configuration file, and the settings once a command asks for them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from .loading import Settings, find_file, load_settings

JsonOption = Annotated[bool, typer.Option("--json", help="Print facts as JSON, for programs.")]
ShardsOption = Annotated[
    list[int] | None,
    typer.Option("--shard", min=0, metavar="N", help="Only this shard; may be repeated. Default: all."),
]
NoWaitOption = Annotated[
    bool, typer.Option("--no-wait", help="Do not wait until ingest has read the shards on to the log's end.")
]


@dataclass
class Invocation:
    """What the options before the command said."""

    config: Path | None = None
    file: Path | None = field(default=None, init=False)
    """The file that was read, once `settings` was asked for; None where there is none."""

    def settings(self) -> Settings:
        """The settings in effect.

        Raises:
            ConfigurationError: names every mistake.
        """
        self.file = find_file(self.config)
        return load_settings(self.file)


def invocation(context: typer.Context) -> Invocation:
    """The run that a command belongs to."""
    found = context.find_object(Invocation)
    assert found is not None, "the application's callback makes it"
    return found


StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="Another store than `[snapshots] store`.")
]
