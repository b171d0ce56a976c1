"""Transcribe new and changed recordings, compare the figures with earlier runs, notify a webhook.

    distil-ray nightly --config nightly input.uri=s3://bucket/audio output.uri=s3://bucket/text
    distil-ray nightly --config nightly --date 2026-11-20      # repeat that date

docs/nightly.md describes the files of a nightly run, the drift checks and the scheduling.
"""

import argparse
from collections.abc import Sequence
from datetime import date

from distil_ray.cli.command import FORCE_FLAG, Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.commands.transcribe import PLAN_FLAG
from distil_ray.config import Config
from distil_ray.errors import ExitCode

DATE_FLAG = (
    "--date",
    {
        "type": date.fromisoformat,
        "metavar": "YYYY-MM-DD",
        "help": "a past date: transcribe the recordings of that date again, and no others; default: today (UTC)",
    },
)


def nightly(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Does a nightly run."""
    from distil_ray.nightly import nightly_run

    console = open_console(arguments)
    if arguments.plan:
        return nightly_run.show_nightly_plan(config, arguments.date, console)
    return nightly_run.run_nightly(config, arguments.date, console, force=arguments.force)


COMMAND = Command(
    name="nightly",
    description=__doc__ or "",
    run=nightly,
    settings=(
        *("input.uri", "output.uri", "output.on_settings_change", "model.name", "decoding.language", "nightly.*"),
        *(
            "assistant.nightly_below",
            "resources.actors",
            "resources.gpus_per_actor",
            "max_failed_fraction",
            "max_failed_count",
        ),
    ),
    paths=("input.uri",),
    flags=(DATE_FLAG, PLAN_FLAG, FORCE_FLAG),
    short_flags=("output.uri", "model.name", "decoding.language"),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
