"""NeMo's tarred audio with its manifest; only for of=dataset.

TO/train/audio_0.tar and on hold audio alone; TO/train/tarred_audio_manifest.json has a line per example.
"""

import io
from collections.abc import Iterator

from distil_ray.export.base import ExportFormat, Layout
from distil_ray.export.destinations import Target, sample_key
from distil_ray.export.records import to_json_line
from distil_ray.export.training_shards import Member, Row, ShardCounts, write_example_shards
from distil_ray.readers.audio_formats import extension

MANIFEST = "tarred_audio_manifest.json"


def write_dataset(examples: Iterator[Row], target: Target, max_bytes: int) -> ShardCounts:
    """Writes training examples as shards of about `max_bytes` bytes, and the manifest when all shards are complete."""
    manifest = io.BytesIO()

    def members(row: Row, shard: int) -> list[Member]:
        # NeMo names an utterance by its file without folders
        name = sample_key(row["id"]).replace("/", "%2F") + extension(row["audio"]["path"])
        line = {"audio_filepath": name, "duration": row["duration_s"], "text": row["transcript"]}
        line |= {"lang": row["language"], "speaker": row["speaker"], "shard_id": shard}
        manifest.write(to_json_line(line).encode())
        return [(name, row["audio"]["bytes"])]

    counts = write_example_shards(examples, target, max_bytes, "audio_{}.tar".format, members)
    target.put(MANIFEST, manifest.getvalue())
    return counts


FORMAT = ExportFormat(Layout.SHARDS, ("audio_[0-9]*.tar", MANIFEST), dataset_writer=write_dataset)
