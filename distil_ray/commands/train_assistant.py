"""Train an assistant on the transcripts of a run: a small decoder that drafts for the main model.

    distil-ray train-assistant --config train_assistant s3://bucket/text assistant.uri=s3://…

It replaces the assistant in use if it is better on held-out recordings. Runs with the same
assistant.uri then use it: the same texts, faster. Re-run the same command to resume a training that
stopped. docs/assistants.md describes the requirements, and the use of the student as a recognizer.
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.config import Config
from distil_ray.errors import ExitCode


def train_assistant(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Trains an assistant."""
    from distil_ray.assistant_training import job

    if arguments.plan:
        return job.show_training_plan(config, open_console(arguments))
    return job.train_assistant(config, open_console(arguments), force=arguments.force)


COMMAND = Command(
    name="train-assistant",
    description=__doc__ or "",
    run=train_assistant,
    settings=("output.uri", "model.name", "model.revision", "assistant.*", "resources.gpus_per_actor"),
    paths=("output.uri",),
    flags=(
        ("--plan", {"action": "store_true", "help": "print the data and the steps; start neither a model nor Ray"}),
        (
            "--force",
            {"action": "store_true", "help": "train although another training holds the folder's lease"},
        ),
    ),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
