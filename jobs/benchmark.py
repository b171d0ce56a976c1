"""Run a benchmark.

    pipeline     CPU cost of the pipeline without a model
    planning     time and memory of planning very many recordings
    scale        requests to the store and their price, the ledger of many files
    engines      speed and WER compared with other programs
    accuracy     WER in every mode, compared with other programs' defaults
    formats      a checkpoint in every format, read and run in other programs
    models       two checkpoints compared: time, parameters, WER
    exactness    tokens compared with transformers' generate
    times        word timestamps compared with known ones
    speculative  decoding with an assistant compared with decoding without
    passes       predicted speed-up of speculative decoding, by model shape
    gpu          the GPU path compared with the chip's limits and other programs
    gpu-check    the same with packaged weights and the demo's speech, and a page of the result

    python jobs/benchmark.py COMMAND [key=value ...]

Downloads, converted weights and reports are written to .bench/ by default.
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
# The function of each command, imported only when it is called, so that --help is fast.
MEASURES = {
    "pipeline": "pipeline.command:measure_pipeline",
    "planning": "planning.command:measure_planning",
    "scale": "scale.command:measure_scale",
    "engines": "comparison.command:compare_engines",
    "accuracy": "accuracy.command:compare_accuracy",
    "formats": "formats.command:measure_formats",
    "models": "comparison.models:compare_models",
    "exactness": "exactness.command:compare_with_generate",
    "times": "word_times.command:measure_times",
    "speculative": "speculative.command:measure_drafting",
    "passes": "speculative.cost:measure_passes",
    "gpu": "gpu.command:measure_gpu",
    "gpu-check": "gpu.check:check_gpu",
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
