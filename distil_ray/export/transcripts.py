"""The rows of an output that are to be exported, one a recording, as a stream.

Which row of a recording counts is the ledger's question (output/replacing.py): of several versions the newest. Held in
memory are the ledger (49 bytes a row) and a few rows; only the columns that the form needs are read.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from distil_ray.export.settings import ExportSettings
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_rows import Row, current_rows, read_rows
from distil_ray.output.run_settings import ChannelModes
from distil_ray.readers.channels import audio_segment_for
from distil_ray.schema import parse_metadata, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation, Recording, Segment, Word

BASIC = (
    *("recording_id", "uri", "source_size", "source_version", "location", "status", "error_kind", "duration_s"),
    *(
        "language",
        "text",
        "reference",
        "wer",
        "avg_logprob",
        "unheard_s",
        "quality_flags",
        "metadata",
        "model",
        "fingerprint",
    ),
    "run_id",
)


class NotExportableError(Exception):
    """This recording has no place in the form; the message says why."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A row of the output as far as exports go; `segments` and `words` are None where they were not asked for.

    `recording` is what was transcribed, with the language that was heard; `channels` the `input.channels` of its run.
    Times are its own: of a segment they count from the segment's first sample.
    """

    recording: Recording
    status: str
    duration_s: float
    text: str
    wer: float | None
    avg_logprob: float | None
    unheard_s: float | None
    quality_flags: tuple[str, ...]
    segments: tuple[Segment, ...] | None
    words: tuple[Word, ...] | None
    chunks: tuple[Segment, ...]
    channels: str

    @property
    def recording_id(self) -> str:
        return self.recording.recording_id

    @property
    def location(self) -> AudioLocation:
        return self.recording.location or AudioLocation()

    @property
    def channel(self) -> int | None:
        """The channel of its file that was heard alone; None for all of them."""
        return audio_segment_for(self.recording, self.channels).channel

    @classmethod
    def of(cls, row: Row, channels: str) -> Self:
        """A row of `BASIC` and whatever else was read."""
        return cls(
            recording=parse_recording(row, parse_metadata(row)),
            **{name: row[name] for name in ("status", "wer", "avg_logprob", "unheard_s")},
            duration_s=row["duration_s"] or 0.0,
            text=row["text"] or "",
            quality_flags=tuple(row["quality_flags"] or ()),
            segments=_spans(row.get("segments"), Segment),
            words=_spans(row.get("words"), Word),
            chunks=_spans(row.get("chunks"), Segment) or (),
            channels=channels,
        )


@dataclass(slots=True)
class Selection:
    """The transcripts that an export is about. What it leaves out is counted by reason while they are read."""

    ledger: Ledger
    settings: ExportSettings
    heard: ChannelModes
    storage: Storage
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def num_recordings(self) -> int:
        """Of the whole output."""
        return len(np.unique(self.ledger.ids))

    def read(self, columns: Sequence[str]) -> Iterator[Transcript]:
        """In the order of the files. Raises `RunError` for a file that has changed since the ledger was read."""
        for row in read_rows(self.ledger, current_rows(self.ledger), [*BASIC, *columns], self.storage):
            if reason := self._reason_against(row):
                self.left_out[reason] += 1
            else:
                yield Transcript.of(row, self.heard.of_run(row["run_id"]))

    def _reason_against(self, row: Row) -> str | None:
        if row["status"] not in self.settings.status:
            return f"status {row['status']}"
        for column, value in self.settings.conditions:
            found = row[column] if column in row else parse_metadata(row).get(column)
            if value not in found if isinstance(found, list) else value != str(found):
                return f"not {column}:{value}"
        return None


def _spans(rows: Sequence[Row] | None, make: type[Any]) -> Any:
    return None if rows is None else tuple(make(**row) for row in rows)
