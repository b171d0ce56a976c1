"""Runs the job with the times of segments, and exports its transcripts as subtitles.

python examples/write_subtitles.py /data/talks talks-out --model openai/whisper-large-v3
"""

import argparse
from pathlib import Path

from rich.console import Console

import distil_ray as dr
from distil_ray.export.job import export
from distil_ray.export.settings import ExportSettings

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", default=str(DATA / "kennedy.m4a"))
    parser.add_argument("output", nargs="?", default="subtitles-output")
    parser.add_argument("--format", default="srt", help="srt, vtt, or another format of docs/formats.md")
    parser.add_argument("--model", default="packaged:whisper-tiny.en")
    arguments = parser.parse_args()

    settings = {"input.uri": arguments.input, "output.uri": arguments.output, "model.name": arguments.model}
    result = dr.run(overrides=settings | {"decoding.timestamps": "segment"})
    target = str(Path(arguments.output) / arguments.format)
    export(result.config, ExportSettings(arguments.format, target, overwrite=True), Console())


if __name__ == "__main__":
    main()
