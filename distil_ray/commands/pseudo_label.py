"""Make a training data set of recordings, in the format of distil-whisper's training script.

    distil-ray pseudo-label --config pseudo_label s3://bucket/audio -o s3://bucket/set
    distil-ray pseudo-label --sweep output.uri=s3://bucket/set        # the effect of each threshold

Transcribes the recordings that the output lacks (as `distil-ray transcribe` does), then builds
OUTPUT/dataset from the transcripts and their audio. Re-run the same command to resume; new
recordings become new examples. See docs/pseudo_labels.md.
"""

import argparse
from collections.abc import Sequence

from distil_ray.cli.command import FORCE_FLAG, Command, run_command
from distil_ray.cli.command_line import open_console
from distil_ray.commands.transcribe import PLAN_FLAG
from distil_ray.config import Config
from distil_ray.errors import ExitCode


def pseudo_label(config: Config, arguments: argparse.Namespace) -> ExitCode:
    """Makes the data set, or prints the effect of each threshold."""
    console = open_console(arguments)
    if arguments.sweep:
        from distil_ray.pseudo_labels.threshold_sweep import sweep_thresholds

        return sweep_thresholds(config, console)
    from distil_ray.pseudo_labels import job

    if arguments.plan:
        return job.show_label_plan(config, console)
    return job.pseudo_label(config, console, labels_only=arguments.labels_only, force=arguments.force)


COMMAND = Command(
    name="pseudo-label",
    description=__doc__ or "",
    run=pseudo_label,
    settings=(
        *("input.uri", "output.uri", "model.name", "decoding.language", "decoding.timestamps", "labels.packing"),
        *("labels.speaker_column", "labels.validation_share", "labels.audio_format", "labels.filters.*"),
        *("resources.gpus_per_actor", "max_failed_fraction", "max_failed_count"),
    ),
    paths=("input.uri",),
    flags=(
        ("--labels-only", {"action": "store_true", "help": "only build the data set; transcribe nothing"}),
        (
            "--sweep",
            {
                "action": "store_true",
                "help": "only print the hours that each threshold of each filter would keep, and their WER",
            },
        ),
        PLAN_FLAG,
        FORCE_FLAG,
    ),
    short_flags=("output.uri", "model.name", "decoding.language"),
)


def main(words: Sequence[str], prog: str) -> int:
    return run_command(COMMAND, words, prog)
