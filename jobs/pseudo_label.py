"""Make a training data set of recordings, in the format of distil-whisper's training script.

    python jobs/pseudo_label.py --config configs/pseudo_label.yaml input.uri=s3://bucket/audio output.uri=s3://bucket/set
    python jobs/pseudo_label.py --sweep output.uri=s3://bucket/set        # the effect of each threshold

Transcribes the recordings that the output lacks (as jobs/transcribe.py does), then builds OUTPUT/dataset from the
transcripts and their audio. Re-run the same command to resume; new recordings become new examples. See
docs/pseudo_labels.md.
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
    parser.add_argument("--labels-only", action="store_true", help="only build the data set; transcribe nothing")
    parser.add_argument(
        "--sweep",
        action="store_true",
        help="only print the hours that each threshold of each filter would keep, and their WER",
    )
    parser.add_argument("--force", action="store_true", help="write although another run holds the output's lease")
    return run_command(parser, pseudo_label)


def pseudo_label(config: Config, arguments: argparse.Namespace) -> ExitCode:
    console = open_console(arguments)
    if arguments.sweep:
        from distil_ray.pseudo_labels.threshold_sweep import sweep_thresholds

        return sweep_thresholds(config, console)
    from distil_ray.pseudo_labels.job import pseudo_label

    return pseudo_label(config, console, labels_only=arguments.labels_only, force=arguments.force)


if __name__ == "__main__":
    sys.exit(main())
