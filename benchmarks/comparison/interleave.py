"""Runs engines by turns: each round starts every engine once, as a process of its own, and never two at a time.

An engine that cannot be installed, whose weights cannot be converted or whose process fails is left out with the
reason; the others go on.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from benchmarks.comparison.environments import UnavailableError, last_line
from benchmarks.comparison.worker import LOADED, Job, SetResult

ROOT = Path(__file__).resolve().parents[2]
WORKER_LIMIT_S = 3600.0  # seconds for one set


class TranscriptionFailedError(UnavailableError):
    """An engine has failed while it transcribed. The sets before are done."""


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


def run_engine(runner: EngineProcess, limit_s: float = WORKER_LIMIT_S) -> Iterator[SetResult]:
    """Runs one process from start to end and yields the result of each set as soon as it is there.

    Args:
        runner: The process.
        limit_s: Seconds for loading the model, and for each set. Then the process is killed.

    Raises:
        TranscriptionFailedError: The process fails after it has loaded its model, or its results are not those of the
            requested sets.
        UnavailableError: It fails before.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        try:
            process = subprocess.Popen(
                [str(runner.python), "-m", runner.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(os.environ, runner.job.threads),
                cwd=ROOT,
                text=True,
            )
        except OSError as error:
            raise UnavailableError(f"{runner.name}: {error}") from error
        with process, _ended(process):
            lines = _read_lines(process, limit_s)
            _send(process, runner.job)
            is_loaded = next(lines, "") == LOADED
            failure = TranscriptionFailedError if is_loaded else UnavailableError
            for name, paths in runner.job.sets.items():
                if (line := next(lines, None)) is None:
                    raise failure(f"{runner.name}: {_reason(process, limit_s, errors)}")
                result = SetResult(**json.loads(line))
                if (result.set, len(result.texts)) != (name, len(paths)):
                    raise failure(
                        f"{runner.name}: gave {len(result.texts)} texts for {result.set} where {len(paths)} for {name}"
                        " were due"
                    )
                yield result


@contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Ends the process with the block, whatever happens in it."""
    try:
        yield
    except BaseException:
        process.kill()
        raise


def _send(process: subprocess.Popen[str], job: Job) -> None:
    assert process.stdin
    with suppress(BrokenPipeError), process.stdin:  # a process that has died is reported by its exit code
        process.stdin.write(job.to_json())


def _read_lines(process: subprocess.Popen[str], limit_s: float) -> Iterator[str]:
    """Yields the lines of a process, which is killed if one takes longer than `limit_s`."""
    assert process.stdout
    while True:
        timer = threading.Timer(limit_s, process.kill)
        timer.start()
        line = process.stdout.readline()
        timer.cancel()
        if not line:
            return
        yield line.rstrip("\n")


def _reason(process: subprocess.Popen[str], limit_s: float, errors: TextIO) -> str:
    """Returns the reason why a process has ended too early."""
    code = process.wait()
    if code == -signal.SIGKILL:
        return f"killed; it had used its {limit_s:g} s, or too much memory"
    errors.seek(0)
    return f"exit code {code}: {last_line(errors.read())}"


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
