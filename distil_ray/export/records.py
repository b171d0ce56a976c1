"""JSON records of transcripts, shared by the formats that write manifests.

A transcript is stored under `text`, which readers take for the reference. The reference that it was scored against is
another text and is stored as `source_reference`. Metadata are stored under their own names; a name that has a meaning
to a reader gets the prefix `metadata_`.
"""

import json
from dataclasses import asdict
from typing import Any

from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.readers.columns import COLUMNS
from distil_ray.types import Segment

Record = dict[str, Any]

READER_COLUMNS = frozenset(
    name for names in COLUMNS.values() for name in names
)  # names that a manifest reader interprets


def require_file(transcript: Transcript) -> None:
    """Raises `NotExportableError` unless a manifest line can name the audio by the URI of its file."""
    if not transcript.duration_s:
        raise NotExportableError("has no audio (duration 0), which training programs reject")
    if transcript.location.member is not None:
        raise NotExportableError("in an archive or table, which this format cannot name; format=webdataset can")


def full_record(transcript: Transcript) -> Record:
    """Returns every known field of a transcript; times are in seconds."""
    recording = transcript.recording
    record = {
        "recording_id": transcript.recording_id,
        "uri": recording.uri,
        "location": recording.location
        and {key: cell for key, cell in asdict(recording.location).items() if cell is not None},
        "call_id": recording.call_id,
        "duration_s": transcript.duration_s,
        "language": recording.language,
        "languages": [asdict(one) for one in transcript.languages] if len(transcript.languages) > 1 else None,
        "text": transcript.text,
        "status": transcript.status,
        "source_reference": recording.reference,
        "wer": transcript.wer,
        "avg_logprob": transcript.avg_logprob,
        "unheard_s": transcript.unheard_s,
        "quality_flags": transcript.quality_flags or None,
        "segments": transcript.segments and [span_record(span) for span in transcript.segments],
        "words": transcript.words and [span_record(word) for word in transcript.words],
    }
    return with_metadata(record, transcript)


def span_record(span: Segment) -> Record:
    """Returns the fields of a segment or word, without a speaker that is not known."""
    return {name: value for name, value in asdict(span).items() if value is not None}


def with_metadata(record: Record, transcript: Transcript) -> Record:
    """Returns the record without null values, followed by the metadata."""
    full = dict(record)
    for key, value in transcript.recording.metadata.items():
        name = key
        while name in full or name in READER_COLUMNS:
            name = f"metadata_{name}"
        full[name] = value
    return {name: value for name, value in full.items() if value is not None}


def to_json_line(record: Record) -> str:
    """Returns the record as a line of JSON."""
    return json.dumps(record, ensure_ascii=False) + "\n"
