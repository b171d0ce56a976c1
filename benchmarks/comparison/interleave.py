"""Runs engines by turns: each round starts every engine once, as a process of its own, and never two at a time.

An engine that cannot be installed, whose weights cannot be converted or whose process fails is left out with the
reason; the others go on.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison.environments import UnavailableError, last_line
from benchmarks.comparison.worker import Job, SetResult

ROOT = Path(__file__).resolve().parents[2]
WORKER_LIMIT_S = 3600.0  # seconds for one engine's round


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """An engine that is ready to start."""

    name: str
    python: Path
    module: str
    job: Job


@dataclass(frozen=True, slots=True)
class InterleavedResults:
    """Results of all engines.

    Attributes:
        results: Results by engine, in the order of rounds and sets.
        left_out: Reason by engine, for those that failed.
    """

    results: dict[str, list[SetResult]]
    left_out: dict[str, str]


def run_interleaved(
    runners: Sequence[EngineProcess], rounds: int, on_message: Callable[[str], None]
) -> InterleavedResults:
    """Runs every engine `rounds` times, by turns; each round begins with another engine."""
    results: dict[str, list[SetResult]] = {}
    left_out: dict[str, str] = {}
    for number in range(rounds):
        shift = number % max(1, len(runners))
        for runner in (*runners[shift:], *runners[:shift]):
            if runner.name in left_out:
                continue
            try:
                given = list(run_engine(runner))
            except UnavailableError as error:
                left_out[runner.name] = str(error)
                on_message(f"left out: {error}")
                continue
            results.setdefault(runner.name, []).extend(given)
            times = ", ".join(f"{result.set} {result.cpu_s:.1f} s CPU" for result in given)
            on_message(f"round {number + 1} of {rounds}, {runner.name}: {times}")
    return InterleavedResults({name: given for name, given in results.items() if name not in left_out}, left_out)


def run_engine(runner: EngineProcess) -> Iterator[SetResult]:
    """Runs one process from start to end and yields its results.

    Raises:
        UnavailableError: The process fails, or its results are not those of the requested sets.
    """
    command = [str(runner.python), "-m", runner.module]
    try:
        done = subprocess.run(
            command,
            input=runner.job.to_json(),
            env=_environment(os.environ, runner.job.threads),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=WORKER_LIMIT_S,
            check=False,
        )
    except OSError as error:
        raise UnavailableError(f"{runner.name}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{runner.name}: not done after {WORKER_LIMIT_S:g} s") from error
    if done.returncode:
        raise UnavailableError(f"{runner.name}: exit code {done.returncode}: {last_line(done.stderr)}")
    results = [SetResult(**json.loads(line)) for line in done.stdout.splitlines()]
    counts = {result.set: len(result.texts) for result in results}
    if counts != {name: len(paths) for name, paths in runner.job.sets.items()}:
        raise UnavailableError(f"{runner.name}: gave texts {counts} for other sets than it was asked")
    yield from results


def _environment(inherited: Mapping[str, str], threads: int) -> dict[str, str]:
    """Returns the environment variables of every worker.

    This package importable, one number of threads for all libraries.
    """
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {
        **inherited,
        **dict.fromkeys(pools, str(threads)),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


def current_python() -> Path:
    return Path(sys.executable)
