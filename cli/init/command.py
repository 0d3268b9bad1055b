"""`kycache init`: a first view definition and kycache.toml, made from the source's catalog."""

import os
import uuid
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr, ValidationError
from pydantic import TypeAdapter as Checked

from kycache.actors.files.shard_folder import sync_folder
from kycache.cli.settings.composition import source_dsn
from kycache.cli.settings.invocation import invocation
from kycache.cli.settings.loading import FILE_NAME
from kycache.cli.settings.sections import Dsn, parts_of
from kycache.model.definition import parse_view
from kycache.model.errors import ConfigurationError, Refused

from .candidates import Candidate, candidates, root_key, why_no_root
from .definition_text import configuration_text, definition_text, shown, summary
from .facts import Catalog, Link, Named
from .proposal import filter_candidates, propose

VIEW_FILE = "view.toml"

CANDIDATES_MAX = 15
"""Tables that are listed where none was named; the root is seldom further down."""

_SECRETS = ("password", "sslpassword")


def init(
    context: typer.Context,
    table: Annotated[
        str | None,
        typer.Option(metavar="[SCHEMA.]NAME", help="The users' table. Without: list the tables that may be it."),
    ] = None,
    child: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TABLE.COLUMN",
            help="A table whose column holds the users' key, though no foreign key says so. May be repeated.",
        ),
    ] = None,
    dsn: Annotated[
        str | None,
        typer.Option(metavar="DSN", help="The source. Default: the setting, KYCACHE_SOURCE_DSN too."),
    ] = None,
    show_sample: Annotated[
        bool, typer.Option("--sample", help="Print one real profile as it would be served. It is personal data.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written.")] = False,
    folder: Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="Where to write.")] = Path(),
) -> None:
    """Write a first kycache.toml and view definition for tables that are there. Changes nothing at the source."""
    from .look_at_catalog import connected, look_at_catalog, look_at_spreads
    from .sample import sample

    files = [folder / VIEW_FILE, folder / FILE_NAME]
    if table is not None and not dry_run:
        _refuse_what_is_there(files)
    address = _address(context, dsn)
    with connected(address) as database:
        catalog = look_at_catalog(database)
        if table is None:
            _list_candidates(catalog)
            return
        named = _find(catalog, table)
        root = catalog.tables[named]
        if why := why_no_root(root):
            raise Refused(f"table {shown(named)} cannot be the root of a view: {why}", _other_roots(catalog))
        catalog = _with_children(catalog, named, child or [])
        proposal = propose(catalog, named, look_at_spreads(database, root, filter_candidates(root)))
        definition = definition_text(proposal)
        view = parse_view(definition, VIEW_FILE)
        body = sample(database, view, root.schema) if show_sample else None
    configuration = configuration_text(VIEW_FILE, root.schema, *_without_password(address))
    if dry_run:
        for file, text in zip(files, (definition, configuration), strict=True):
            typer.echo(f"# --- {file} ---\n{text}")
    else:
        _write(folder, files, (definition, configuration))
    for line in summary(proposal):
        typer.echo(line, err=dry_run)
    if catalog.wal_level != "logical":
        typer.echo(f"wal_level is {catalog.wal_level}: set wal_level = logical and restart PostgreSQL", err=True)
    for name in catalog.empty_enums:
        typer.echo(f"enum {name} has no labels, and Debezium fails at it: DROP TYPE, or ADD VALUE", err=True)
    if show_sample:
        typer.echo("the table has no row to show" if body is None else body.decode())
    if not dry_run:
        typer.echo(f"wrote {files[0]} and {files[1]}; next: set `[kafka] bootstrap`, look at each `guess`, then")
        typer.echo("`kycache connector --sql`")


def _address(context: typer.Context, given: str | None) -> str:
    """The source's dsn.

    Raises:
        ConfigurationError: none is known, or the one that was given is none.
    """
    if given is None:
        address = source_dsn(invocation(context).settings())
        if address is None:
            raise ConfigurationError("no source is named", "give --dsn, or set KYCACHE_SOURCE_DSN")
        return address
    try:
        checked: SecretStr = Checked(Dsn).validate_python(given)
    except ValidationError:  # its text may hold the password
        raise ConfigurationError("--dsn is no PostgreSQL connection string", "postgresql://USER@HOST/DB") from None
    return checked.get_secret_value()


def _without_password(address: str) -> "tuple[str, bool]":
    """A dsn that may stand in a file, and whether it had a password."""
    from psycopg.conninfo import make_conninfo

    parts = parts_of(SecretStr(address))
    if not any(key in parts for key in _SECRETS):
        return address, False
    return make_conninfo("", **{key: value for key, value in parts.items() if key not in _SECRETS}), True


def _find(catalog: Catalog, name: str) -> Named:
    """The table of a name, with or without its schema.

    Raises:
        ConfigurationError: there is none, or several.
    """
    names = list(catalog.tables)
    found = [named for named in names if name in (".".join(named), named[1])]
    found = [named for named in found if name == shown(named)] or found
    if len(found) == 1:
        return found[0]
    if found:
        several = ", ".join(".".join(named) for named in found)
        raise ConfigurationError(f"there are several tables {name!r}", f"name the schema: {several}")
    spelled = {spelling: named for named in names for spelling in (named[1], ".".join(named))}
    close = get_close_matches(name, spelled, n=1)
    meant = f"did you mean {close[0]!r}?" if close else "`kycache init` without --table lists those that may be it"
    raise ConfigurationError(f"database {catalog.database!r} has no table {name!r} that this role sees", meant)


def _with_children(catalog: Catalog, root: Named, given: list[str]) -> Catalog:
    """The catalog with the links that somebody says there are."""
    key = root_key(catalog.tables[root])
    assert key is not None
    links = []
    for each in given:
        name, _, column = each.rpartition(".")
        named = _find(catalog, name if "." in name or root[0] == "public" else f"{root[0]}.{name}")
        if column not in catalog.tables[named].known:
            raise ConfigurationError(f"--child {each}: table {shown(named)} has no column {column!r}", "mend it")
        links.append(Link(named, (column,), root, (key,), said=True))
    said = {link.table for link in links}
    others = [link for link in catalog.links if link.table not in said or link.target != root]
    return replace(catalog, links=(*links, *others))


def _list_candidates(catalog: Catalog) -> None:
    found = candidates(catalog)
    if not found:
        raise Refused(
            f"no table of database {catalog.database!r} can be the root of a view: it needs a key of one column "
            "(uuid, text or whole number), and a whole number, date or timestamp to order the list by",
            "`kycache init --table NAME` says of a table what it lacks",
        )
    typer.echo("Tables that may be the root, those first that most tables refer to:")
    for number, each in enumerate(found[:CANDIDATES_MAX], 1):
        typer.echo(f"{number:3}. {_candidate(each)}")
    if len(found) > CANDIDATES_MAX:
        typer.echo(f"     and {len(found) - CANDIDATES_MAX} more")
    typer.echo(f"next: `kycache init --table {shown(found[0].table)}`, or another of them")


def _candidate(each: Candidate) -> str:
    rows = "never counted" if each.rows is None else f"some {each.rows} rows"
    return f"{shown(each.table)}: key {each.key} ({each.declared}), referenced by {each.referenced_by}, {rows}"


def _other_roots(catalog: Catalog) -> str:
    names = [shown(each.table) for each in candidates(catalog)[:3]]
    return f"name another one: {', '.join(names)}" if names else "no table of the database can be it"


def _refuse_what_is_there(files: list[Path]) -> None:
    for file in files:
        if os.path.lexists(file):
            raise Refused(f"{file} is there already", "give --dir another folder, or look with --dry-run")


def _write(folder: Path, files: list[Path], texts: tuple[str, ...]) -> None:
    """Each whole or not at all, and never over one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, texts, strict=True):
        made = folder / f".{file.name}.{uuid.uuid4().hex[:8]}"
        try:
            with made.open("x", encoding="utf-8") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(opened.fileno())
            try:
                os.link(made, file)
            except FileExistsError:
                _refuse_what_is_there([file])
        finally:
            made.unlink(missing_ok=True)
    sync_folder(folder)
