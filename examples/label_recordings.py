"""Transcribes recordings with a teacher, and makes a training data set of the transcripts that pass the filters.

python examples/label_recordings.py /data/calls calls-labels --model openai/whisper-large-v3
"""

import argparse
from pathlib import Path

import pyarrow.dataset as ds
from rich.console import Console

import distil_ray as dr
from distil_ray.pseudo_labels.job import pseudo_label

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", default=str(DATA / "austen-*"))
    parser.add_argument("output", nargs="?", default=str(Path("labels-output").resolve()))
    parser.add_argument("--model", default="packaged:whisper-tiny.en", help="the teacher")
    parser.add_argument("--language", default="en")
    arguments = parser.parse_args()

    settings = {"input.uri": arguments.input, "output.uri": arguments.output, "model.name": arguments.model}
    settings |= {"decoding.language": arguments.language, "labels.packing": "recording", "labels.validation_share": 0}
    pseudo_label(dr.load_config(overrides=settings), Console())
    examples = ds.dataset(Path(arguments.output) / "dataset" / "data").to_table(columns=["id", "transcript"])
    for example in examples.to_pylist():
        print(f"{example['id']}: {example['transcript']}")


if __name__ == "__main__":
    main()
