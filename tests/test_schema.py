"""Arrow schemas are made from the types; what is stored is written out here."""

import io
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distil_ray.schema import ADDED_FIELDS, TRANSCRIPT, arrow_fields, open_parquet, to_parquet_bytes
from distil_ray.types import ArrowType, Int32

LOCATION = (
    "struct<member: string, byte_start: int64, num_bytes: int64, row_group: int32, row: int32, start_s: double,"
    " length_s: double, channel: int32>"
)
CHUNK = (
    "struct<start_s: double, end_s: double, language: string, language_prob: double, text: string,"
    " avg_logprob: double, no_speech_prob: double, compression_ratio: double, temperature: double, window_s: double,"
    " unheard_s: double, quality_flags: list<item: string>, tokens: list<item: int32>>"
)
# Changing a line here changes stored files: see "Schema versions" in docs/output.md.
COLUMNS = {
    "recording_id": "string",
    "uri": "string",
    "source_size": "int64",
    "source_version": "string",
    "location": LOCATION,
    "call_id": "string",
    "status": "string",
    "error_kind": "string",
    "error": "string",
    "duration_s": "double",
    "language": "string",
    "language_prob": "double",
    "languages": "list<item: struct<language: string, share: double>>",
    "text": "string",
    "text_normalized": "string",
    "reference": "string",
    "reference_normalized": "string",
    "num_ref_words": "int64",
    "substitutions": "int64",
    "deletions": "int64",
    "insertions": "int64",
    "wer": "double",
    "num_ref_chars": "int64",
    "char_edits": "int64",
    "cer": "double",
    "normalizer": "string",
    "chunks": f"list<item: {CHUNK}>",
    "segments": "list<item: struct<start_s: double, end_s: double, text: string, speaker: string>>",
    "words": "list<item: struct<start_s: double, end_s: double, text: string, speaker: string, probability: double>>",
    "avg_logprob": "double",
    "no_speech_prob": "double",
    "compression_ratio": "double",
    "chars_per_s": "double",
    "unheard_s": "double",
    "quality_flags": "list<item: string>",
    "acceptance_rate": "double",
    "metadata": "list<item: struct<key: string not null, value: string>>",
    "model": "string",
    "dtype": "string",
    "fingerprint": "string",
    "run_id": "string",
    "processed_at": "timestamp[us, tz=UTC]",
}


def test_columns_of_the_output() -> None:
    assert {one.name: str(one.type) for one in TRANSCRIPT} == COLUMNS
    assert TRANSCRIPT.names == list(COLUMNS)
    assert all(one.nullable for one in TRANSCRIPT)


def test_added_fields_come_from_the_annotations() -> None:
    assert ADDED_FIELDS == {
        "call_id": 3,
        "dtype": 5,
        "languages": 4,
        "chunks.language": 4,
        "chunks.language_prob": 4,
        "unheard_s": 2,
        "chunks.unheard_s": 2,
        "segments.speaker": 3,
        "words.speaker": 3,
    }


def test_annotations_become_arrow_types() -> None:
    @dataclass
    class Nested:
        name: Annotated[str, ArrowType("string", nullable=False)]

    @dataclass
    class Record:
        count: Int32
        total: int
        share: float | None
        names: tuple[str, ...] | None
        rows: tuple[Nested, ...]
        labels: dict[str, str]

    assert pa.schema(arrow_fields(Record)).equals(
        pa.schema(
            [
                ("count", pa.int32()),
                ("total", pa.int64()),
                ("share", pa.float64()),
                ("names", pa.list_(pa.string())),
                ("rows", pa.list_(pa.struct([pa.field("name", pa.string(), nullable=False)]))),
                ("labels", pa.map_(pa.string(), pa.string())),
            ]
        )
    )


def test_parquet_of_a_python_file_is_read_without_threads_of_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that releases a Python buffer while the interpreter ends would abort the process."""
    threads: list[object] = []
    for name in ("read", "read_row_group", "iter_batches"):
        method = getattr(pq.ParquetFile, name)

        def record(self: object, *args: object, method: Any = method, **options: object) -> Any:
            threads.append(options.get("use_threads"))
            return method(self, *args, **options)

        monkeypatch.setattr(pq.ParquetFile, name, record)
    table = pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]})
    parquet = open_parquet(io.BytesIO(to_parquet_bytes(table)))
    assert parquet.read().equals(table)
    assert parquet.read_row_group(0, ["b"]).equals(table.select(["b"]))
    assert [batch.num_rows for batch in parquet.iter_batches(2, columns=["a"])] == [2, 1]
    assert threads and set(threads) == {False}
