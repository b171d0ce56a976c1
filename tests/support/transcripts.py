"""The one factory of transcript rows, and files of them: what an output holds, made up or read."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.output.ledger import list_data_files
from distil_ray.schema import TRANSCRIPT, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join

Row = dict[str, Any]

RUN_COLUMNS = {"run_id", "processed_at"}  # they differ from run to run, whatever the recording


def transcript_row(recording_id: str, **columns: Any) -> Row:
    """Returns a row of an output: 10 s of English, "Good morning." in one chunk, unless `columns` say otherwise.

    `metadata` may be a dict. Columns that are not named and have no default are null.
    """
    metadata = columns.pop("metadata", {})
    if isinstance(metadata, dict):
        metadata = [{"key": key, "value": value} for key, value in metadata.items()]
    text = columns.get("text", "Good morning.")
    defaults = {
        "recording_id": recording_id,
        "uri": f"/audio/{recording_id}.flac",
        "status": "ok",
        "duration_s": 10.0,
        "language": "en",
        "text": text,
        "chunks": [{"start_s": 0.0, "end_s": 10.0, "text": text}],
        "metadata": metadata,
        "fingerprint": "f" * 16,
        "processed_at": datetime(2026, 11, 22, tzinfo=UTC),
    }
    return dict.fromkeys(TRANSCRIPT.names) | defaults | columns


def transcript_chunk(start_s: float, end_s: float, text: str, **columns: Any) -> Row:
    """Returns a chunk of a row, decoded well unless `columns` say otherwise."""
    defaults = {
        "start_s": start_s,
        "end_s": end_s,
        "text": text,
        "avg_logprob": -0.2,
        "no_speech_prob": 0.01,
        "compression_ratio": 1.2,
        "temperature": 0.0,
        "window_s": 30.0,
        "unheard_s": 0.0,
        "quality_flags": [],
        "tokens": [1, 2, 3],
    }
    return dict.fromkeys(field.name for field in TRANSCRIPT.field("chunks").type.value_type) | defaults | columns


def write_transcripts(folder: str | Path, *files: list[Row], partition: str = "") -> str:
    """Writes lists of rows as data files of the output `folder`, below `partition` if one is named; returns it."""
    for number, rows in enumerate(files):
        data = to_parquet_bytes(pa.Table.from_pylist(rows, schema=TRANSCRIPT))
        parts = [part for part in ("transcripts", partition, f"task-{number}.parquet") if part]
        Storage().put(join(str(folder), *parts), data)
    return str(folder)


def stored_rows(output: object) -> list[Row]:
    """Returns the rows of an output, by recording, without what differs from run to run."""
    storage = Storage()
    rows: list[Row] = []
    for uri in list_data_files(f"{output}/transcripts", storage):
        rows += pq.read_table(io.BytesIO(storage.read(uri))).to_pylist()
    kept = [{name: value for name, value in row.items() if name not in RUN_COLUMNS} for row in rows]
    return sorted(kept, key=lambda row: str(row["recording_id"]))
