"""`Selection`, the stream of transcripts that an export writes, and `Transcript`, one of them.

Of several rows of a recording the newest is exported (`output.ledger_rows.current_rows`). In memory are the ledger (49
bytes per row) and a few rows; only the columns that the format needs are read.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa

from distil_ray.cli.console import abbreviate
from distil_ray.config.loader import nearest_keys
from distil_ray.errors import SettingsError
from distil_ray.export.settings import Condition, ExportSettings
from distil_ray.languages import is_unsegmented
from distil_ray.output.ledger import Ledger
from distil_ray.output.ledger_rows import Row, current_rows, read_rows
from distil_ray.output.run_settings import ChannelModes
from distil_ray.readers.channels import audio_segment_for
from distil_ray.schema import TRANSCRIPT, parse_languages, parse_metadata, parse_recording
from distil_ray.storage.storage import Storage
from distil_ray.types import AudioLocation, LanguageShare, Recording, Segment, Word

BASE_COLUMNS = (
    *("recording_id", "uri", "source_size", "source_version", "location", "call_id", "status", "error_kind"),
    *(
        "duration_s",
        "language",
        "languages",
        "text",
        "reference",
        "wer",
        "avg_logprob",
        "unheard_s",
        "quality_flags",
        "metadata",
    ),
    *("model", "fingerprint", "run_id"),
)

# Columns that conditions compare: those with one value per recording, the flags, and the codes of the languages.
COMPARED = frozenset(one.name for one in TRANSCRIPT if not pa.types.is_nested(one.type)) | {
    "languages",
    "quality_flags",
}


class NotExportableError(Exception):
    """A recording cannot be exported in this format; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """A row of the output, with the fields that exports use.

    Times are in seconds from the first sample of the recording, also where the recording is a segment of a file.
    `recording` has the language of the transcript, `languages` has all of them; `segments` and `words` are None if
    their columns were not read; `channels` is the `input.channels` of the run; `silences` are seconds to be replaced by
    silence in exported audio, None where it is exported as it is.
    """

    recording: Recording
    status: str
    duration_s: float
    languages: tuple[LanguageShare, ...]
    text: str
    wer: float | None
    avg_logprob: float | None
    unheard_s: float | None
    quality_flags: tuple[str, ...]
    segments: tuple[Segment, ...] | None
    words: tuple[Word, ...] | None
    chunks: tuple[Segment, ...]
    channels: str
    silences: tuple[tuple[float, float], ...] | None = None

    @property
    def export_id(self) -> str:
        """The id that the file of the recording is named after."""
        return self.recording_id

    @property
    def num_recordings(self) -> int:
        """1; a call has several."""
        return 1

    @property
    def audio_s(self) -> float:
        """Seconds of audio."""
        return self.duration_s

    @property
    def segment_separator(self) -> str:
        """The separator of the texts of segments: a space, or nothing in languages that write none."""
        return "" if self.languages and all(is_unsegmented(one.language) for one in self.languages) else " "

    @property
    def recording_id(self) -> str:
        """The id of the recording."""
        return self.recording.recording_id

    @property
    def location(self) -> AudioLocation:
        """The location of the audio within its file."""
        return self.recording.location or AudioLocation()

    @property
    def channel(self) -> int | None:
        """The channel of its file that was transcribed alone; None for the mix of all channels."""
        return audio_segment_for(self.recording, self.channels).channel

    @classmethod
    def from_row(cls, row: Row, channels: str) -> Self:
        """Builds a transcript from a row with `BASE_COLUMNS` and any other columns."""
        return cls(
            recording=parse_recording(row, parse_metadata(row)),
            **{name: row[name] for name in ("status", "wer", "avg_logprob", "unheard_s")},
            duration_s=row["duration_s"] or 0.0,
            languages=parse_languages(row),
            text=row["text"] or "",
            quality_flags=tuple(row["quality_flags"] or ()),
            segments=_spans(row.get("segments"), Segment),
            words=_spans(row.get("words"), Word),
            chunks=_spans(row.get("chunks"), Segment) or (),
            channels=channels,
        )


@dataclass(slots=True)
class Selection:
    """The transcripts to export. Those left out are counted by reason while they are read.

    `redact` is applied to every transcript.
    """

    ledger: Ledger
    settings: ExportSettings
    channel_modes: ChannelModes
    storage: Storage
    redact: Callable[[Transcript], Transcript] = lambda transcript: transcript
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def num_recordings(self) -> int:
        """Number of recordings in the whole output."""
        return len(np.unique(self.ledger.ids))

    def require_known_columns(self) -> None:
        """Raises `SettingsError` for a condition on a name that is no column of the output and in no metadata.

        Rows are read only for conditions on metadata, and only until each of their keys was found.
        """
        wanted = [one for one in self.settings.conditions if one.column not in COMPARED]
        keys: set[str] = set()
        for row in self._rows(["recording_id", "metadata"]) if wanted else ():
            keys.update(parse_metadata(row))
            wanted = [one for one in wanted if one.column not in keys]
            if not wanted:
                return
        for condition in wanted:
            raise _unknown_column_error(condition, keys)

    def read(self, columns: Sequence[str]) -> Iterator[Transcript]:
        """Yields the transcripts in the order of the files.

        Raises:
            RunError: A file has changed since the ledger was read.
        """
        return (transcript for _, transcript in self.read_all(columns) if transcript is not None)

    def read_all(self, columns: Sequence[str]) -> Iterator[tuple[str | None, Transcript | None]]:
        """Yields the call id and the transcript of every current row; no transcript where it is left out."""
        for row in self._rows(list(dict.fromkeys([*BASE_COLUMNS, *columns, *self._condition_columns()]))):
            if reason := self._reason_to_leave_out(row):
                self.left_out[reason] += 1
                yield row["call_id"], None
            else:
                transcript = Transcript.from_row(row, self.channel_modes.of_run(row["run_id"]))
                yield row["call_id"], self.redact(transcript)

    def read_call_ids(self) -> Iterator[str | None]:
        """Yields the call id of every current row."""
        return (row["call_id"] for row in self._rows(["recording_id", "call_id"]))

    def _condition_columns(self) -> list[str]:
        """Returns the columns of the output that conditions name; other names are keys of the metadata."""
        return [condition.column for condition in self.settings.conditions if condition.column in COMPARED]

    def _rows(self, columns: list[str]) -> Iterator[Row]:
        return read_rows(self.ledger, current_rows(self.ledger), columns, self.storage)

    def _reason_to_leave_out(self, row: Row) -> str | None:
        if row["status"] not in self.settings.status:
            return f"status {row['status']}"
        for condition in self.settings.conditions:
            if not condition.holds(_compared_value(row, condition.column)):
                return f"not {condition}"
        return None


def _compared_value(row: Row, column: str) -> object:
    """Returns what a row has in a column of `COMPARED`, or else under a key of its metadata."""
    if column == "languages":
        return [one.language for one in parse_languages(row)]
    return row[column] if column in COMPARED else parse_metadata(row).get(column)


def _unknown_column_error(condition: Condition, keys: Collection[str]) -> SettingsError:
    """Returns the error for a condition on a column that cannot be compared or is unknown; `keys`: of all metadata."""
    column = condition.column
    if column in TRANSCRIPT.names:
        return SettingsError(f"where={condition}: the column {column} has several values, which cannot be compared")
    near = nearest_keys(column, [*sorted(keys), *sorted(COMPARED)], cutoff=0.5)
    known = abbreviate(sorted(keys), len(keys)) or "none"
    hint = f"Did you mean {near[0]}?" if near else f"Keys of the metadata: {known}"
    return SettingsError(
        f"where={condition}: {column} is neither a column of the output nor a key of its metadata. {hint}"
    )


def _spans(rows: Sequence[Row] | None, make: type[Any]) -> Any:
    return None if rows is None else tuple(make(**row) for row in rows)
