"""A time limit that ends the process, whatever the process does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ctypes, sys, time
from pathlib import Path
from distil_ray.pipeline import watchdog

watchdog.GRACE_S = 1.0
with watchdog.time_limit(30, print):
    pass
with watchdog.time_limit(1.0, lambda reason: Path(sys.argv[1]).write_text(reason)):
    {hang}
print("came back")
"""


def _run(hang: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", SCRIPT.format(hang=hang), str(tmp_path / "reason")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_that_hangs_leaves_a_reason_and_is_killed(tmp_path: Path) -> None:
    done = _run("time.sleep(50)", tmp_path)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "reason").read_text() == "gave no answer within 1 s and was ended"
    assert "line 10 in <module>" in done.stderr  # where it stood


def test_code_that_lets_no_thread_run_is_ended_all_the_same(tmp_path: Path) -> None:
    done = _run("ctypes.PyDLL(None).sleep(50)", tmp_path)
    assert done.returncode == 1
    assert not (tmp_path / "reason").exists()


@pytest.mark.parametrize("work", ["pass", "1 / 0"])
def test_what_ends_in_time_is_left_alone(tmp_path: Path, work: str) -> None:
    done = _run(f"{work}\ntime.sleep(2.5)", tmp_path)
    assert ("came back" in done.stdout) == (work == "pass")
    assert not (tmp_path / "reason").exists()
