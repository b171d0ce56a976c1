"""A nightly run: transcribe what is new or has changed, judge the night beside those before it, tell a webhook.

    python jobs/nightly.py --config configs/nightly.yaml input.uri=s3://bucket/audio output.uri=s3://bucket/text
    python jobs/nightly.py --config configs/nightly.yaml --date 2026-11-20      # that night's recordings once more

docs/nightly.md says what a night writes, when it is out of line, and how it is scheduled.
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
        help="in the past: redo the recordings of that night and nothing else; default: tonight (UTC)",
    )
    parser.add_argument("--force", action="store_true", help="write although another run holds the output's lease")
    return run_command(parser, nightly)


def nightly(config: Config, arguments: argparse.Namespace) -> ExitCode:
    from distil_ray.nightly import nightly_run

    return nightly_run.run(config, arguments.date, open_console(arguments), force=arguments.force)


if __name__ == "__main__":
    sys.exit(main())
