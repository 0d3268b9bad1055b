"""Runs commands of kycache in this process, in a folder of their own, without this machine's settings."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kycache.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        return json.loads(self.out)


RunCommand = Callable[..., Ended]

PROCESS_WAIT_S = 60.0


@pytest.fixture
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no variable of kycache's."""
    for name in [name for name in os.environ if name.startswith("KYCACHE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def kycache(no_settings: Path, capfd: pytest.CaptureFixture[str]) -> RunCommand:  # noqa: ARG001 (its effect)
    """Run a command line; never with a stack trace."""

    def run(*arguments: str | Path) -> Ended:
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        code = ended.value.code
        return Ended(code if isinstance(code, int) else int(code is not None), out, err)

    return run


@pytest.fixture
def kycache_process(no_settings: Path) -> RunCommand:
    """Run a command line in a process of its own: Kafka's client leaves sockets open where nobody answers."""

    def run(*arguments: str | Path) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "kycache.cli.main", *(str(argument) for argument in arguments)],
            cwd=no_settings,
            capture_output=True,
            text=True,
            timeout=PROCESS_WAIT_S,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Ended(done.returncode, done.stdout, done.stderr)

    return run
