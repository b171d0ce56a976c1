"""Train an assistant on the transcripts of a run: a small decoder that drafts for the main model.

    python jobs/train_assistant.py --config configs/train_assistant.yaml \\
        output.uri=s3://bucket/text assistant.uri=s3://bucket/assistants

It replaces the assistant in use if it is better on held-out recordings. Runs with the same assistant.uri then use it:
the same texts, faster. Re-run the same command to resume a training that stopped. docs/assistants.md describes the
requirements, and the use of the student as a recognizer of its own.
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
