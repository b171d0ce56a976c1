"""Remove recordings from an output, and from all that names or quotes them; runs skip them.

    distil-ray forget transcripts recordings=call-17.wav --plan
    distil-ray forget s3://bucket/text recordings=s3://bucket/audio/cust-7/ exports=s3://bucket/srt
    distil-ray forget s3://bucket/text input.uri=s3://bucket/audio deleted_sources=true

The audio is not touched. What is removed is gone. A call that was interrupted is finished by the
next one. See docs/reliability.md.
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import FORCE_FLAG, Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.cli.options import parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode
from distil_ray.forget.settings import ForgetSettings


def forget(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Removes the recordings, or prints what would be removed."""
    settings = parse_options(ForgetSettings, arguments.own)
    from distil_ray.forget import job

    console = open_console(arguments)
    return job.forget(config, settings, console, plan_only=arguments.plan, force=arguments.force)


COMMAND = Command(
    name="forget",
    description=__doc__ or "",
    run=forget,
    settings=("output.uri", "output.max_deleted_fraction", "input.uri", "input.format", "storage.*"),
    paths=("output.uri",),
    options=ForgetSettings,
    flags=(("--plan", {"action": "store_true", "help": "print what would be removed; change nothing"}), FORCE_FLAG),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
