"""Compare the transcripts of two outputs, or of two runs, recording by recording.

    python jobs/compare.py a=s3://bucket/base b=s3://bucket/large
    python jobs/compare.py a=s3://bucket/text/runs/2026-11-21.1 b=s3://bucket/text/runs/2026-11-22.1 to=comparison.html

Recordings are paired by their id. The 95 % interval of the difference is from a paired bootstrap: if it contains zero,
the difference is not significant. It needs at least 10 recordings. Groups are those of scoring.group_by.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from dataclasses import MISSING, dataclass

from distil_ray.cli.command_line import open_console, run_command, settings_parser
from distil_ray.cli.options import describe_options, option, parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Options of this job."""

    a: str = option(MISSING, "an output, or a run folder: OUTPUT/runs/<run_id>")
    b: str = option(MISSING, "output or run folder to compare with")
    to: str = option("comparison.html", "the page, local or any fsspec URL")


OWN = ("a", "b", "to")


def main() -> int:
    own = "\n".join(describe_options(CompareSettings))
    known = "storage, scoring.group_by, scoring.bootstrap_samples and report.num_worst"
    return run_command(settings_parser(f"{__doc__}\noptions, beside {known}:\n{own}"), compare, own=OWN)


def compare(config: Config, arguments: argparse.Namespace) -> ExitCode:
    settings = parse_options(CompareSettings, arguments.own)
    from distil_ray.report.comparison import compare

    compare(settings.a, settings.b, settings.to, config, open_console(arguments))
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main())
