"""Check an output: all files readable, no recording twice, counts equal to those of its runs.

    python jobs/verify.py output.uri=s3://bucket/text [input.uri=s3://bucket/audio]
    python jobs/verify.py --recheck 0.01 output.uri=s3://bucket/text

With input.uri the listing is compared too. --recheck transcribes a sample of the recordings again, chunk by chunk, in
float32 and without batching, and prints the number of transcripts that differ and the effect on the WER.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from distil_ray.cli.command_line import open_console, run_command, settings_parser
from distil_ray.config import Config
from distil_ray.errors import ExitCode


def main() -> int:
    parser = settings_parser(__doc__ or "")
    parser.add_argument(
        "--recheck", metavar="SHARE", help="a share such as 0.01, or a number such as 50, of the rows to decode again"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample (default: 0)")
    parser.add_argument(
        "--max-differing", metavar="SHARE", type=float, default=0.05,
        help="share of rechecked rows that may differ before the exit code is 1 (default: 0.05)",
    )  # fmt: skip
    parser.add_argument(
        "--full-windows", action="store_true",
        help="recheck in windows of 30 s, to measure the effect of the short windows of a run",
    )  # fmt: skip
    return run_command(parser, verify)


def verify(config: Config, arguments: argparse.Namespace) -> ExitCode:
    from distil_ray.verify.recheck import Sampling, recheck
    from distil_ray.verify.verify import verify

    console = open_console(arguments)
    sampling = Sampling.parse(
        arguments.recheck, arguments.seed, arguments.max_differing, full_windows=arguments.full_windows
    )
    codes = [verify(config, console)]
    if sampling is not None:
        codes.append(recheck(config, sampling, console))
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
