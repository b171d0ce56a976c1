"""The tables: what travels between the stages and what is written, as Arrow schemas.

The way of the data: `PLAN` (a recording and its task) -> `PART` (PCM cut into chunks) -> `RESULT` (hypotheses instead
of PCM) -> `TRANSCRIPT` (one row a recording, the output) and `COMMIT_RESULT` (counts that reach the driver).
Time is kept in samples at `SAMPLE_RATE` everywhere but in `TRANSCRIPT`, whose times are seconds.
"""

import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SAMPLE_RATE = 16_000  # Hz; what Whisper hears, and the unit of every time between the stages
BYTES_PER_SAMPLE = 2  # PCM16

EDITS = ("substitutions", "deletions", "insertions")  # columns of a row's score, in words
WORD_COUNTS = ("num_ref_words", *EDITS)


class Status(StrEnum):
    """Column ``status``: how a recording ended."""

    OK = "ok"  # decoded to its end, with words
    EMPTY = "empty"  # decoded to its end, no words in it
    PARTIAL = "partial"  # some of its audio could not be had; the rest was transcribed
    FAILED = "failed"  # none of its audio could be transcribed


@dataclass(frozen=True, slots=True)
class Place:
    """Which part of the file at its URI a recording is; what is None does not narrow it.

    Of the bytes: ``member`` is an archive's member, or a table's column; ``byte_start`` and ``num_bytes`` are where the
    member lies in an archive that is not compressed; ``row_group`` and ``row`` (in the group, from 0) say which cell of
    the column. Of the sound: ``start_s`` and ``length_s`` are a segment in seconds, ``channel`` one of several, from 0.
    """

    member: str | None = None
    byte_start: int | None = None
    num_bytes: int | None = None
    row_group: int | None = None
    row: int | None = None
    start_s: float | None = None
    length_s: float | None = None
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """One thing to transcribe, as a source lists it.

    ``source_version`` is the store's etag, else the modification time; with ``source_size`` it tells a changed file
    from a known one. ``place`` is None where the recording is the whole file. ``duration_s`` is what the source claims,
    null if it says nothing. ``metadata`` holds every further column of the source (``speaker`` among them), as strings.
    Where ``error`` is set, the source knows already that the recording cannot be had, and why (``error_kind``, an
    `ErrorKind`): it is listed to be accounted for, is not read, and ends as a failed row.
    """

    recording_id: str
    uri: str
    source_size: int | None = None
    source_version: str | None = None
    place: Place | None = None
    duration_s: float | None = None
    language: str | None = None
    reference: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    error_kind: str | None = None
    error: str | None = None


def place_of(row: Mapping[str, Any] | None) -> Place | None:
    """A `Place` from a cell of the column ``place``."""
    return None if row is None else Place(**row)


def recording_of(row: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Recording:
    """What a row of `TRANSCRIPT`, or of a table with some of its columns, tells of its recording: to read it again."""
    names = ("uri", "source_size", "source_version", "duration_s", "language", "reference")
    known = {name: row[name] for name in names if name in row}
    return Recording(row["recording_id"], **known, place=place_of(row["place"]), metadata=dict(metadata or {}))


def metadata_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The column ``metadata`` of a row of `TRANSCRIPT`, without keys that have no value."""
    return {entry["key"]: entry["value"] for entry in row["metadata"] or () if entry["value"] is not None}


def parquet_bytes(table: pa.Table) -> bytes:
    """The table as a Parquet file in memory: it is written whole or not at all. Pages have checksums: zstd's are not
    written by Parquet, and a flipped bit would be another text."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


METADATA = pa.map_(pa.string(), pa.string())
METADATA_ENTRIES = pa.list_(pa.struct([pa.field("key", pa.string(), nullable=False), ("value", pa.string())]))

PLACE = pa.struct(
    [
        ("member", pa.string()),
        ("byte_start", pa.int64()),
        ("num_bytes", pa.int64()),
        ("row_group", pa.int32()),
        ("row", pa.int32()),
        ("start_s", pa.float64()),
        ("length_s", pa.float64()),
        ("channel", pa.int32()),
    ]
)

RECORDING = pa.schema(
    [
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("source_size", pa.int64()),
        ("source_version", pa.string()),
        ("place", PLACE),
        ("duration_s", pa.float64()),
        ("language", pa.string()),
        ("reference", pa.string()),
        ("metadata", METADATA),
        ("error_kind", pa.string()),
        ("error", pa.string()),
    ]
)

# One row a recording, one row group a task, in the order of work. `estimated_s` is `duration_s` or a guess by size.
PLAN = pa.schema([("task_id", pa.string()), ("estimated_s", pa.float64()), *RECORDING])

# Where a task stands in the plan. `secret_uris`: by row of the task, URIs whose credentials are not in the plan.
POINTER = pa.schema(
    [("task_id", pa.string()), ("row_group", pa.int32()), ("secret_uris", pa.map_(pa.int32(), pa.string()))]
)

# A slice of a part's PCM. `recording` is the recording's row in its task; `start` is the chunk's first sample on the
# recording's time line, `offset` its first sample in the part's PCM. `stride_left` and `stride_right` count the
# samples shared with the neighbors (zero with `quiet`). `language` is null where it has to be detected: the chunks of
# the recording that have `votes` decide. A `probe` is a voter from an earlier part: heard, but not transcribed here.
CHUNK = pa.struct(
    [
        ("recording", pa.int32()),
        ("index", pa.int32()),
        ("start", pa.int64()),
        ("offset", pa.int64()),
        ("num_samples", pa.int64()),
        ("stride_left", pa.int64()),
        ("stride_right", pa.int64()),
        ("language", pa.string()),
        ("votes", pa.bool_()),
        ("probe", pa.bool_()),
    ]
)

# How the decoding of one recording ended; stands in the part in which it ended.
DECODED = pa.struct(
    [
        ("recording", pa.int32()),
        ("num_samples", pa.int64()),
        ("num_chunks", pa.int32()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("quality_flags", pa.list_(pa.string())),
    ]
)

_PART_HEAD: list[tuple[str, pa.DataType]] = [
    ("task_id", pa.string()),
    ("row_group", pa.int32()),  # the task's row group in the plan
    ("part_index", pa.int32()),
    ("is_last", pa.bool_()),
    ("already_committed", pa.bool_()),  # the task stands in the output: nothing to do but say so
    ("decoded", pa.list_(DECODED)),
    ("decode_s", pa.float64()),
]

PART = pa.schema([*_PART_HEAD, ("chunks", pa.list_(CHUNK)), ("pcm", pa.large_binary())])

SPAN = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])
WORD = pa.struct([*SPAN, ("probability", pa.float64())])
# Of each token: where it ends, in encoder positions (20 ms) from the chunk's first sample; its probability; the first
# sample of the word that begins with it, the one after the last of the word that ends with it.
ALIGNMENT = pa.struct(
    [
        ("ends", pa.list_(pa.int32())),
        ("probabilities", pa.list_(pa.float32())),
        ("word_starts", pa.list_(pa.int32())),
        ("word_ends", pa.list_(pa.int32())),
    ]
)

# What the recognizer heard in one chunk (recognition/recognizer.py: Hypothesis), times relative to the chunk.
HYPOTHESIS = pa.struct(
    [
        ("text", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("segments", pa.list_(SPAN)),
        ("words", pa.list_(WORD)),
        ("alignment", ALIGNMENT),
        ("language", pa.string()),
        ("language_prob", pa.float64()),
        ("avg_logprob", pa.float64()),
        ("no_speech_prob", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("temperature", pa.float64()),
        ("window_s", pa.float64()),
        ("quality_flags", pa.list_(pa.string())),
        ("drafts_proposed", pa.int32()),
        ("drafts_accepted", pa.int32()),
        # Speech between the end of the text and the end of the chunk, or of what the next one does not cover where they
        # overlap; null where it is unknown.
        ("unheard_s", pa.float64()),
        ("error", pa.string()),
        ("error_kind", pa.string()),
    ]
)

# `hypotheses` has one entry for every chunk of `chunks`, in its order; probes are gone.
RESULT = pa.schema(
    [
        *_PART_HEAD,
        ("chunks", pa.list_(CHUNK)),
        ("hypotheses", pa.list_(HYPOTHESIS)),
        ("recognize_s", pa.float64()),
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("actor_rss_mb", pa.float64()),
        ("warnings", pa.list_(pa.string())),  # what the actor decided by itself, and why; told once
    ]
)

# A chunk in the output: a hypothesis on the recording's time line.
TRANSCRIPT_CHUNK = pa.struct(
    [
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("avg_logprob", pa.float64()),
        ("no_speech_prob", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("temperature", pa.float64()),
        ("window_s", pa.float64()),
        ("unheard_s", pa.float64()),
        ("quality_flags", pa.list_(pa.string())),
        ("tokens", pa.list_(pa.int32())),
    ]
)

# Version of `TRANSCRIPT`, in the metadata of every file of transcripts; files without it have version 1. A change that
# adds fields counts it up once a release and names them in `ADDED_FIELDS`; output/reader.py fills them with nulls where
# a file is older.
SCHEMA_VERSION = 2
VERSION_KEY = b"distil_ray.schema_version"
# Dotted path of a field in `TRANSCRIPT` ("chunks.tokens": of each chunk) -> the version that added it.
ADDED_FIELDS = {"unheard_s": 2, "chunks.unheard_s": 2}

# `metadata` is a list of key and value where Arrow has maps: `datasets` cannot read those.
# `normalizer` is name and version of what made the normalized texts. The unit of num_ref_words, S, D, I and `wer` is
# the word, or the character where the language writes no spaces (ja, zh, th ...); `cer` always counts characters.
TRANSCRIPT = pa.schema(
    [
        ("recording_id", pa.string()),
        ("uri", pa.string()),
        ("source_size", pa.int64()),
        ("source_version", pa.string()),
        ("place", PLACE),
        ("status", pa.string()),
        ("error_kind", pa.string()),
        ("error", pa.string()),
        ("duration_s", pa.float64()),
        ("language", pa.string()),
        ("language_prob", pa.float64()),
        ("text", pa.string()),
        ("text_normalized", pa.string()),
        ("reference", pa.string()),
        ("reference_normalized", pa.string()),
        ("num_ref_words", pa.int64()),
        ("substitutions", pa.int64()),
        ("deletions", pa.int64()),
        ("insertions", pa.int64()),
        ("wer", pa.float64()),
        ("num_ref_chars", pa.int64()),
        ("char_edits", pa.int64()),
        ("cer", pa.float64()),
        ("normalizer", pa.string()),
        ("chunks", pa.list_(TRANSCRIPT_CHUNK)),
        ("segments", pa.list_(SPAN)),
        ("words", pa.list_(WORD)),
        ("avg_logprob", pa.float64()),
        ("no_speech_prob", pa.float64()),
        ("compression_ratio", pa.float64()),
        ("chars_per_s", pa.float64()),
        ("unheard_s", pa.float64()),  # the sum of the chunks'; null where it is not known of any
        ("quality_flags", pa.list_(pa.string())),
        ("acceptance_rate", pa.float64()),
        ("metadata", METADATA_ENTRIES),
        ("model", pa.string()),
        ("fingerprint", pa.string()),
        ("run_id", pa.string()),
        ("processed_at", pa.timestamp("us", tz="UTC")),
    ],
    metadata={VERSION_KEY: str(SCHEMA_VERSION)},
)


def transcript_schema(version: int) -> pa.Schema:
    """Returns `TRANSCRIPT` as `version` had it, without the fields that later versions have added."""
    later = {path for path, added in ADDED_FIELDS.items() if added > version}
    return pa.schema(_without(TRANSCRIPT, later, ""), metadata={VERSION_KEY: str(version)})


def _without(fields: Iterable[pa.Field], paths: Collection[str], prefix: str) -> Iterator[pa.Field]:
    """Yields fields of a schema or struct, without those at `paths` at any depth."""
    for one in fields:
        path = f"{prefix}{one.name}"
        if path in paths:
            continue
        kind = one.type
        if pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):
            kind = pa.list_(pa.struct(_without(kind.value_type, paths, f"{path}.")))
        elif pa.types.is_struct(kind):
            kind = pa.struct(_without(kind, paths, f"{path}."))
        yield one.with_type(kind)


def version_of(schema: pa.Schema) -> int:
    """Returns the version of a file of transcripts by its Arrow schema. Raises ValueError for one that is no number."""
    return int((schema.metadata or {}).get(VERSION_KEY, b"1"))


# What a commit tells the driver. A task of several parts gives a receipt a part; `committed` is true in one of them,
# and the counts of recordings stand in that one. `error` says what went wrong with the task itself.
COMMIT_RESULT = pa.schema(
    [
        ("task_id", pa.string()),
        ("part_index", pa.int32()),
        ("committed", pa.bool_()),
        ("already_committed", pa.bool_()),
        ("error", pa.string()),
        ("num_recordings", pa.int64()),
        ("num_ok", pa.int64()),
        ("num_empty", pa.int64()),
        ("num_partial", pa.int64()),
        ("num_failed", pa.int64()),
        ("failures_by_kind", pa.map_(pa.string(), pa.int64())),
        ("num_ref_words", pa.int64()),
        ("substitutions", pa.int64()),
        ("deletions", pa.int64()),
        ("insertions", pa.int64()),
        ("audio_s", pa.float64()),  # audio recognized in this part
        ("decode_s", pa.float64()),
        ("recognize_s", pa.float64()),
        ("commit_s", pa.float64()),
        ("device", pa.string()),
        ("dtype", pa.string()),
        ("actor_rss_mb", pa.float64()),
        ("warnings", pa.list_(pa.string())),  # what the actor decided by itself, and why; told once
    ]
)
