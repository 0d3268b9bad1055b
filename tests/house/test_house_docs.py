"""The documentation holds what the code has: every setting, command, dependency and page.

`python tests/house/test_house_docs.py` writes docs/settings.md anew.
"""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from kycache.cli.main import app
from kycache.cli.settings.loading import PREFIX, keys, sections
from kycache.cli.settings.sections import Section
from kycache.http.reads.query import PAGE_DIGITS_MAX, SIZE_DEFAULT, SIZE_MAX

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "settings.md"
FOLDERS = ("actors", "cli", "demo", "http", "ingest", "model", "snapshots")

HEAD = """\
# Settings

`kycache.toml` in the working directory, or the file that `--config` (or `KYCACHE_CONFIG`) names. Each setting is
overridden by the variable `KYCACHE_SECTION_KEY`: `[kafka] sasl_username` by `KYCACHE_KAFKA_SASL_USERNAME`. An
empty variable counts as unset; a list is written `a,b`. Relative paths in the file count from the file's folder,
in a variable from the working directory.

Unknown settings are errors, in the file and among the variables. Kubernetes makes variables of its own beside a
Service called `kycache`; those are passed over. A Service called `kycache-http`, `kycache-data` or like another
section would be taken for a setting: give it another name, or set `enableServiceLinks: false`.

`kycache status --config` prints what is in effect, secrets redacted.
"""


def settings_page() -> str:
    """docs/settings.md, as the code has it."""
    parts = [HEAD]
    for name, section in sections().items():
        rows = [_row(key, section.model_fields[attribute]) for key, attribute in keys(section).items()]
        parts.append(f"\n## [{name}]\n\n{section.__doc__}\n\n| Key | Default | Meaning |\n|---|---|---|\n")
        parts += rows
    return "".join(parts)


def _row(key: str, field: FieldInfo) -> str:
    default = field.default
    assert default is not PydanticUndefined, f"{key} has no default"
    shown = "unset" if default in (None, ()) else f"`{default}`"
    if isinstance(default, bool):
        shown = f"`{str(default).lower()}`"
    return f"| `{key}` | {shown} | {field.description} |\n"


def test_settings_page_is_what_the_code_has() -> None:
    assert PAGE.read_text(encoding="utf-8") == settings_page(), f"run: python {Path(__file__).relative_to(ROOT)}"


def test_every_setting_says_what_it_means() -> None:
    for name, section in sections().items():
        assert issubclass(section, Section)
        for attribute, field in section.model_fields.items():
            assert field.description, f"[{name}] {attribute}"


def test_secrets_are_secrets() -> None:
    for name, section in sections().items():
        for attribute, field in section.model_fields.items():
            if re.search(r"password|dsn|_keys$", attribute) or (name, attribute) == ("snapshots", "key"):
                assert SecretStr.__name__ in repr(field.annotation), (
                    f"[{name}] {attribute} is shown by status --config"
                )


def names_in(group: typer.Typer) -> Iterator[str]:
    """The commands of a group, as they are typed."""
    for command in group.registered_commands:
        assert command.callback is not None
        yield command.name or command.callback.__name__


def commands() -> set[str]:
    """The commands that exist, those of a group with its name before them."""
    groups = {str(group.name): group.typer_instance for group in app.registered_groups}
    inner = {f"{name} {command}" for name, group in groups.items() if group for command in names_in(group)}
    return {*names_in(app), *inner}


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_documented(command: str) -> None:
    assert f"| `kycache {command}` |" in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def _texts() -> Iterator[tuple[str, str]]:
    """Every string of the code that is no docstring, and every page, with where it stands."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def test_only_commands_that_exist_are_named() -> None:
    there = commands()
    groups = {name.split()[0] for name in there if " " in name}
    wrong = []
    for where, text in _texts():
        for match in re.finditer(r"`kycache (?:--config \S+ )?([a-z]+)(?: ([a-z]+))?", text):
            named = f"{match[1]} {match[2]}" if match[1] in groups and match[2] else match[1]
            if named not in there | groups:
                wrong.append(f"{where}: {match[0]}`")
    assert wrong == []


def test_only_settings_that_exist_are_named() -> None:
    there = {name: set(keys(section)) for name, section in sections().items()}
    wrong = [
        f"{where}: {match[0]}"
        for where, text in _texts()
        for match in re.finditer(r"`\[([a-z]+)\] ([a-z_]+)[`\s=]", text)
        if match[2] not in there.get(match[1], set())
    ]
    assert wrong == []


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    decided = (ROOT / "DECISIONS.md").read_text(encoding="utf-8")
    for requirement in [*project["dependencies"], *(r for extra in extras for r in extra)]:
        name = re.split(r"[<>=~!; ]", requirement)[0]
        assert f"`{name}`" in decided, f"{name} has no line in DECISIONS.md"


def test_clients_know_the_size_of_a_page() -> None:
    page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert f"| `size` | 1 to {SIZE_MAX} | {SIZE_DEFAULT} |" in page
    assert f"at most {PAGE_DIGITS_MAX} digits" in page


def test_every_page_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert f"(docs/{page.name})" in readme


def test_links_lead_somewhere() -> None:
    for page in (
        ROOT / "README.md",
        ROOT / "DECISIONS.md",
        ROOT / "CHANGES.md",
        *sorted((ROOT / "docs").glob("*.md")),
    ):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_variables_and_settings_do_not_collide() -> None:
    every = [f"{PREFIX}{name}_{key}".upper() for name, section in sections().items() for key in keys(section)]
    assert len(every) == len(set(every))


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")


def test_the_architecture_names_what_is_there() -> None:
    """Every room stands on the page, and every path and module it names exists."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {f"{path.parent.relative_to(ROOT)}/" for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    drawn = set(re.findall(r"^ [ │├└─]*([a-z/]+/) {2,}\S", page, re.MULTILINE))
    assert drawn == rooms
    modules = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    for named in re.findall(r"`([\w/*]+\.py)`", page):
        if "*" in named:
            assert list(ROOT.glob(named)) or list(ROOT.rglob(named)), named
        elif "/" in named:
            assert (ROOT / named).is_file(), named
        else:
            assert named in modules, named
