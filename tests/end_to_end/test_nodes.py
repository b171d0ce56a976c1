"""Several nodes: one feeds the other; one dies, and the run goes on with every row once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.types import SAMPLE_RATE
from tests.end_to_end.three_nodes import STORE_BYTES, plan_run
from tests.pipeline.conftest import pointers
from tests.support.fakes import EchoTranscribe
from tests.support.transcripts import stored_rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_decoding_on_another_node_feeds_the_actor(tmp_path: Path) -> None:
    _write(tmp_path / "audio", dict.fromkeys(range(6), 20))
    told = _run("two_nodes", tmp_path)
    assert told["rows"] == ["6"]
    assert told["decode"] == told["other"]
    assert told["answers"] == [2, True]
    assert len(told["actor"]) == 1
    assert told["actor"] != told["other"]


@pytest.mark.slow
def test_a_node_may_die_and_parts_be_larger_than_the_object_store(tmp_path: Path) -> None:
    longest_s = 45 * 60
    _write(tmp_path / "audio", dict.fromkeys(range(12), 20) | {12: longest_s})
    assert longest_s * SAMPLE_RATE * 2 > STORE_BYTES
    told = _run("three_nodes", tmp_path)
    assert len(told["nodes"]) == 2
    assert stored_rows(tmp_path / "out") == _undisturbed(tmp_path)
    assert not any("recording by recording" in note for note in told["warnings"])


def _write(folder: Path, seconds: dict[int, int]) -> None:
    folder.mkdir()
    for number, length_s in seconds.items():
        noise = np.random.default_rng(number).integers(-3000, 3000, length_s * SAMPLE_RATE).astype(np.int16)
        soundfile.write(folder / f"{number}.wav", noise, SAMPLE_RATE)


def _run(program: str, folder: Path) -> dict[str, Any]:
    """What a program beside this file prints last."""
    command = [sys.executable, "-m", f"tests.end_to_end.{program}", str(folder / "audio"), str(folder / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]  # Ray prints there too
    told: dict[str, Any] = json.loads(line)
    return told


def _undisturbed(folder: Path) -> list[dict[str, Any]]:
    """The rows of the same run, stage after stage in this process."""
    run, plan = plan_run(str(folder / "audio"), str(folder / "undisturbed"))
    transcribe = EchoTranscribe(run)
    for part in decode_tasks(pointers(plan), run):
        write_parts(transcribe(part), run)
    return stored_rows(folder / "undisturbed")
