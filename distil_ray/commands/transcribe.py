"""Transcribe recordings: files, folders or a corpus in, Parquet transcripts with word error rates out.

    distil-ray transcribe interview.mp3 calls/ -o transcripts -m openai/whisper-small -l en
    distil-ray transcribe --config gpu input.uri=s3://bucket/audio output.uri=s3://bucket/text
    distil-ray transcribe calls/ -o transcripts --plan

Recordings that the output already holds are skipped: re-run the same command to resume a run
that stopped.
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import FORCE_FLAG, Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.config import Config
from distil_ray.errors import ExitCode

PLAN_FLAG = ("--plan", {"action": "store_true", "help": "print the work to do; start neither a model nor Ray"})


def transcribe(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Transcribes, or prints the work to do."""
    from distil_ray.pipeline import plan_report, runner

    console = open_console(arguments)
    if arguments.plan:
        return plan_report.show_plan(config, console)
    return runner.transcribe(config, console, force=arguments.force)


COMMAND = Command(
    name="transcribe",
    description=__doc__ or "",
    run=transcribe,
    settings=(
        *("input.uri", "input.format", "input.channels", "output.uri", "output.on_settings_change"),
        *("model.name", "model.dtype", "model.assistant", "decoding.language", "decoding.task", "decoding.timestamps"),
        *("decoding.batch_size", "chunking.strategy", "scoring.group_by"),
        *("resources.ray_address", "resources.actors", "resources.gpus_per_actor", "resources.cpus_per_actor"),
        *("storage.endpoint_url", "run_id", "retry_failed", "max_failed_fraction", "max_failed_count"),
    ),
    paths=("input.uri",),
    flags=(PLAN_FLAG, FORCE_FLAG),
    short_flags=("output.uri", "model.name", "decoding.language"),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
