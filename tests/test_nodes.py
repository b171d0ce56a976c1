"""CPU workers on one node feed the recogniser on another."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

from distil_ray.schema import SAMPLE_RATE

ROOT = Path(__file__).resolve().parents[1]


def test_decoding_on_another_node_feeds_the_actor(tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    for number in range(6):
        noise = np.random.default_rng(number).integers(-3000, 3000, 20 * SAMPLE_RATE).astype(np.int16)
        soundfile.write(tmp_path / "audio" / f"{number}.wav", noise, SAMPLE_RATE)
    command = [sys.executable, "-m", "tests.two_nodes", str(tmp_path / "audio"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["rows"] == ["6"]
    assert told["decode"] == told["other"]
    assert len(told["actor"]) == 1
    assert told["actor"] != told["other"]
