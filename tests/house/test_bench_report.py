"""What writes the benches' figures down: sections that leave each other alone, charts that are well-formed."""

import importlib.util
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def test_a_section_is_replaced_and_the_others_stay() -> None:
    report = module("report")
    page = report.with_section("", "pages", "section one\n\ntwo")
    page = report.with_section(page, "freshness", "section three")
    assert page.startswith(report.HEAD)
    assert page.index("section three") < page.index("section one")
    again = report.with_section(page, "pages", "section four")
    assert "section three" in again
    assert "section one" not in again
    assert report.with_section(again, "pages", "section four") == again
    assert report.table(["a", "b"], [[1, 2]]).splitlines() == ["| a | b |", "| :-- | --: |", "| 1 | 2 |"]


def test_a_chart_is_well_formed_and_holds_its_points() -> None:
    chart = module("chart")
    series = {"a & b": [(1, 0.5), (1_000, 30)], "c": [(1, 2)]}
    for log in (False, True):
        drawn = ET.fromstring(chart.lines("T < U", series, x="x", y="y", log_x=log, log_y=log))
        assert len(drawn.findall("{*}circle")) == 3
        assert "a & b" in [text.text for text in drawn.findall("{*}text")]
    with pytest.raises(ValueError, match="logarithmic"):
        chart.lines("T", {"a": [(0, 1)]}, x="x", y="y", log_x=True)


def test_every_section_has_its_script_and_its_figures() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in re.findall(r"^<!-- ([a-z_]+) -->$", page, re.MULTILINE):
        assert (ROOT / "bench" / f"{name}.py").exists()
        assert (ROOT / "bench" / "results" / f"{name}.json").exists()
