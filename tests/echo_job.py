"""The job with a recogniser that echoes, as a program: what signals and kills are tried on.

    python -m tests.echo_job [--pause-s SECONDS] [--force] key=value …

`--pause-s`: how long the recogniser takes for a part.
"""

import argparse
import sys
import time

import pyarrow as pa
from rich.console import Console

from distil_ray import driver
from distil_ray.command_line import run_job, settings_parser
from distil_ray.config import Config
from distil_ray.errors import ExitCode
from tests.fakes import EchoTranscribe


def _transcribe(config: Config, arguments: argparse.Namespace) -> ExitCode:
    pause_s = arguments.pause_s

    class PausingTranscribe(EchoTranscribe):
        def __call__(self, parts: pa.Table) -> pa.Table:
            time.sleep(pause_s)
            return super().__call__(parts)

    return driver.transcribe(config, Console(width=160), PausingTranscribe, force=arguments.force)


def main() -> int:
    parser = settings_parser(__doc__ or "")
    parser.add_argument("--pause-s", type=float, default=0.0)
    parser.add_argument("--force", action="store_true")
    return run_job(parser, _transcribe)


if __name__ == "__main__":
    sys.exit(main())
