"""Transcripts as text, and as lines of JSON: this project's own manifest, and NeMo's; these are inputs, too.

A transcript stands as `text`, which readers take for the reference; the reference it was scored against, which is
another text, is kept as `source_reference`. Metadata stand beside, under their own names; a name that already means
something gets `metadata_` before it.
"""

import json
from dataclasses import asdict
from typing import Any

from distil_ray.export.audio import Headers
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.readers.columns import COLUMNS
from distil_ray.storage.storage import Storage

Record = dict[str, Any]

MEANT = frozenset(name for names in COLUMNS.values() for name in names)  # what a manifest's reader understands


def jsonl(transcript: Transcript) -> str:
    """Everything that is known of a recording; times in seconds."""
    return as_line(full_record(transcript))


def txt(transcript: Transcript) -> str:
    """The text alone."""
    return transcript.text + "\n"


class NemoLines:
    """Makes the lines of a NeMo manifest; looks at a file's header where one of its channels was heard alone."""

    def __init__(self, storage: Storage) -> None:
        self._headers = Headers(storage)

    def __call__(self, transcript: Transcript) -> str:
        """Raises `NotExportableError` for what no line can name."""
        require_file(transcript)
        if transcript.location.channel is not None or self._is_one_of_several(transcript):
            raise NotExportableError("one channel of a file, which a NeMo manifest cannot name; format=lhotse can")
        return _nemo(transcript)

    def _is_one_of_several(self, transcript: Transcript) -> bool:
        return transcript.channel is not None and self._headers.of(transcript.recording.uri).num_channels > 1


def _nemo(transcript: Transcript) -> str:
    record = {
        "audio_filepath": transcript.recording.uri,
        "offset": transcript.location.start_s,
        "duration": transcript.duration_s,
        "text": transcript.text,
        "lang": transcript.recording.language,
        "id": transcript.recording_id,
    }
    return as_line(with_metadata(record, transcript))


def require_file(transcript: Transcript) -> None:
    """Raises `NotExportableError` unless the recording is sound of a file that a line can name by its URI."""
    if not transcript.duration_s:
        raise NotExportableError("no audio in it, which trainers stop at")
    if transcript.location.member is not None:
        raise NotExportableError("in an archive or table, which this form cannot name; format=webdataset can")


def full_record(transcript: Transcript) -> Record:
    recording = transcript.recording
    record = {
        "recording_id": transcript.recording_id,
        "uri": recording.uri,
        "location": recording.location
        and {key: cell for key, cell in asdict(recording.location).items() if cell is not None},
        "duration_s": transcript.duration_s,
        "language": recording.language,
        "text": transcript.text,
        "status": transcript.status,
        "source_reference": recording.reference,
        "wer": transcript.wer,
        "avg_logprob": transcript.avg_logprob,
        "unheard_s": transcript.unheard_s,
        "quality_flags": transcript.quality_flags or None,
        "segments": transcript.segments and [asdict(span) for span in transcript.segments],
        "words": transcript.words and [asdict(word) for word in transcript.words],
    }
    return with_metadata(record, transcript)


def with_metadata(record: Record, transcript: Transcript) -> Record:
    """The record without what is null, and the metadata behind it."""
    full = dict(record)
    for key, value in transcript.recording.metadata.items():
        name = key
        while name in full or name in MEANT:
            name = f"metadata_{name}"
        full[name] = value
    return {name: value for name, value in full.items() if value is not None}


def as_line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
