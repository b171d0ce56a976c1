"""Nightly run: transcribe new and changed recordings, compare the figures with earlier runs, notify a webhook.

    python jobs/nightly.py --config configs/nightly.yaml input.uri=s3://bucket/audio output.uri=s3://bucket/text
    python jobs/nightly.py --config configs/nightly.yaml --date 2026-11-20      # repeat that date

docs/nightly.md describes the files of a nightly run, the drift checks and the scheduling.
"""

import argparse
import sys
from datetime import date
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a job's working_dir is copied, not installed

from distil_ray.cli.command_line import open_console, run_command, settings_parser
from distil_ray.config import Config
from distil_ray.errors import ExitCode


def main() -> int:
    parser = settings_parser(__doc__ or "")
    parser.add_argument(
        "--date",
        type=date.fromisoformat,
        metavar="YYYY-MM-DD",
        help="a past date: transcribe the recordings of that date again, and no others; default: today (UTC)",
    )
    parser.add_argument("--force", action="store_true", help="write although another run holds the output's lease")
    return run_command(parser, nightly)


def nightly(config: Config, arguments: argparse.Namespace) -> ExitCode:
    from distil_ray.nightly import nightly_run

    return nightly_run.run_nightly(config, arguments.date, open_console(arguments), force=arguments.force)


if __name__ == "__main__":
    sys.exit(main())
