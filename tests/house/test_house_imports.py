"""Who may import whom, and what a folder may hold, read from the source."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "model": set[str](),
    "actors": {"model"},
    "ingest": {"actors", "model"},
    "http": {"actors", "model"},
    "snapshots": {"actors", "model"},
    "demo": {"actors", "http", "ingest", "model", "snapshots"},
    "cli": {"actors", "demo", "http", "ingest", "model", "snapshots"},
}

ROOMS = (
    "model/scalars",
    "model/sql",
    "model",
    "actors/rules",
    "actors/files",
    "actors/order",
    "actors/integrity",
    "actors/generations",
    "actors/store",
    "actors",
    "snapshots/storage",
    "snapshots",
    "ingest/decoding",
    "ingest/consuming",
    "ingest/remedies",
    "ingest",
    "http/exchange",
    "http/reads",
    "http/operations",
    "http/documents",
    "http/serving",
    "demo/population",
    "demo/servers",
    "demo",
    "cli/settings",
    "cli/support",
    "cli/doctor",
    "cli/init",
    "cli/commands",
    "cli",
)
"""From the lowest up: a room imports rooms that stand above it in this list, so there is no circle."""

FILES_MAX = 15
"""What one sees at a glance: more modules in a folder are two rooms."""

DECIDING = [
    *sorted(
        str(path.relative_to(ROOT))
        for pattern in (
            "model/*.py",
            "model/*/*.py",
            "actors/rules/*.py",
            "ingest/decoding/*.py",
            "cli/doctor/*_rules.py",
        )
        for path in ROOT.glob(pattern)
    ),
    "cli/doctor/source_facts.py",
    *(
        f"cli/init/{name}.py"
        for name in ("candidates", "columns", "definition_text", "facts", "names", "proposal")
    ),
]
"""Modules that decide and do nothing: they, and all they import, use no loop, store, broker or lock."""

DOING = {"trio", "lmdb", "kafka", "quart", "hypercorn", "psycopg", "fcntl", "socket", "subprocess"}


class Import(NamedTuple):
    """An import statement's module, absolute, and whether it was written relative."""

    line: int
    module: str
    relative: bool
    names: tuple[str, ...] = ()


def sources() -> list[Path]:
    """Every module of the product."""
    return sorted(p for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.py"))


def package_of(path: Path) -> tuple[str, ...]:
    """The package a file belongs to, as the names below the root."""
    return path.relative_to(ROOT).parts[:-1]


def room_of(module: str) -> tuple[str, ...]:
    """The room that an absolute name of ours, a module or a room, stands in."""
    names = tuple(module.split(".")[1:])
    return names if ROOT.joinpath(*names).is_dir() else names[:-1]


def imports(path: Path, *, at_runtime: bool = False) -> Iterator[Import]:
    """Every import of a file; `at_runtime` leaves out those under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if at_runtime and isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, relative=False)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            module = node.module or ""
            if node.level:
                package = package_of(path)
                assert node.level <= len(package), f"{path}:{node.lineno} leaves its folder by a relative import"
                base = (*package[: len(package) - node.level + 1], *filter(None, [module]))
                module = ".".join(("kycache", *base))
            yield Import(node.lineno, module, bool(node.level), names)


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_who_imports_whom(path: Path) -> None:
    folder = package_of(path)[0]
    for found in imports(path):
        where = f"{path.relative_to(ROOT)}:{found.line} imports {found.module}"
        first, *rest = found.module.split(".")
        # `import actors.x` from the root would make other classes than `kycache.actors.x`. `http` is Python's own.
        assert first not in MAY_IMPORT or first == "http", f"{where}: write kycache.{found.module}"
        if first == "http" and rest:
            assert rest[0] in {"client", "cookiejar", "cookies", "server"}, (
                f"{where}: write kycache.{found.module}"
            )
        if first != "kycache":
            continue
        assert rest, f"{where}: name the folder"
        assert found.relative == (room_of(found.module) == package_of(path)), (
            f"{where}: imports are relative inside a room, absolute everywhere else"
        )
        if rest[0] != folder:
            assert rest[0] in MAY_IMPORT[folder], f"{where}: {folder}/ may not import {rest[0]}/"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT / "tests"))
)
def test_tests_import_the_package(path: Path) -> None:
    for found in imports(path):
        first = found.module.split(".")[0]
        assert first not in MAY_IMPORT or first == "http", f"{path}:{found.line}: write kycache.{found.module}"


def _reached(path: Path) -> dict[str, list[str]]:
    """All modules that importing a file loads, with the way to each; of others' packages the top name only."""
    ways: dict[str, list[str]] = {}
    waiting = [(path, [str(path.relative_to(ROOT))])]
    while waiting:
        current, way = waiting.pop()
        for found in imports(current, at_runtime=True):
            first = found.module.split(".")[0]
            if first != "kycache":
                ways.setdefault(first, way)
                continue
            for candidate in (found.module, *(f"{found.module}.{name}" for name in found.names)):
                file = ROOT.joinpath(*candidate.split(".")[1:]).with_suffix(".py")
                if file.exists() and candidate not in ways:
                    ways[candidate] = way
                    waiting.append((file, [*way, str(file.relative_to(ROOT))]))
    return ways


@pytest.mark.parametrize("module", DECIDING)
def test_what_decides_does_nothing(module: str) -> None:
    reached = _reached(ROOT / module)
    wrong = {name: " -> ".join(way) for name, way in reached.items() if name in DOING}
    assert wrong == {}


REGISTERS = {"cli/main.py"}
"""Puts our own commands into our own application where it is imported."""


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_an_import_changes_no_library(path: Path) -> None:
    """A module only imports, defines, and gives values to names of its own; the rest is called by who composes."""
    if str(path.relative_to(ROOT)) in REGISTERS:
        return
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        where = f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:80]}"
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in {"TYPE_CHECKING", "__name__ == '__main__'"}, where
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            assert all(isinstance(target, ast.Name | ast.Tuple) for target in targets), where
        elif isinstance(node, ast.Expr):
            assert isinstance(node.value, ast.Constant), where
        else:
            defines = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            assert isinstance(node, defines), where


def test_every_room_imports_downwards() -> None:
    assert {"/".join(package_of(path)) for path in sources()} == set(ROOMS)
    for path in sources():
        room = "/".join(package_of(path))
        for found in imports(path):
            if found.module.startswith("kycache."):
                target = "/".join(room_of(found.module))
                assert ROOMS.index(target) <= ROOMS.index(room), (
                    f"{path.relative_to(ROOT)}:{found.line}: {target}/"
                )


def test_no_folder_shows_too_much() -> None:
    shown = Counter(path.parent for path in (*sources(), *(ROOT / "tests").rglob("*.py")))
    crowded = {str(folder.relative_to(ROOT)): count for folder, count in shown.items() if count > FILES_MAX}
    assert crowded == {}


def test_a_command_imports_no_command() -> None:
    commands = {f"kycache.cli.commands.{path.stem}" for path in (ROOT / "cli" / "commands").glob("*.py")}
    for path in (ROOT / "cli" / "commands").glob("*.py"):
        named = {m for f in imports(path) for m in (f.module, *(f"{f.module}.{name}" for name in f.names))}
        assert named & commands == set(), path.name


def test_the_names_of_folders_are_nobodys() -> None:
    assert set(MAY_IMPORT) & sys.stdlib_module_names == {"http"}
