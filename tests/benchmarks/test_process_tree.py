"""CPU seconds of a tree of processes against what the processes themselves say they used."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks.pipeline.command import classify_process
from benchmarks.pipeline.process_tree import measure_process_tree

# Burns CPU, says how much it has used by its own account, and stays until it has surely been seen.
BURN = """
import os, sys, time
while time.process_time() < float(sys.argv[1]):
    pass
print(f"used {time.process_time():.3f}", flush=True)
time.sleep(0.5)
"""
# A child, a grandchild that outlives its parent, and a reaper that nobody waits for.
TREE = """
import signal, subprocess, sys, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # as the raylet does: what ends is in nobody's account
subprocess.Popen([sys.executable, "-c", sys.argv[1], "0.2"])
between = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', *sys.argv[1:]]); time.sleep(0.3)"
subprocess.Popen([sys.executable, "-c", between, sys.argv[1], "0.3", "orphan"])
while open(sys.argv[2]).read().count("used") < 2:
    time.sleep(0.1)
time.sleep(0.5)
print(f"used {time.process_time():.3f}", flush=True)
"""


def test_children_orphans_and_what_nobody_waits_for_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "log"

    found = measure_process_tree(
        [sys.executable, "-c", TREE, BURN, str(log)],
        lambda line: "orphan" if line.endswith("0.3 orphan") else "other",
        os.environ,
        log,
    )
    used = [float(line.split()[1]) for line in log.read_text().splitlines()]

    assert found.exit_code == 0
    assert len(used) == 3
    assert found.processes == 4
    assert found.cpu_s["orphan"] == pytest.approx(max(used), abs=0.1)
    # The one in between says nothing: it has started Python and ended.
    assert sum(used) - 0.1 < found.total_s < sum(used) + 0.3


def test_a_command_that_fails_gives_its_exit_code(tmp_path: Path) -> None:
    assert (
        measure_process_tree([sys.executable, "-c", "raise SystemExit(3)"], str, os.environ, tmp_path / "log").exit_code
        == 3
    )


@pytest.mark.parametrize(
    ("command_line", "role"),
    [
        ("python -m benchmarks.pipeline.run config.yaml", "driver"),
        ("python -P -m distil_ray.audio.subprocess_worker 2048", "decoder"),
        ("ray::MapWorker(MapBatches(NullTranscribeStage)).submit", "transcribe actor"),
        ("ray::IDLE", "Ray"),
        ("/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "Ray"),
    ],
)
def test_a_process_is_known_by_its_command_line(command_line: str, role: str) -> None:
    assert classify_process(command_line) == role
