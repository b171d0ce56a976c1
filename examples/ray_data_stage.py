"""Reads audio files with Ray Data, transcribes them in a pool of actors, and writes Parquet.

python examples/ray_data_stage.py s3://bucket/calls s3://bucket/transcripts --model openai/whisper-large-v3 --gpus 4
"""

import argparse
from pathlib import Path

import ray

import distil_ray as dr

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", default=str(DATA))
    parser.add_argument("output", nargs="?", default=str(Path("transcripts").resolve()), help="absolute path or URI")
    parser.add_argument("--model", default="packaged:whisper-tiny.en")
    parser.add_argument("--gpus", type=int, default=0, help="actors with a GPU each; 0: one actor on the CPU")
    arguments = parser.parse_args()

    files = ray.data.read_binary_files(arguments.input, include_paths=True, file_extensions=["flac", "mp3", "wav"])
    transcripts = files.map_batches(
        dr.Transcriber,
        fn_constructor_kwargs={"model": arguments.model},
        batch_size=32,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=arguments.gpus or 1),
        num_gpus=1 if arguments.gpus else None,
    )
    transcripts.write_parquet(arguments.output)
    written = ray.data.read_parquet(arguments.output).select_columns(["recording_id", "status", "text"])
    for row in written.iter_rows():
        print(row["recording_id"], row["status"], row["text"])


if __name__ == "__main__":
    main()
