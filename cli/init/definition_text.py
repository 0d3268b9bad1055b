"""A proposal as the files that `kycache init` writes: the view definition and kycache.toml. Pure."""

import json
import re
from collections.abc import Iterable, Iterator

from kycache.model.view import Privacy

from .facts import Named
from .proposal import NAMED_MAX, Declared, Member, Proposal

COMMENT_COLUMN = 96
"""Where the comments of columns begin, as far as the columns leave room."""

_BARE = re.compile(r"[A-Za-z0-9_-]+")

_HEAD = """\
# A view of users, made by `kycache init` from the catalog of database {database}. It is yours: change it.
#
# A column is   name at the source = {{ member of the answer, type, privacy }}   # its type at the source; why
# Privacy: open | pii (stands in no log) | secret (neither stored nor served). A column that is left out of this
# file is neither stored nor served either. `guess` marks a privacy that was guessed by the column's name only:
# look at each, and at those that say nothing, before you go on.
"""


def definition_text(proposal: Proposal) -> str:
    """The view definition, TOML."""
    lines = [*_HEAD.format(database=_inline(proposal.database)).splitlines(), ""]
    lines += [f"name = {_text(proposal.root.name)}", "", "[root]"]
    lines += _table(proposal.root, "root.columns")
    for child in proposal.children:
        lines += ["", *_remarks(child.remarks), "[[children]]", f"name = {_text(child.output)}"]
        lines += _table(child, "children.columns")
    lines += ["", *_tables_left_out(proposal), *_list(proposal)]
    return "\n".join(lines) + "\n"


def _table(table: Declared, section: str) -> Iterator[str]:
    if not table.output:
        yield from _remarks(table.remarks)
    yield f"table = {_text(table.name)}"
    yield f"key = {_text(table.key)}"
    if table.output:
        yield f"owner = {_text(table.owner)}"
    if table.order:
        yield f"order = {_text(table.order + ' desc')}   # the newest first"
    yield ""
    yield f"[{section}]"
    width = max(len(_key(each.choice.name)) for each in table.members)
    for each in table.members:
        yield _column(each, width)
    if table.omitted:
        yield "# left out:"
        yield from (f"#   {_inline(each.what)}: {_inline(each.why)}" for each in table.omitted)


def _column(each: Member, width: int) -> str:
    choice = each.choice
    labels = f", labels = [{', '.join(map(_text, choice.labels))}]" if choice.labels else ""
    shown = f'{{ name = {_text(each.output)}, type = "{choice.type}"{labels}, privacy = "{each.privacy}" }}'
    guess = f"guess, by {choice.why!r}" if choice.why else "guess"
    if each.privacy is not choice.privacy:
        guess = f"guess, by {choice.why!r}, but it is needed here"
    entry = f"{_key(choice.name).ljust(width)} = {shown}"
    return f"{entry.ljust(COMMENT_COLUMN)} # {_inline(choice.declared)}; {guess}"


def _remarks(remarks: Iterable[str]) -> Iterator[str]:
    return (f"# {_inline(remark)}" for remark in remarks)


def _tables_left_out(proposal: Proposal) -> Iterator[str]:
    if proposal.omitted:
        yield "# Tables left out:"
        yield from _some([f"{_inline(each.what)}: {_inline(each.why)}" for each in proposal.omitted])
        yield ""
    if proposal.may_belong:
        yield "# No foreign key says so, but by their names these columns may hold the users' key. Where one does,"
        yield "# `kycache init --child TABLE.COLUMN` declares its table as a child:"
        yield from _some(list(map(_inline, proposal.may_belong)))
        yield ""


def _some(entries: list[str]) -> Iterator[str]:
    yield from (f"#   {entry}" for entry in entries[:NAMED_MAX])
    if len(entries) > NAMED_MAX:
        yield f"#   and {len(entries) - NAMED_MAX} more"


def _list(proposal: Proposal) -> Iterator[str]:
    yield "[list]"
    yield f"order = {_text(proposal.order)}   # {proposal.order_why}"
    yield "# the key, what users are known by, the filters, and when they came"
    yield f"fields = [{', '.join(map(_text, proposal.fields))}]"
    if proposal.filters:
        yield "# Columns with few values, none of them private: each filter more doubles the upkeep of the list."
        yield from (f"#   {_inline(name)}: {why}" for name, why in proposal.filters)
    else:
        yield "# No column was found that has few values and is not private."
    if proposal.more_filters:
        yield f"# These would do as well: {_inline(', '.join(proposal.more_filters))}"
    yield f"filters = [{', '.join(_text(name) for name, _ in proposal.filters)}]"


def summary(proposal: Proposal) -> list[str]:
    """What was declared and what was not, for the terminal."""
    children = _listed([child.name for child in proposal.children])
    guessed = {
        level: sum(m.privacy is level for t in (proposal.root, *proposal.children) for m in t.members)
        for level in (Privacy.PII, Privacy.SECRET)
    }
    lines = [
        f"root {proposal.schema}.{proposal.root.name} by {proposal.root.key}; children: {children}",
        f"list by {proposal.order}; filters: {_listed([name for name, _ in proposal.filters])}",
        f"privacy, guessed by names: {guessed[Privacy.PII]} columns pii, {guessed[Privacy.SECRET]} secret",
    ]
    left = [
        *(f"{t.name}.{o.what}" for t in (proposal.root, *proposal.children) for o in t.omitted),
        *(o.what for o in proposal.omitted),
    ]
    if left:
        lines.append(f"left out, the reasons stand in the file: {_listed(left)}")
    return lines


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more or "none"


def configuration_text(view_file: str, schema: str, dsn: str, has_password: bool) -> str:
    """kycache.toml.

    Args:
        view_file: the view definition's name, beside it.
        dsn: the source, without a password.
        has_password: the dsn that was given has one.
    """
    secret = (
        "# The password stands in no file: put the whole dsn into KYCACHE_SOURCE_DSN."
        if has_password
        else "# Where Debezium needs a password: put the whole dsn, with it, into KYCACHE_SOURCE_DSN."
    )
    lines = [
        "# Made by `kycache init`. docs/settings.md has all settings; variables KYCACHE_SECTION_KEY override it.",
        "",
        "[view]",
        f"file = {_text(view_file)}",
        "",
        "[kafka]",
        'bootstrap = "localhost:9092"   # your brokers: "broker-1:9092,broker-2:9092"',
        "",
        "[source]",
        secret,
        f"dsn = {_text(dsn)}",
        "",
        "[connector]",
        "partitions = 4   # fixed for the life of the view: as many as nodes and cores shall ever share the work",
    ]
    lines += ["# dsn = …   # the source as Debezium reaches it, where that is another address"]
    if schema != "public":
        lines += [f"schema = {_text(schema)}   # of the view's tables"]
    lines += ["", "[connect]", '# url = "http://connect:8083"   # lets `kycache doctor` look at the connector too']
    return "\n".join(lines) + "\n"


def shown(named: Named) -> str:
    """A table as `--table` takes it."""
    return named[1] if named[0] == "public" else ".".join(named)


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    """A TOML string on one line."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _inline(text: str) -> str:
    """What may stand in a comment: no end of line, no control character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
