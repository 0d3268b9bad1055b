"""`kycache connector`: the Debezium connector and the SQL for the source, as the demo itself runs them."""

import json
import sys
from typing import Annotated, Any

import typer

from kycache.cli.settings.composition import connector_settings, data_directory, partitions_of
from kycache.cli.settings.invocation import JsonOption, invocation
from kycache.cli.settings.sections import PARTITIONS_MAX, REDACTED
from kycache.model.connector import ConnectorSettings, connector_config, source_rights, source_sql
from kycache.model.errors import ConfigurationError
from kycache.model.view import View

SECRET_KEYS = ("database.password", "database.sslpassword")


def connector(
    context: typer.Context,
    only_sql: Annotated[bool, typer.Option("--sql", help="Print the SQL only, to be piped to psql.")] = False,
    only_connector: Annotated[
        bool, typer.Option("--connector", help="Print the connector only, to be posted to Kafka Connect.")
    ] = False,
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Print the database password on a terminal too.")
    ] = False,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, max=PARTITIONS_MAX, help="Partitions of the topic. Default: the data directory's."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the Debezium connector's configuration and the SQL that the source needs before it."""
    settings = invocation(context).settings()
    view = settings.load_view()
    source = connector_settings(settings, partitions_of(settings, data_directory(settings), partitions))
    statements = source_sql(view, source)
    printed = script(statements, source_rights(view, source))
    if only_sql and not only_connector:
        typer.echo(json.dumps(statements) if as_json else printed, nl=as_json)
        return
    # What is piped on must work as it is; what somebody looks at need not show the password.
    shown = with_secrets or not on_terminal()
    posted = request(view, source, with_secrets=shown)
    if not source.password:
        typer.echo("no setting has the database's password: the connector needs it", err=True)
    elif not shown:
        typer.echo("the password is redacted; --with-secrets prints it", err=True)
    if as_json and not only_connector:
        typer.echo(json.dumps({"connector": posted, "sql": statements}))
    elif only_connector and not only_sql:
        typer.echo(json.dumps(posted, indent=None if as_json else 2))
    else:
        typer.echo("-- At the source: kycache connector --sql | psql\n")
        typer.echo(printed)
        typer.echo("-- Then to Kafka Connect: kycache connector --connector")
        typer.echo("--   | curl -H 'Content-Type: application/json' -d @- http://localhost:8083/connectors\n")
        typer.echo(json.dumps(posted, indent=2))


def on_terminal() -> bool:
    """Somebody looks at what is printed."""
    return sys.stdout.isatty()


def request(view: View, source: ConnectorSettings, *, with_secrets: bool) -> dict[str, Any]:
    """The body of `POST /connectors`.

    Raises:
        ConfigurationError: the source's address is not known, or is none that Debezium can use.
    """
    if not source.host or not source.user or not source.dbname:
        raise ConfigurationError(
            "the connector needs the database's host, user and name, and no setting has them",
            "set `[source] dsn`, or `[connector] dsn` where Debezium reaches it by another address; "
            "`--sql` goes without",
        )
    if source.uncarried:
        raise ConfigurationError(
            f"Debezium cannot connect as the dsn says: {'; '.join(source.uncarried)}",
            "set `[connector] dsn` to the source as Debezium reaches it",
        )
    config = connector_config(view, source)
    if not with_secrets:
        config |= {key: REDACTED for key in SECRET_KEYS if config.get(key)}
    return {"name": source.name, "config": config}


def script(statements: list[str], rights: str) -> str:
    """The statements as psql reads them: all of them or none, and then psql ends with an error.

    Args:
        rights: who may run them; the first line.
    """
    body = "".join(f"{statement.strip()};\n\n" for statement in statements)
    return f"-- {rights}\n\\set ON_ERROR_STOP on\n\nBEGIN;\n\n{body}COMMIT;\n"
