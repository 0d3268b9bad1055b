"""The demo's child processes: started again, given up with a reason, and never left behind."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kycache.demo.servers.children import EARLY_DEATHS_MAX, Child, Program, stopping
from kycache.model.errors import Unreachable
from support.waiting import wait_until


def is_alive(pid: int) -> bool:
    """Whether `pid` runs; a zombie that nobody reaps is dead."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def python(tmp_path: Path, code: str, stop: signal.Signals = signal.SIGTERM) -> Child:
    return Child(
        Program("worker", (sys.executable, "-c", code), tmp_path / "logs" / "worker.log", stop_signal=stop)
    )


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = python(tmp_path, "import time; time.sleep(600)")
    with stopping(child):
        child.start()
        yield child


def test_a_killed_child_is_started_again(sleeper: Child) -> None:
    sleeper.mark_well()
    first = sleeper.pid
    assert not sleeper.revive()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: sleeper.revive(), "the restart")
    assert sleeper.pid != first
    assert sleeper.is_running()


def test_stopping_leaves_nothing_after_a_failure(tmp_path: Path) -> None:
    child = python(tmp_path, "import time; time.sleep(600)")

    def fail() -> None:
        with stopping(child):
            child.start()
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        fail()
    assert not is_alive(child.pid)


def test_one_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    child = python(
        tmp_path,
        "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
    )
    child.start()
    wait_until(lambda: "deaf" in child.program.log.read_text(encoding="utf-8"), "the child")
    child.stop()
    child.wait_stopped(timeout_s=0.2)
    assert not is_alive(child.pid)


def test_what_a_dead_child_leaves_in_its_group_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; "
        "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "print(other.pid, flush=True); time.sleep(600)"
    )
    child = python(tmp_path, code)
    with stopping(child):
        child.start()
        wait_until(lambda: child.program.log.read_text(encoding="utf-8").endswith("\n"), "the grandchild")
        grandchild = int(child.program.log.read_text(encoding="utf-8"))
        os.kill(child.pid, signal.SIGKILL)
        wait_until(lambda: not child.is_running(), "the death")
        wait_until(lambda: not is_alive(grandchild), "the grandchild's death")


def test_one_that_never_comes_up_is_given_up_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = python(tmp_path, "raise SystemExit('no such setting: colour')")
    child.start()
    with pytest.raises(Unreachable, match="no such setting: colour") as failure:
        wait_until(lambda: bool(child.revive() and False), "the end")
    assert f"ended {EARLY_DEATHS_MAX} times" in str(failure.value)
    assert str(child.program.log) in str(failure.value)


def test_children_die_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from kycache.demo.servers.children import Child, Program; "
        "child = Child(Program('w', (sys.executable, '-c', 'import time; time.sleep(600)'), Path(sys.argv[1]))); "
        "child.start(); print(child.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        pid = int(demo.stdout.readline())
        # The leash is on before the program runs, so a sleeping program is a leashed one.
        wait_until(lambda: "time.sleep" in Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8"), "the child")
        demo.kill()
    wait_until(lambda: not is_alive(pid), "the child's death")


def test_kycache_variables_of_the_caller_do_not_reach_the_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KYCACHE_KAFKA_TOPIC", "another")
    child = python(tmp_path, "import os; print(sorted(k for k in os.environ if k.startswith('KYCACHE')))")
    child.start()
    wait_until(lambda: not child.is_running(), "the end")
    assert child.program.log.read_text(encoding="utf-8") == "[]\n"
