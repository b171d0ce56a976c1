"""The job with an echoing recognizer, as a program for tests of signals and kills.

    python -m tests.support.echo_job [OPTIONS] key=value …

`--pause-s SECONDS`: duration of a part in the recognizer. `--hold-after PARTS`: number of parts before one that never
ends. `--real`: the recognizer of the job. `--endless-listing`: lists one recording and then blocks. `--serve`: loads
everything once; each line on standard input (the path of a log file) starts a run in a process of its own, whose number
is printed at its start and whose exit code at its end.
"""

import argparse
import os
import sys
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
from rich.console import Console

from distil_ray.cli.command import Command, run_command
from distil_ray.config import Config
from distil_ray.errors import ExitCode
from distil_ray.pipeline import runner
from distil_ray.types import Recording
from tests.support.fakes import EchoTranscribe


def _transcribe(config: Config, arguments: argparse.Namespace) -> ExitCode:
    pause_s, hold_after = arguments.pause_s, arguments.hold_after

    class PausingTranscribe(EchoTranscribe):
        _num_parts = 0

        def __call__(self, parts: pa.Table) -> pa.Table:
            if self._num_parts == hold_after:
                threading.Event().wait()
            self._num_parts += 1
            time.sleep(pause_s)
            return super().__call__(parts)

    if arguments.endless_listing:
        vars(runner)["list_recordings"] = _list_without_end
    return runner.transcribe(config, Console(width=160), None if arguments.real else PausingTranscribe)


class _list_without_end:  # noqa: N801  (stands in for a function)
    ignored = None

    def __init__(self, *_: object) -> None: ...

    def __iter__(self) -> Iterator[Recording]:
        yield Recording("a", "/nowhere/a.wav")
        print("listing", flush=True)
        threading.Event().wait()


COMMAND = Command(
    name="echo",
    description=__doc__ or "",
    run=_transcribe,
    settings=("input.uri", "output.uri"),
    flags=(
        ("--pause-s", {"type": float, "default": 0.0}),
        ("--hold-after", {"type": int}),
        ("--real", {"action": "store_true"}),
        ("--endless-listing", {"action": "store_true"}),
        ("--serve", {"action": "store_true"}),
    ),
)


def main() -> int:
    if "--serve" in sys.argv:
        _serve()
    return run_command(COMMAND, sys.argv[1:], "tests/support/echo_job.py")


def _serve() -> None:
    """Returns in the child processes only."""
    __import__("distil_ray.pipeline.ray_graph")  # loads Ray, and connects to nothing
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            log = os.open(line.strip(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, sys.stdout.fileno())
            os.dup2(log, sys.stderr.fileno())
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    sys.exit()


if __name__ == "__main__":
    sys.exit(main())
