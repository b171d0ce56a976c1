"""Measure: the cost of the pipeline itself, of planning a huge listing, our recognisers beside other programs, two
checkpoints beside each other, the GPU path beside the chip's limits; compare: our recogniser with transformers'
generate, token for token, and with itself when an assistant drafts.

    python jobs/benchmark.py pipeline|planning|engines|models|exactness|speculative|passes|gpu [key=value ...]

Everything that is downloaded, converted or written lies in .bench/ unless told otherwise.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from distil_ray.bench.settings import (
    COMMANDS,
    EnginesSettings,
    ExactnessSettings,
    GpuSettings,
    ModelsSettings,
    PassesSettings,
    PipelineSettings,
    PlanningSettings,
    SpeculativeSettings,
    describe_commands,
)
from distil_ray.endings import Parser, carry_out
from distil_ray.errors import ExitCode
from distil_ray.key_values import parse

LOG_WIDTH = 140  # columns of a table where there is no terminal


def main() -> int:
    parser = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"settings:\n{describe_commands()}",
    )
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    arguments = parser.parse_intermixed_args()
    return carry_out(lambda: _measure(parse(COMMANDS[arguments.command], arguments.settings)), debug=arguments.debug)


def _measure(
    settings: PipelineSettings
    | PlanningSettings
    | EnginesSettings
    | ModelsSettings
    | ExactnessSettings
    | SpeculativeSettings
    | PassesSettings
    | GpuSettings,
) -> ExitCode:
    from rich.console import Console

    console = Console(highlight=False, width=None if sys.stdout.isatty() else LOG_WIDTH)
    if isinstance(settings, PipelineSettings):
        from distil_ray.bench.pipeline_command import measure

        return measure(settings, console)
    if isinstance(settings, PlanningSettings):
        from distil_ray.bench.planning_command import measure_planning

        return measure_planning(settings, console)
    if isinstance(settings, EnginesSettings):
        from distil_ray.bench.engines_command import compare

        return compare(settings, console)
    if isinstance(settings, SpeculativeSettings):
        from distil_ray.bench.speculative_command import measure_drafting

        return measure_drafting(settings, console)
    if isinstance(settings, PassesSettings):
        from distil_ray.bench.speculative_cost import measure_passes

        return measure_passes(settings, console)
    if isinstance(settings, GpuSettings):
        from distil_ray.bench.gpu_command import measure_gpu

        return measure_gpu(settings, console)
    if isinstance(settings, ExactnessSettings):
        from distil_ray.bench.exactness_command import compare_with_generate

        return compare_with_generate(settings, console)
    from distil_ray.bench.models_command import compare_models

    return compare_models(settings, console)


if __name__ == "__main__":
    sys.exit(main())
