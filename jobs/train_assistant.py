"""Train an assistant on what a run has written: a small decoder that drafts for the main model on this very speech.

    python jobs/train_assistant.py --config configs/train_assistant.yaml \\
        output.uri=s3://bucket/text assistant.uri=s3://bucket/assistants

It replaces the assistant in use if it is better on speech that it has never heard. Runs with the same assistant.uri
use it from then on: the same texts, sooner. A training that was killed goes on by the same command.
docs/assistants.md says what it takes, and how the student serves as a recognizer of its own.
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
    parser.add_argument("--force", action="store_true", help="train although another training holds the folder's lease")
    return run_command(parser, train_assistant)


def train_assistant(config: Config, arguments: argparse.Namespace) -> ExitCode:
    from distil_ray.assistant_training import job

    return job.train_assistant(config, open_console(arguments), force=arguments.force)


if __name__ == "__main__":
    sys.exit(main())
