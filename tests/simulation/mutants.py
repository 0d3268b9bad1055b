"""Bugs put into the product by hand, to see that the simulation finds them: `python -m simulation.mutants`.

Each is a piece of text that replaces another in a copy of the package; the simulation runs on the copy. What is
guarded twice, as a batch of an earlier assignment, is a bug in both places: one alone would do no harm.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("actors", "cli", "demo", "http", "ingest", "model", "snapshots")
SEEDS = 1_000
"""In which a bug must be found."""


class Mutant(NamedTuple):
    """A bug."""

    name: str
    file: str
    old: str
    new: str
    unguarded: "Mutant | None" = None
    """A second bug, in what would catch the first."""

    def put_into(self, package: Path) -> None:
        """Change the copy."""
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        assert text.count(self.old) == 1, self.name
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")
        if self.unguarded is not None:
            self.unguarded.put_into(package)


UNPARKED = Mutant(
    "partition-is-not-parked",
    "ingest/consuming/thread.py",
    "            self._session.runs.pop(tp.partition, None)\n",
    "",
)

MUTANTS = (
    Mutant("equal-is-dropped", "actors/rules/fold.py", "version < stored)", "version <= stored)"),
    Mutant(
        "lsn-is-not-compared",
        "actors/rules/fold.py",
        "(stored is not None and version < stored)",
        "(stored is not None and version[:2] < stored[:2])",
    ),
    Mutant(
        "delete-leaves-no-marker",
        "actors/rules/fold.py",
        "Row(version, None, change.origin.ts_ms)",
        "None",
    ),
    Mutant(
        "snapshot-moves-the-watermark",
        "actors/rules/timeline.py",
        "                self._enter_whole_snapshot(state, offset, origin.lsn)\n",
        "                self._enter_whole_snapshot(state, offset, origin.lsn)\n"
        "                state.watermark = max(state.watermark, origin.lsn)\n",
    ),
    Mutant(
        "incremental-sweeps",
        "actors/rules/timeline.py",
        "            if origin.snapshot is Snapshot.WHOLE:\n                self._enter_whole",
        "            if True:\n                self._enter_whole",
    ),
    Mutant(
        "position-runs-ahead",
        "actors/shard.py",
        "size_bytes, last.next_offset, last.leader_epoch",
        "size_bytes, last.next_offset + (len(items) > 20), last.leader_epoch",
    ),
    Mutant(
        "status-is-not-counted",
        "actors/store/batch.py",
        "if before != after:",
        "if (before is None) != (after is None):",
    ),
    Mutant(
        "fence-is-ignored", "actors/store/fence.py", "            if self._closed:\n", "            if False:\n"
    ),
    Mutant(
        "before-the-snapshot-is-applied",
        "actors/rules/fold.py",
        "            or precedes_snapshot(state, change.origin)\n",
        "",
    ),
    Mutant("nothing-is-swept", "actors/rules/timeline.py", "    if not state.unswept:\n", "    if True:\n"),
    Mutant(
        "truncate-drops-nothing",
        "actors/rules/fold.py",
        "if t == table and r.version < version]",
        "if t == table and r.version < version and False]",
    ),
    Mutant("run-is-not-compared", "actors/shard.py", "if batch.run != self._run:", "if False:"),
    Mutant(
        "runs-are-counted-per-assignment",
        "ingest/consuming/thread.py",
        "Partition(partition, self._runs, self._orders.put)",
        "Partition(partition, count(1), self._orders.put)",
        UNPARKED,
    ),
    Mutant(
        "room-is-not-reported",
        "actors/shard.py",
        "            self._partition.resume(self._run)\n",
        "            pass\n",
    ),
    Mutant("mailbox-is-never-full", "actors/shard.py", "return not self._full", "return True"),
    Mutant(
        "batch-ends-inside-a-transaction",
        "actors/shard.py",
        "BATCH_ITEMS_MAX if _continues(items, following.items) else BATCH_ITEMS",
        "BATCH_ITEMS",
    ),
    Mutant(
        "ready-too-early",
        "actors/rules/timeline.py",
        "        state.generation_offset = offset\n",
        "        state.generation_offset = offset\n        state.bootstrapped = state.from_start\n",
    ),
    Mutant("older-row-heals", "actors/rules/fold.py", "!= (table, key) or s.version > version", "!= (table, key)"),
    Mutant(
        "former-key-stays",
        "actors/rules/fold.py",
        "        self._row(state, gone, profiles)\n",
        "",
    ),
    Mutant(
        "another-catalog-is-taken",
        "actors/rules/alteration.py",
        'if state.fingerprint not in ("", fingerprint):',
        "if False:",
    ),
    Mutant(
        "redelivered-beat-is-compared",
        "actors/rules/alteration.py",
        "or origin.lsn <= state.fingerprint_lsn:",
        "or False:",
    ),
    Mutant(
        "acknowledged-is-not-kept",
        "actors/store/store.py",
        "            if was:\n                write_state",
        "            if False:\n                write_state",
    ),
    Mutant(
        "snapshot-brings-no-catalog",
        "actors/rules/alteration.py",
        "if origin.lsn >= state.fingerprint_lsn:",
        "if False:",
    ),
    Mutant(
        "snapshot-ends-no-alteration",
        "actors/rules/timeline.py",
        "            settle_alteration(state)\n",
        "",
    ),
    Mutant("markers-are-dropped-early", "actors/store/store.py", "if not state.quarantined:", "if True:"),
)


def copy_of_the_package(folder: Path) -> Path:
    """A `kycache` in `folder` that can be spoilt."""
    package = folder / "kycache"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def seeds_until_found(mutant: Mutant, jobs: int) -> int | None:
    """How many histories it takes; None where 1,000 do not find it."""
    with tempfile.TemporaryDirectory(prefix="kycache-mutant-") as folder:
        mutant.put_into(copy_of_the_package(Path(folder)))
        command = [sys.executable, "-m", "simulation", f"0-{SEEDS - 1}", "--first", "--jobs", str(jobs)]
        path = os.pathsep.join((folder, str(ROOT / "tests")))
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
        )
    found = re.search(r"^(\d+) histories, [1-9]", done.stdout, re.MULTILINE)
    if found is None:
        assert "histories, 0 failed" in done.stdout, done.stdout + done.stderr
        return None
    print(f"{mutant.name:32} {found[1]:>5} histories: {done.stdout.splitlines()[0][:150]}", flush=True)
    return int(found[1])


def main() -> int:
    """Exit code 0 where every mutant was found."""
    parser = argparse.ArgumentParser(prog="simulation.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="of mutants; all where none is given")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    survivors = [mutant.name for mutant in chosen if seeds_until_found(mutant, options.jobs) is None]
    print(f"{len(chosen)} mutants, {len(survivors)} not found{': ' if survivors else ''}{', '.join(survivors)}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
