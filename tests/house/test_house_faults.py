"""docs/faults.md: every fault has its tests, and they exist; or it says that there are none yet."""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "faults.md"
FAULTS = 31

ROW = re.compile(r"^\| (\d+) \| .* \| .* \| (.*) \|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::([\w:]+)`")


def names_of_tests(module: Path) -> set[str]:
    """Tests and classes of tests of a module, by their names behind the `::`."""
    found = set()
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            inner = [n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
            found |= {node.name, *(f"{node.name}::{name}" for name in inner)}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return {name for name in found if name.rpartition("::")[2].lower().startswith("test")}


def test_every_fault_has_its_tests() -> None:
    rows = ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert [int(number) for number, _ in rows] == list(range(1, FAULTS + 1))
    for number, tests in rows:
        named = NAMED.findall(tests)
        assert named or tests.startswith("not yet"), number
        for module, name in named:
            assert name in names_of_tests(next(TESTS.rglob(module))), f"row {number}: {module}::{name}"
