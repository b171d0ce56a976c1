"""Compare the transcripts of two outputs, or of two runs, recording by recording.

    distil-ray compare transcripts-base transcripts-large
    distil-ray compare a=text/runs/2026-11-21.1 b=text/runs/2026-11-22.1 to=comparison.html

Recordings are paired by their id. The 95 % interval of the difference is from a paired bootstrap:
if it contains zero, the difference is not significant. It needs at least 10 recordings. Groups are
those of scoring.group_by.
"""

import argparse
from collections.abc import Sequence
from dataclasses import MISSING, dataclass

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.cli.options import option, parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Options of this command."""

    a: str = option(MISSING, "an output, or a run folder: OUTPUT/runs/<run_id>")
    b: str = option(MISSING, "output or run folder to compare with")
    to: str = option("comparison.html", "the page, local or any fsspec URL")


def compare(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Prints the comparison and writes its page."""
    settings = parse_options(CompareSettings, arguments.own)
    from distil_ray.report import comparison

    comparison.compare(settings.a, settings.b, settings.to, config, open_console(arguments))
    return ExitCode.DONE


COMMAND = Command(
    name="compare",
    description=__doc__ or "",
    run=compare,
    settings=("scoring.group_by", "scoring.bootstrap_samples", "report.num_worst", "storage.*"),
    paths=("a", "b"),
    options=CompareSettings,
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
