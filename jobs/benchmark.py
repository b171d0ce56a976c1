"""Measure: the cost of the pipeline itself, of planning a huge listing, our recognizers beside other programs, two
checkpoints beside each other, the GPU path beside the chip's limits; compare: our recognizer with transformers'
generate, token for token, and with itself when an assistant drafts; the times of words with true ones.

    python jobs/benchmark.py pipeline|planning|engines|models|exactness|times|speculative|passes|gpu [key=value ...]

Everything that is downloaded, converted or written lies in .bench/ unless told otherwise.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from benchmarks.settings import COMMANDS, describe_commands
from distil_ray.cli.command_line import ArgumentParser, run_cli
from distil_ray.cli.options import parse_options
from distil_ray.errors import ExitCode

LOG_WIDTH = 140  # columns of a table where there is no terminal
# What carries out a command, imported when it is called: --help answers at once.
MEASURES = {
    "pipeline": "pipeline.command:measure_pipeline",
    "planning": "planning.command:measure_planning",
    "engines": "comparison.command:compare_engines",
    "models": "comparison.models:compare_models",
    "exactness": "exactness.command:compare_with_generate",
    "times": "word_times.command:measure_times",
    "speculative": "speculative.command:measure_drafting",
    "passes": "speculative.cost:measure_passes",
    "gpu": "gpu.command:measure_gpu",
}


def main() -> int:
    parser = ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings:\n{describe_commands()}",
    )
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_intermixed_args()
    command, words = arguments.command, arguments.settings
    return run_cli(lambda: _measure(command, parse_options(COMMANDS[command], words)), debug=arguments.debug)


def _measure(command: str, settings: Any) -> ExitCode:
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
    measure: Callable[[Any, Console], ExitCode] = resolve_name(f"benchmarks.{MEASURES[command]}")
    return measure(settings, console)


if __name__ == "__main__":
    sys.exit(main())
