"""Transcribe new and changed recordings, compare the figures with earlier runs, notify a webhook.

    distil-ray nightly --config nightly input.uri=s3://bucket/audio output.uri=s3://bucket/text
    distil-ray nightly --config nightly --as-of 2026-11-20     # as the nightly run of that date
    distil-ray nightly --config nightly --redo 2026-11-20      # transcribe that date again

docs/nightly.md describes the files of a nightly run, the drift checks and the scheduling.
"""

import argparse
from collections.abc import Sequence
from datetime import date

from distil_ray.cli.command import FORCE_FLAG, Command, run_command
from distil_ray.cli.command_line import error_printer, open_console
from distil_ray.commands.transcribe import PLAN_FLAG
from distil_ray.config import Config
from distil_ray.errors import ExitCode


def _parse_date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: must be a date such as 2026-11-20") from None


AS_OF_FLAG = (
    "--as-of",
    {
        "type": _parse_date,
        "metavar": "DATE",
        "help": "run as the nightly run of this date (YYYY-MM-DD): new and changed recordings go to its partition;"
        " default: today in nightly.timezone",
    },
)
REDO_FLAG = (
    "--redo",
    {
        "type": _parse_date,
        "metavar": "DATE",
        "help": "transcribe the recordings of this date's partition again, and no others; today is allowed",
    },
)


def nightly(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Does a nightly run."""
    from distil_ray.nightly import nightly_run

    console = open_console(arguments)
    dates = {"as_of": arguments.as_of, "redo": arguments.redo}
    if arguments.plan:
        return nightly_run.show_nightly_plan(config, console, **dates)
    return nightly_run.run_nightly(config, console, **dates, force=arguments.force, on_error=error_printer(arguments))


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
    flags=(AS_OF_FLAG, REDO_FLAG, PLAN_FLAG, FORCE_FLAG),
    short_flags=("output.uri", "model.name", "decoding.language"),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
