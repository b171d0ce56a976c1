"""Export an output to another format: subtitles, text, manifests, word times, WebDataset.

    distil-ray export transcripts format=srt to=subtitles
    distil-ray export output.uri=s3://bucket/text format=srt to=s3://bucket/srt where=language:en

The output is not changed. Existing files at the target are replaced only with overwrite=true.
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.cli.options import parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode
from distil_ray.export.settings import ExportSettings


def export(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Exports the output."""
    settings = parse_options(ExportSettings, arguments.own)
    from distil_ray.export import job

    return job.export(config, settings, open_console(arguments), plan_only=arguments.plan)


COMMAND = Command(
    name="export",
    description=__doc__ or "",
    run=export,
    settings=("output.uri", "input.channels", "storage.*", "max_failed_fraction", "max_failed_count"),
    paths=("output.uri",),
    options=ExportSettings,
    flags=(("--plan", {"action": "store_true", "help": "print what would be exported; write nothing"}),),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
