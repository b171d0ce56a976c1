"""tar shards with the audio (WebDataset); also for of=dataset.

shard-000000.tar …            of the transcripts (`transcript_shards`)
TO/train/shard-000000.tar …   of the training data set: <key>.flac, <key>.txt (transcript), <key>.json (the other
                              columns)
"""

from collections.abc import Iterator

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.destinations import Target, sample_key
from distil_ray.export.records import to_json_line
from distil_ray.export.training_shards import Member, Row, ShardCounts, write_example_shards
from distil_ray.export.transcript_shards import shard_name, write_shards
from distil_ray.readers.audio_formats import extension


def write_dataset(examples: Iterator[Row], target: Target, max_bytes: int) -> ShardCounts:
    """Writes training examples as shards of about `max_bytes` bytes."""
    return write_example_shards(examples, target, max_bytes, shard_name, _members)


def _members(row: Row, _: int) -> list[Member]:
    key = sample_key(row["id"])
    fields = {name: cell for name, cell in row.items() if name != "audio"}
    return [
        (f"{key}{extension(row['audio']['path'])}", row["audio"]["bytes"]),
        (f"{key}.txt", row["transcript"].encode()),
        (f"{key}.json", to_json_line(fields).encode()),
    ]


FORMAT = ExportFormat(
    Layout.SHARDS,
    ("shard-[0-9]*.tar",),
    write_shards,
    ("segments", "words"),
    dataset_writer=write_dataset,
    silences_audio=True,
)
