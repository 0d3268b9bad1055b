"""The folders at the root are the package kycache: in a wheel, installed editable, and for the type checkers."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from mypy.main import process_options

import kycache.model.errors

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = sorted(name.removeprefix("kycache.") for name in PROJECT["tool"]["setuptools"]["packages"])
FOLDERS = sorted({name.partition(".")[0] for name in PACKAGES})
BUILD_WAIT_S = 120.0


def run(*command: str | Path, cwd: Path, **more: str) -> str:
    """What a command prints; it must succeed. The repository's own paths are not handed on to it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "KYCACHE_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, **more},
        capture_output=True,
        text=True,
        timeout=BUILD_WAIT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the repository and nothing stale is taken."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    # Without isolation: an isolated build would download setuptools.
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


def modules_of(wheel: Path) -> list[str]:
    """The modules in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name.removesuffix(".py") for name in archive.namelist() if name.endswith(".py")]
    return sorted(name.replace("/", ".").removesuffix(".__init__") for name in names)


IMPORT_ALL = """
import importlib, json, sys
print(json.dumps({name: importlib.import_module(name).__file__ for name in json.loads(sys.argv[1])}))
"""


def test_wheel_installs_and_every_module_imports(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    (site,) = (environment / "lib").glob("python3.*/site-packages")
    # What kycache depends on is taken from here. A folder added so runs no .pth file of its own, so this
    # environment's editable kycache is not seen.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    modules = modules_of(wheel)
    found: dict[str, str | None] = json.loads(
        run(python, "-W", "ignore", "-c", IMPORT_ALL, json.dumps(modules), cwd=tmp_path)
    )

    assert {name: file for name, file in found.items() if not str(file).startswith(str(site))} == {}
    version = run(environment / "bin" / "kycache", "--version", cwd=tmp_path)
    assert version.split() == ["kycache", PROJECT["project"]["version"]]
    view = "from kycache.model.definition import default_view; print(default_view().name)"
    assert run(python, "-c", view, cwd=tmp_path).strip() == "kyc"


def test_wheel_holds_every_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name.removeprefix("kycache/") for name in archive.namelist()}
        (record,) = [archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA")]
    there = {
        str(path.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there - packed == set()
    assert "kyc.toml" in {Path(name).name for name in packed}
    assert any(name.endswith("licenses/LICENSE") for name in packed)
    assert "License-Expression: Apache-2.0" in record


def test_every_folder_with_modules_is_a_package() -> None:
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    assert found | {"http"} == set(PACKAGES), "pyproject.toml: packages and package-dir must list it"
    mapped = {f"kycache.{name}": name.replace(".", "/") for name in PACKAGES}
    assert PROJECT["tool"]["setuptools"]["package-dir"] == mapped


def test_editable_install_is_this_source() -> None:
    file = kycache.model.errors.__file__
    assert Path(file).resolve() == ROOT / "model" / "errors.py"
    assert not hasattr(kycache, "__file__") or kycache.__file__ is None  # a namespace: no folder is kycache itself


def test_standard_http_is_not_shadowed() -> None:
    assert not (ROOT / "http" / "__init__.py").exists()
    run(sys.executable, "-c", "import http.client, http.cookies; http.client.HTTPConnection", cwd=ROOT)


def test_type_checkers_see_every_folder() -> None:
    links = {path.name: path for path in (ROOT / ".typing" / "kycache").iterdir()}
    assert sorted(links) == FOLDERS
    for name, link in links.items():
        assert link.is_symlink()
        assert not link.readlink().is_absolute(), "a clone lies elsewhere"
        assert link.resolve() == ROOT / name
    for name in ("simulation", "support"):
        assert (ROOT / ".typing" / name).readlink() == Path("..", "tests", name)
    # Pyright passes over whatever begins with a dot, and then finds no error in nothing.
    pyright = PROJECT["tool"]["pyright"]
    assert pyright["include"] == sorted([*FOLDERS, "bench", "tests"])
    assert pyright["exclude"] == ["tests/fixtures"]
    assert "ignore" not in pyright
    assert pyright["extraPaths"] == ["tests", ".typing"]


def test_mypy_sees_every_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under two names it would be two modules, whose classes differ; under none it is not looked at."""
    monkeypatch.chdir(ROOT)
    sources, options = process_options(["--config-file", "pyproject.toml"])
    seen = sorted(str(Path(source.path).resolve().relative_to(ROOT)) for source in sources if source.path)
    folders = (ROOT / name for name in (*FOLDERS, "bench", "tests"))
    there = [path.relative_to(ROOT) for folder in folders for path in folder.rglob("*.py")]
    assert seen == sorted(str(path) for path in there if not path.is_relative_to("tests/fixtures"))
    assert options.warn_unreachable
    assert PROJECT["tool"]["mypy"]["strict"]


def test_coverage_measures_the_folders(tmp_path: Path) -> None:
    settings = ROOT / "pyproject.toml"
    data = tmp_path / "coverage"
    code = tmp_path / "use.py"
    code.write_text("from kycache.model.lsn import parse_lsn\nassert parse_lsn('0/A') == 10\n", encoding="utf-8")
    common = ("-m", "coverage")
    run(sys.executable, *common, "run", f"--rcfile={settings}", f"--data-file={data}", code, cwd=ROOT)
    run(
        sys.executable,
        *common,
        "json",
        f"--rcfile={settings}",
        f"--data-file={data}",
        "-o",
        tmp_path / "coverage.json",
        cwd=ROOT,
    )
    files = json.loads((tmp_path / "coverage.json").read_text(encoding="utf-8"))["files"]
    assert files["model/lsn.py"]["summary"]["covered_lines"] > 0
    assert {Path(name).parts[0] for name in files} == set(PROJECT["tool"]["coverage"]["run"]["source"])
