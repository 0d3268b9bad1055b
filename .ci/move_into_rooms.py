"""Moves every module into its room and rewrites what names it. Run once, at the root, on a clean checkout."""

import ast
import re
import subprocess
from pathlib import Path

ROOMS = """
actors/files: files>shard_folder directory environment meta open_reads quarantine snapshot_report
actors/generations: building>takeover hot_copy scrub compaction
actors/integrity: checked>vouching walk>child_walk walking>walk_program pages>page_verifier
actors/order: order>layout order_nodes>nodes order_values>values order_mirror>mirror order_writer>writer order_views>views order_search>search order_reader>reader order_check>recount
actors/rules: state timeline fold freshness
actors/store: store work>batch turn
cli/commands: status connector quarantine rebuild compact snapshot restore demo service
cli/support: process log catch_up transfer broker
cli/doctor: doctor>command findings>topic_rules connector_findings>connector_rules source_findings>source_rules table_findings>table_rules source_facts examination>look_at_source topic_examination>look_at_topic snapshot_examination>look_at_snapshots
cli/settings: composition settings>loading sections durations invocation connect>kafka_connect
http/documents: openapi schemas docs_page
http/operations: health metrics
http/reads: answers query cursors page_cache exports codings problems slow watch sparing_log pages>list_page truth>demands tally>counts
http/serving: app gate server connections bounded listen workers http2 settings
ingest/consuming: consumer>thread client fetched topic settings
ingest/decoding: decode envelope image redact
ingest/remedies: control rebuild bring quarantine
snapshots/storage: stores manifest keys listing fetch settings runs
demo/servers: apache broker children embedded jars layout leash loopback ports postgres relay relay_settings stack
demo/population: people cultures writes
tests/support: bucket command_line faults http_stand killed_writer shards small_disk snapshot_killer snapshot_stand waiting
tests/support/pipeline: stack running_demo workload sql_truth list_comparison freshness_checker ingest_process proxy fake_source captured
tests/actors: test_actors_checked test_actors_fold test_actors_shard test_actors_store test_actors_supervisor test_hot_copy test_open_reads test_order_counts test_order_index test_read_damage test_scrub
tests/debezium: test_debezium_captured test_debezium_fixtures test_debezium_lines
tests/ingest: test_bootstrap_on_kafka test_control test_epochs test_ingest_decode test_ingest_fetched test_ingest_group test_ingest_image test_ingest_joining test_ingest_on_kafka test_ingest_orders test_ingest_paused test_quarantine_log test_rebuild test_source_history
tests/http: test_http_demands test_http_export test_export_memory test_http_large_profiles test_http_odd_connections test_http_operations test_http_page_cache test_http_query test_http_reads test_http_server test_http_workers test_list_pages
tests/snapshots: test_snapshots_bootstrap test_snapshots_compact test_snapshots_doubts test_snapshots_placement test_snapshots_prune test_snapshots_restore test_snapshots_schedule test_snapshots_stores test_snapshots_take test_snapshots_verify
tests/cli: test_cli_commands test_cli_connector test_cli_doctor test_cli_process test_cli_settings test_cli_signals test_cli_status test_doctor_real test_doctor_sources
tests/model: test_connector test_model_values test_model_view
tests/demo: test_demo_children test_demo_folder test_demo_people test_demo_run test_demo_stack
tests/faults: test_faults_broker test_faults_compact test_faults_damage test_faults_disk test_faults_kill test_faults_restore test_faults_snapshots test_faults_truncated test_faults_web
tests/house: test_house_docs test_house_faults test_house_imports test_house_packaging test_bench_report
"""

MOVES: dict[str, str] = {}
for line in ROOMS.strip().splitlines():
    room, names = line.split(": ")
    top = room.split("/")[0]
    for name in names.split():
        old, _, new = name.partition(">")
        MOVES[f"{top}/{old}.py"] = f"{room}/{new or old}.py"


def module_of(path: str) -> str:
    """How a file is imported."""
    dotted = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    return dotted.removeprefix("tests.") if dotted.startswith("tests.") else f"kycache.{dotted}"


MODULES = {module_of(old): module_of(new) for old, new in MOVES.items()}
PACKAGES = sorted({str(Path(new).parent) for new in MOVES.values() if not new.startswith("tests/")})


def package_of(path: str) -> str:
    """The package a file belongs to."""
    return module_of(str(Path(path).parent / "__init__.py"))


def written(module: str, package: str) -> str:
    """A module as a file of `package` names it: relative in the same room, absolute elsewhere."""
    if not module.startswith("kycache."):
        return module
    parent, _, name = module.rpartition(".")
    return f".{name}" if parent == package else module


def rewritten(text: str, old_path: str, new_path: str) -> str:
    """A module's text with its imports as they are after the move."""
    old_package, new_package = package_of(old_path), package_of(new_path)
    lines = text.splitlines(keepends=True)
    for node in sorted(
        (n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)), key=lambda n: -n.lineno
    ):
        base = node.module or ""
        if node.level:
            base = ".".join(filter(None, [old_package, base]))
        elif not base.startswith("kycache") and base not in MODULES:
            continue
        indent = " " * node.col_offset
        modules, names = [], []
        for alias in node.names:
            whole = f"{base}.{alias.name}"
            is_module = whole in MODULES or (
                whole.startswith("kycache.") and Path(*whole.split(".")[1:]).with_suffix(".py").exists()
            )
            (modules if is_module else names).append(alias)
        found = []
        for alias in modules:
            target = MODULES.get(f"{base}.{alias.name}", f"{base}.{alias.name}")
            parent, _, name = target.rpartition(".")
            shown = alias.asname or alias.name
            found.append(
                f"{indent}from {'.' if parent == new_package else parent} import {name}"
                + ("" if shown == name else f" as {shown}")
            )
        if names:
            target = written(MODULES.get(base, base), new_package)
            what = ", ".join(a.name + (f" as {a.asname}" if a.asname else "") for a in names)
            found.append(f"{indent}from {target} import {what}")
        first, last = node.lineno - 1, node.end_lineno or node.lineno
        comment = re.search(r"  # .*$", lines[last - 1].rstrip("\n"))
        lines[first:last] = ["\n".join(found) + (comment[0] if comment else "") + "\n"]
    return "".join(lines)


def renamed_names(text: str) -> str:
    """Dotted names and paths in strings, comments and pages. Import statements are not touched."""
    dotted = {old: new for old, new in MODULES.items() if old.startswith("kycache.")}
    names = {**{new: new for new in dotted.values()}, **dotted}
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    lines = text.splitlines(keepends=True)
    for at, line in enumerate(lines):
        if not re.match(r"\s*from \S+ import ", line):
            lines[at] = re.sub(rf"\b(?:{longest_first})\b", lambda found: names[found[0]], line)
    text = "".join(lines)
    for old, new in MODULES.items():
        parent, _, name = new.rpartition(".")
        if not old.startswith("kycache."):
            text = re.sub(rf"^(\s*)import {old}$", rf"\1from {parent} import {name}", text, flags=re.MULTILINE)
    paths = "|".join(re.escape(path) for path in sorted(MOVES, key=len, reverse=True))
    return re.sub(rf"(?<![\w/.])(?:{paths})\b", lambda found: MOVES[found[0]], text)


def main() -> None:
    tracked = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    code = [p for p in tracked if p.endswith(".py") and not p.startswith((".ci/", "tests/fixtures/"))]
    pages = [
        p for p in tracked if p.endswith((".md", "Makefile", ".toml")) and not p.startswith("tests/fixtures/")
    ]
    texts = {p: rewritten(Path(p).read_text(encoding="utf-8"), p, MOVES.get(p, p)) for p in code}
    for package in PACKAGES:
        Path(package).mkdir(parents=True, exist_ok=True)
    for old, new in MOVES.items():
        Path(new).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "mv", old, new], check=True)
    for path, text in texts.items():
        Path(MOVES.get(path, path)).write_text(renamed_names(text), encoding="utf-8")
    for path in pages:
        page = Path(path)
        page.write_text(renamed_names(page.read_text(encoding="utf-8")), encoding="utf-8")
    for package in [*PACKAGES, "tests/support", "tests/support/pipeline"]:
        (Path(package) / "__init__.py").touch()
    settings = Path("pyproject.toml")
    text = settings.read_text(encoding="utf-8")
    dotted = [p.replace("/", ".") for p in PACKAGES]
    for top in ("actors", "cli", "demo", "http", "ingest", "snapshots"):
        inner = [d for d in dotted if d.startswith(f"{top}.")]
        text = text.replace(
            f'    "kycache.{top}",\n',
            f'    "kycache.{top}",\n' + "".join(f'    "kycache.{d}",\n' for d in inner),
            1,
        )
        text = text.replace(
            f'"kycache.{top}" = "{top}"\n',
            f'"kycache.{top}" = "{top}"\n' + "".join(f'"kycache.{d}" = "{d.replace(".", "/")}"\n' for d in inner),
        )
    settings.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
