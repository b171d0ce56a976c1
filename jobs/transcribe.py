"""Transcribe a corpus: recordings from object storage or disk in, Parquet transcripts with word error rates out.

    python jobs/transcribe.py --config configs/transcribe.yaml input.uri=s3://bucket/audio output.uri=s3://bucket/text

Recordings that the output already holds are skipped: re-run the same command to resume a run that stopped.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a job's working_dir is copied, not installed

from distil_ray.cli.command_line import open_console, run_command, settings_parser
from distil_ray.config import Config
from distil_ray.errors import ExitCode


def main() -> int:
    parser = settings_parser(__doc__ or "")
    parser.add_argument("--plan", action="store_true", help="print the work to do; start neither a model nor Ray")
    parser.add_argument("--force", action="store_true", help="write although another run holds the output's lease")
    return run_command(parser, transcribe)


def transcribe(config: Config, arguments: argparse.Namespace) -> ExitCode:
    from distil_ray.pipeline import runner

    console = open_console(arguments)
    if arguments.plan:
        return runner.show_plan(config, console)
    return runner.transcribe(config, console, force=arguments.force)


if __name__ == "__main__":
    sys.exit(main())
