"""The commands of the docs run on machines with one and two CPUs, with the shipped CPU config as it is."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"^    distil-ray (transcribe --config cpu .*packaged:whisper-tiny\.en.*)$", re.MULTILINE)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_a_command_of_the_docs_runs_on_few_cpus(num_cpus: int, clips: Path, tmp_path: Path) -> None:
    (words,) = COMMAND.findall((ROOT / "docs" / "models.md").read_text())
    places = {"input.uri=SAMPLE": f"input.uri={clips / 'cards-001.flac'}", "OUT/": f"{tmp_path}/"}
    for name, place in places.items():
        assert name in words
        words = words.replace(name, place)
    cpus = sorted(os.sched_getaffinity(0))[:num_cpus]
    if len(cpus) < num_cpus:
        pytest.skip(f"this machine has {len(cpus)} CPUs")
    command = [sys.executable, "-m", "distil_ray", *shlex.split(words), "--log-format", "json"]

    done = subprocess.run(
        ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_ADDRESS": "local"},
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    events = {event["event"]: event for event in map(json.loads, done.stdout.splitlines())}
    assert (events["cluster"]["cpus"], events["cluster"]["num_recognizers"]) == (num_cpus, 1)
    assert events["summary"]["num_ok"] == 1
