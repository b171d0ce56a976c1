"""Export an output to another format: subtitles, text, manifests, word times, WebDataset.

    python jobs/export.py output.uri=s3://bucket/text format=srt to=s3://bucket/subtitles

The output is not changed. Existing files at the target are replaced only with overwrite=true.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs without being installed

from dataclasses import fields

from distil_ray.cli.command_line import open_console, run_command, settings_parser
from distil_ray.cli.options import describe_options, parse_options
from distil_ray.config import Config
from distil_ray.errors import ExitCode
from distil_ray.export.settings import ExportSettings


def main() -> int:
    own = "\n".join(describe_options(ExportSettings))
    parser = settings_parser(f"{__doc__}\noptions, beside output.uri, storage and max_failed_fraction:\n{own}")
    return run_command(parser, export, own=[known.name for known in fields(ExportSettings)])


def export(config: Config, arguments: argparse.Namespace) -> ExitCode:
    settings = parse_options(ExportSettings, arguments.own)
    from distil_ray.export.job import export

    return export(config, settings, open_console(arguments))


if __name__ == "__main__":
    sys.exit(main())
