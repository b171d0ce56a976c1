"""Runs of the job in a process of their own, behind a proxy that counts."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.comparison.interleave import ROOT
from benchmarks.scale.counting import CountingProxy, Traffic
from distil_ray.errors import RunError

MODEL = "packaged:whisper-base"  # what the driver reads a config and a tokenizer of; its weights are never loaded


def run_configs(configs: Sequence[Path], environment: Mapping[str, str], proxy: CountingProxy) -> dict[str, Traffic]:
    """Runs the job with each config in one process, and returns the traffic."""
    command = [sys.executable, "-m", "benchmarks.scale.run", *map(str, configs)]
    process = subprocess.run(
        command,
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode or "recording by recording" in process.stdout:
        raise RunError(f"a run failed:\n{process.stdout[-1000:]}\n{process.stderr[-1000:]}")
    traffic = dict(proxy.traffic)
    proxy.traffic.clear()
    return traffic
