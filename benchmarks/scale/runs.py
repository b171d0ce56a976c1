"""Runs of the benchmark's modules in processes of their own; of the job behind a proxy that counts."""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks.comparison.interleave import ROOT
from benchmarks.scale.counting import CountingProxy, Traffic
from distil_ray.errors import RunError

ACCOUNT = {"AWS_ACCESS_KEY_ID": "scale", "AWS_SECRET_ACCESS_KEY": "scale", "AWS_DEFAULT_REGION": "us-east-1"}
MODEL = "packaged:whisper-base"  # what the driver reads a config and a tokenizer of; its weights are never loaded


def run_configs(configs: Sequence[Path], environment: Mapping[str, str], proxy: CountingProxy) -> dict[str, Traffic]:
    """Runs the job with each config in one process, and returns the traffic."""
    process = run_module("run", map(str, configs), environment)
    if "recording by recording" in process.stdout:
        raise _failure("run", process)
    traffic = dict(proxy.traffic)
    proxy.traffic.clear()
    return traffic


def run_in_store(name: str, arguments: Iterable[str], url: str) -> subprocess.CompletedProcess[str]:
    """Runs a module as `run_module`, with the S3 server at `url` and without the environment's settings of another."""
    return run_module(name, arguments, {**ACCOUNT, "AWS_ENDPOINT_URL": url, "NO_PROXY": "127.0.0.1"}, without="AWS_")


def run_module(
    name: str,
    arguments: Iterable[str],
    environment: Mapping[str, str] = MappingProxyType({}),
    without: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a module of this package in a process of its own, to its end.

    Args:
        name: Of the module.
        arguments: Of its command line.
        environment: Variables beside those of this process.
        without: Beginning of the names of variables of this process that are left out; None: all are kept.

    Raises:
        RunError: It failed; the message has the end of what it has printed.
    """
    kept = {key: value for key, value in os.environ.items() if without is None or not key.startswith(without)}
    process = subprocess.run(
        [sys.executable, "-m", f"benchmarks.scale.{name}", *arguments],
        env={**kept, **environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        raise _failure(name, process)
    return process


def _failure(name: str, process: subprocess.CompletedProcess[str]) -> RunError:
    return RunError(f"benchmarks.scale.{name} failed:\n{process.stdout[-1000:]}\n{process.stderr[-1000:]}")
