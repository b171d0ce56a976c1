"""Small inputs in four layouts, as files below a folder: loose files, a manifest, tar shards, Parquet."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from distil_ray.types import SAMPLE_RATE

LAYOUTS = ("files", "manifest", "tar", "parquet")
SHARDED = ("tar", "parquet")
ROWS_A_GROUP = 30  # of a Parquet file


def write_input(
    layout: str,
    num_recordings: int,
    num_shards: int,
    recording_s: float,
    folder: Path,
    rows_a_group: int = ROWS_A_GROUP,
) -> str:
    """Writes recordings of noise (WAV, 16 kHz mono).

    Args:
        layout: One of `LAYOUTS`.
        num_recordings: Number of recordings.
        num_shards: Number of shards that they are divided among; used for `SHARDED` only.
        recording_s: Duration of each, seconds.
        folder: Target folder, which is created.
        rows_a_group: Rows of a row group of a Parquet file.

    Returns:
        The path of the input below `folder`; empty if it is the folder itself.
    """
    folder.mkdir(parents=True)
    recordings = [(f"recording-{number:06d}.wav", _noise(number, recording_s)) for number in range(num_recordings)]
    if layout not in SHARDED:
        for name, data in recordings:
            (folder / name).write_bytes(data)
        if layout == "files":
            return ""
        rows = (json.dumps({"uri": name, "duration": recording_s, "text": "a reference"}) for name, _ in recordings)
        (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
        return "manifest.jsonl"
    for shard in range(num_shards):
        mine, path = recordings[shard::num_shards], folder / f"shard-{shard:03d}.{layout}"
        if layout == "tar":
            _write_tar(mine, recording_s, path)
        else:
            _write_parquet(mine, recording_s, path, rows_a_group)
    return ""


def _write_tar(recordings: list[tuple[str, bytes]], recording_s: float, path: Path) -> None:
    with tarfile.open(path, "w") as shard:
        for name, data in recordings:
            text = json.dumps({"duration": recording_s, "text": "a reference"}).encode()
            for member, content in ((name, data), (name.replace(".wav", ".json"), text)):
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))


def _write_parquet(recordings: list[tuple[str, bytes]], recording_s: float, path: Path, rows_a_group: int) -> None:
    names, contents = zip(*recordings, strict=True)
    audio = pa.array([{"bytes": data, "path": name} for name, data in recordings])
    texts = ["a reference"] * len(names)
    table = pa.table({"id": names, "audio": audio, "text": texts, "duration": [recording_s] * len(contents)})
    pq.write_table(table, path, row_group_size=rows_a_group)


def _noise(seed: int, seconds: float) -> bytes:
    samples = np.random.default_rng(seed).integers(-3000, 3000, round(seconds * SAMPLE_RATE)).astype(np.int16)
    sink = io.BytesIO()
    soundfile.write(sink, samples, SAMPLE_RATE, format="WAV")
    return sink.getvalue()
