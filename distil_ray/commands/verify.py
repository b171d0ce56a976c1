"""Check an output: all files readable, no recording twice, counts equal to those of its runs.

    distil-ray verify transcripts
    distil-ray verify output.uri=s3://bucket/text input.uri=s3://bucket/audio
    distil-ray verify transcripts --recheck 0.01

With input.uri the listing is compared too. --recheck transcribes a sample of the recordings again,
chunk by chunk, in float32 and without batching, and prints how many transcripts differ and
the effect on the WER. The verdict on both checks is the last line.
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.config import Config
from distil_ray.errors import ExitCode, SettingsError


def verify(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Checks the output and, with `--recheck`, transcribes a sample again."""
    from distil_ray.verify.recheck import Sampling, recheck, show_recheck_plan
    from distil_ray.verify.verify import find_differences, print_verdict

    console = open_console(arguments)
    sampling = Sampling.parse(
        arguments.recheck, arguments.seed, arguments.max_differing, full_windows=arguments.full_windows
    )
    if arguments.plan:
        if sampling is None:
            raise SettingsError("--plan: is for --recheck; without it, verify transcribes nothing")
        return show_recheck_plan(config, sampling, console)
    differences = find_differences(config, console)
    if sampling is None:
        return print_verdict(differences, console)
    return recheck(config, sampling, console, differences)


COMMAND = Command(
    name="verify",
    description=__doc__ or "",
    run=verify,
    settings=("output.uri", "input.uri", "input.format", "model.name", "model.cache_dir", "storage.*"),
    paths=("output.uri",),
    flags=(
        (
            "--recheck",
            {"metavar": "SHARE", "help": "a share such as 0.01, or a number such as 50, of the rows to decode again"},
        ),
        ("--plan", {"action": "store_true", "help": "with --recheck: print the size of the sample; start no model"}),
        ("--seed", {"type": int, "default": 0, "help": "seed of the sample (default: 0)"}),
        (
            "--max-differing",
            {
                "metavar": "SHARE",
                "type": float,
                "default": 0.05,
                "help": "share of rechecked rows that may differ before the exit code is 1 (default: 0.05)",
            },
        ),
        (
            "--full-windows",
            {
                "action": "store_true",
                "help": "recheck in windows of 30 s, to measure the effect of the short windows of a run",
            },
        ),
    ),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
