"""Captures what a real Debezium sends for the packaged view on four partitions, with what Postgres then held.

    PYTHONPATH=tests python tests/capture/capture.py [--keep-logs DIR]

Starts the `apache` stack with the connector that `kycache connector` prints, plays the scenarios in their
order, and writes `tests/fixtures/captured-<debezium>-<postgres>/events.jsonl`; README.md says what its lines are.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from book import Capture
from rows import fill
from scenarios import SCENARIOS

from kycache.demo.servers.layout import TOPIC, Layout, Ports
from kycache.demo.servers.ports import free_ports
from kycache.demo.servers.postgres import new_password
from kycache.demo.servers.stack import Kind, open_stack
from kycache.model.definition import default_view
from kycache.model.view import HEARTBEAT_TABLE
from support.pipeline.stack import PARTITIONS, Pipeline, wait_streaming

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without plain beats that stand between two others of their partition, with nothing else of it around."""
    kept: list[dict[str, Any]] = []
    last: dict[int, list[int]] = {p: [] for p in range(PARTITIONS)}  # where its latest plain beats stand in `kept`
    for line in lines:
        if "partition" not in line:
            last = {p: [] for p in range(PARTITIONS)}
        elif _plain_beat(line):
            run = last[line["partition"]]
            if len(run) == 2:
                kept[run.pop()] = {}
            run.append(len(kept))
        else:
            last[line["partition"]] = []
        kept.append(line)
    return [line for line in kept if line]


def _plain_beat(line: dict[str, Any]) -> bool:
    event: dict[str, Any] = json.loads(line["value"]) if line["value"] else {"op": None}
    if event["op"] != "u" or event["source"]["table"] != HEARTBEAT_TABLE:
        return False
    return event["after"]["truncated"] is None and event["before"]["truncated"] is None


def write(capture: Capture, full: Path) -> Path:
    """Writes the fixture; its folder is named after what sent the events."""
    event = next(json.loads(r["value"]) for r in capture.records if r["value"])
    debezium = event["source"]["version"].removesuffix(".Final")
    with psycopg.connect(capture.pipeline.dsn) as db:
        postgres = db.info.server_version // 10_000
    folder = FIXTURES / f"captured-{debezium}-pg{postgres}"
    folder.mkdir(exist_ok=True)

    def dump(lines: list[dict[str, Any]]) -> str:
        return "".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines)

    full.write_text(dump(capture.lines), encoding="utf-8")
    (folder / "events.jsonl").write_text(dump(thinned(capture.lines)), encoding="utf-8")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--keep-logs", type=Path, help="copy logs and all events, unthinned, into this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kycache-capture-") as name:
        directory = Path(name)
        directory.chmod(0o711)  # run by root, PostgreSQL has another account
        layout = Layout(directory, Ports(*free_ports(4)), new_password(), PARTITIONS)
        with open_stack(Kind.APACHE, layout, default_view()) as stack:
            stack.start_servers()
            stack.create_tables(fill)
            stack.start_debezium()
            pipeline = Pipeline(stack, stack.dsn, layout.bootstrap, TOPIC, PARTITIONS, stack.connect_url)
            wait_streaming(pipeline)
            capture = Capture(pipeline)
            try:
                capture.scenario("initial", lambda _: None)
                for play in SCENARIOS:
                    capture.scenario(play.__name__.replace("_", "-"), play)
            finally:
                folder = write(capture, directory / "logs" / "all-events.jsonl")
                if arguments.keep_logs:
                    shutil.copytree(layout.logs, arguments.keep_logs, dirs_exist_ok=True)
            print(f"{len(capture.records)} events, {(folder / 'events.jsonl').stat().st_size} bytes in {folder}")


if __name__ == "__main__":
    main()
