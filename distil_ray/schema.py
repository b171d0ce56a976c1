"""Arrow schemas of the tables that travel between the stages and of the output.

Each stage turns one table into the next: `PLAN` (a recording and its task) -> `PART` (PCM cut into chunks) ->
`PART_RESULT` (hypotheses instead of PCM) -> `TRANSCRIPT` (one row per recording, the output) and `COMMIT_RESULT`
(counts for the driver). Where a table or a nested column has a type in `distil_ray.types`, its schema is made from it.

Time is counted in samples at `SAMPLE_RATE`, except in `TRANSCRIPT`, whose times are seconds.
"""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from types import NoneType, UnionType
from typing import IO, Annotated, Any, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.types import (
    AddedIn,
    ArrowType,
    AudioLocation,
    ChunkSpan,
    DecodedRecording,
    Hypothesis,
    LanguageShare,
    Prompt,
    Recording,
    TranscriptRow,
)

ARROW_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: pa.timestamp("us", tz="UTC"),
}


def arrow_type(annotation: Any) -> pa.DataType:
    """Returns the Arrow type of a field by its annotation.

    ``tuple[X, ...]`` becomes a list, ``dict[K, V]`` a map, a dataclass a struct, ``X | None`` is X (every Arrow field
    is nullable unless `ArrowType` says otherwise), and ``Annotated[X, ArrowType(name)]`` what it names.
    """
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = [note for note in args[1:] if isinstance(note, ArrowType)]
        return getattr(pa, named[0].name)() if named else arrow_type(args[0])
    if origin in (Union, UnionType):
        (some,) = [arg for arg in args if arg is not NoneType]
        return arrow_type(some)
    if origin is tuple:
        return pa.list_(arrow_type(args[0]))
    if origin is dict:
        return pa.map_(arrow_type(args[0]), arrow_type(args[1]))
    if isinstance(annotation, type) and is_dataclass(annotation):
        return pa.struct(arrow_fields(annotation))
    if issubclass(annotation, StrEnum):
        return pa.string()
    return ARROW_TYPES[annotation]


def arrow_fields(record: type) -> list[pa.Field]:
    """Returns an Arrow field for each field of a dataclass, in its order."""
    return [
        pa.field(name, arrow_type(annotation), nullable=_is_nullable(annotation))
        for name, annotation in _annotations(record)
    ]


def _annotations(record: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(record, include_extras=True)
    return [(one.name, hints[one.name]) for one in fields(record)]


def _is_nullable(annotation: Any) -> bool:
    notes = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return all(note.nullable for note in notes if isinstance(note, ArrowType))


def _added_fields(annotation: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yields (dotted path, schema version) of every field below a type that is annotated with `AddedIn`."""
    if is_dataclass(annotation):
        for name, kind in _annotations(annotation):
            if get_origin(kind) is Annotated:
                yield from ((prefix + name, note.version) for note in get_args(kind)[1:] if isinstance(note, AddedIn))
            yield from _added_fields(kind, f"{prefix}{name}.")
    else:
        for argument in get_args(annotation):
            yield from _added_fields(argument, prefix)


RECORDING = pa.schema(arrow_fields(Recording))
LOCATION = arrow_type(AudioLocation)
CHUNK = arrow_type(ChunkSpan)
HYPOTHESIS = arrow_type(Hypothesis)

# One row per recording, one row group per task, in the order of work. `estimated_s` is `duration_s`, or an estimate by
# the size of the file.
PLAN = pa.schema([("task_id", pa.string()), ("estimated_s", pa.float64()), *RECORDING])

# Where a task stands in the plan. `secret_uris`: by row of the task, URIs whose credentials are not in the plan.
POINTER = pa.schema(
    [("task_id", pa.string()), ("row_group", pa.int32()), ("secret_uris", pa.map_(pa.int32(), pa.string()))]
)

_PART_HEAD: list[tuple[str, pa.DataType]] = [
    ("task_id", pa.string()),
    ("row_group", pa.int32()),  # the task's row group in the plan
    ("part_index", pa.int32()),
    ("is_last", pa.bool_()),
    ("already_committed", pa.bool_()),  # the output has the task's file: nothing is left to do
    ("error", pa.string()),  # why the task could not be decoded; of its last part, which has no audio then
    ("decoded", pa.list_(arrow_type(DecodedRecording))),  # recordings whose audio ends in this part
    # The task's rows of RECORDING, as an Arrow stream, so that the plan is read once; null but in the last part.
    ("recordings", pa.large_binary()),
    ("decode_s", pa.float64()),
]

# Output of the decode stage: the PCM16 of some chunks. A task has one part or more.
PART = pa.schema([*_PART_HEAD, ("chunks", pa.list_(CHUNK)), ("pcm", pa.large_binary())])

# Output of the transcribe stage. `hypotheses` has one entry for each of `chunks`, in order; chunks that were only there
# for language detection (`ChunkSpan.detection_only`) are gone.
PART_RESULT = pa.schema(
    [
        *_PART_HEAD,
        ("chunks", pa.list_(CHUNK)),
        ("hypotheses", pa.list_(HYPOTHESIS)),
        ("recognize_s", pa.float64()),
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("actor_rss_mb", pa.float64()),
        ("warnings", pa.list_(pa.string())),  # decisions that the recognizer made automatically, to be logged once
    ]
)

# Output of the write stage, for the driver. A task of several parts gives a row per part; `committed` is true in one
# of them, which also has the counts of recordings. `error` is a failure of the task itself.
COMMIT_RESULT = pa.schema(
    [
        ("task_id", pa.string()),
        ("part_index", pa.int32()),
        ("committed", pa.bool_()),
        ("already_committed", pa.bool_()),
        ("error", pa.string()),
        ("num_recordings", pa.int64()),
        ("num_ok", pa.int64()),
        ("num_doubtful", pa.int64()),
        ("num_empty", pa.int64()),
        ("num_partial", pa.int64()),
        ("num_failed", pa.int64()),
        ("failures_by_kind", pa.map_(pa.string(), pa.int64())),
        ("num_ref_words", pa.int64()),
        ("substitutions", pa.int64()),
        ("deletions", pa.int64()),
        ("insertions", pa.int64()),
        ("audio_s", pa.float64()),  # audio recognized in this part
        ("drafted_audio_s", pa.float64()),  # of which an assistant drafted
        ("drafts_proposed", pa.int64()),  # tokens, in this part
        ("drafts_accepted", pa.int64()),
        ("decode_s", pa.float64()),
        ("recognize_s", pa.float64()),
        ("commit_s", pa.float64()),
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("actor_rss_mb", pa.float64()),
        ("warnings", pa.list_(pa.string())),  # as in PART_RESULT
        ("index_entry", pa.large_binary()),  # of the written file (pipeline/committed_files.py)
    ]
)

# Version of `TRANSCRIPT`, in the metadata of every file of transcripts; files without it have version 1. A release that
# adds fields increases it by one and annotates them with `AddedIn` in `distil_ray.types`. distil_ray/output/reader.py
# fills them with nulls where a file is older.
SCHEMA_VERSION = 5
VERSION_KEY = b"distil_ray.schema_version"
# Dotted path of a field in `TRANSCRIPT` ("chunks.tokens": of each chunk) -> the version that added it.
ADDED_FIELDS = dict(_added_fields(TranscriptRow))

TRANSCRIPT = pa.schema(arrow_fields(TranscriptRow), metadata={VERSION_KEY: str(SCHEMA_VERSION)})


def to_stream_bytes(table: pa.Table) -> bytes:
    """Returns a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_stream_bytes(data: bytes) -> pa.Table:
    """Returns the table of `to_stream_bytes`."""
    return pa.ipc.open_stream(data).read_all()


def transcript_schema(version: int) -> pa.Schema:
    """Returns `TRANSCRIPT` as `version` had it, without the fields that later versions have added."""
    later = {path for path, added in ADDED_FIELDS.items() if added > version}
    return pa.schema(_without(TRANSCRIPT, later, ""), metadata={VERSION_KEY: str(version)})


def _without(columns: Iterable[pa.Field], paths: Collection[str], prefix: str) -> Iterator[pa.Field]:
    """Yields fields of a schema or struct, without those at `paths` at any depth."""
    for one in columns:
        path = f"{prefix}{one.name}"
        if path in paths:
            continue
        kind = one.type
        if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            kind = pa.list_(pa.struct(_without(kind.value_type, paths, f"{path}.")))
        elif pa.types.is_struct(kind):
            kind = pa.struct(_without(kind, paths, f"{path}."))
        yield one.with_type(kind)


def read_schema_version(schema: pa.Schema) -> int:
    """Returns the version of a file of transcripts by its Arrow schema. Raises ValueError if it is not a number."""
    return int((schema.metadata or {}).get(VERSION_KEY, b"1"))


def parse_location(cell: Mapping[str, Any] | None) -> AudioLocation | None:
    """Returns the location in a cell of the column ``location``."""
    return None if cell is None else AudioLocation(**cell)


def parse_prompt(cell: Mapping[str, Any] | None) -> Prompt | None:
    """Returns the prompt in a cell of a plan or of a chunk."""
    return None if cell is None else Prompt(cell["text"], tuple(cell["hotwords"]))


def parse_metadata(row: Mapping[str, Any]) -> dict[str, str]:
    """Returns the column ``metadata`` of a row of `TRANSCRIPT`, without keys that have no value."""
    return {entry["key"]: entry["value"] for entry in row["metadata"] or () if entry["value"] is not None}


def parse_languages(row: Mapping[str, Any]) -> tuple[LanguageShare, ...]:
    """Returns the languages of a row of `TRANSCRIPT`, by falling share; empty where none is known."""
    if row["languages"]:
        return tuple(LanguageShare(**one) for one in row["languages"])
    return (LanguageShare(row["language"], 1.0),) if row["language"] else ()


def parse_chunk_language(row: Mapping[str, Any], chunk: Mapping[str, Any]) -> str | None:
    """Returns the code of the language of a chunk of a row of `TRANSCRIPT`; None where it is not known."""
    language: str | None = chunk["language"] or row["language"]
    return language


def parse_recording(row: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Recording:
    """Returns the recording of a row of `TRANSCRIPT`, or of a table with some of its columns, to read its audio."""
    names = ("uri", "source_size", "source_version", "duration_s", "language", "reference", "call_id")
    known = {name: row[name] for name in names if name in row}
    location = parse_location(row["location"])
    return Recording(row["recording_id"], **known, location=location, metadata=dict(metadata or {}))


def to_parquet_bytes(table: pa.Table) -> bytes:
    """Returns the table as a Parquet file in memory, so that a file is written whole or not at all.

    Pages have checksums of their own: Parquet does not write zstd's, and a flipped bit would change a text.
    """
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


class PythonParquetFile(pq.ParquetFile):  # type: ignore[misc]  # pyarrow has no type hints
    """A Parquet file that is read through a Python file object, in the calling thread alone.

    A thread of Arrow that releases a buffer of Python while the interpreter ends aborts the process (exit code 134),
    which happens in commands that end soon after a read. So columns are read without threads, and nothing is read in
    advance (``pre_buffer``), which Arrow's I/O threads would do.
    """

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns the whole table, or some of its columns."""
        return super().read(columns=columns, use_threads=False)

    def read_row_group(self, i: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns row group `i`, or some of its columns."""
        return super().read_row_group(i, columns=columns, use_threads=False)

    def iter_batches(
        self, batch_size: int, row_groups: Sequence[int] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yields batches of at most `batch_size` rows, of some row groups and columns, or of all."""
        yield from super().iter_batches(batch_size, row_groups=row_groups, columns=columns, use_threads=False)


def open_parquet(
    source: IO[bytes],
    *,
    verify_checksums: bool = False,
    buffer_size: int = 0,
    metadata: pq.FileMetaData | None = None,
) -> PythonParquetFile:
    """Opens a Parquet file that is read through a Python file object.

    Args:
        source: Open file, seekable.
        verify_checksums: Verify the checksums of pages that are read.
        buffer_size: Bytes to read at once; 0: whole column chunks.
        metadata: The file's footer, where it is known.
    """
    return PythonParquetFile(
        source,
        metadata=metadata,
        page_checksum_verification=verify_checksums,
        buffer_size=buffer_size,
        pre_buffer=False,
    )
