"""Transcribes the recordings of a folder in this process and prints one line per recording.

python examples/transcribe_folder.py /data/calls --model openai/whisper-large-v3
"""

import argparse
from pathlib import Path

import distil_ray as dr

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inputs", nargs="*", default=[DATA / "kennedy.m4a", DATA / "austen-0880-8khz.wav"])
    parser.add_argument("--model", default="packaged:whisper-tiny.en")
    parser.add_argument("--language", default="auto", help="a code or name, or auto")
    arguments = parser.parse_args()

    table = dr.transcribe(arguments.inputs, model=arguments.model, language=arguments.language)
    for row in table.to_dict("records"):
        print(f"{row['recording_id']}: {row['error'] if row['status'] == 'failed' else row['text']}")


if __name__ == "__main__":
    main()
