"""Redacts transcripts before they are written: masks their texts, and says which seconds of the audio to silence.

`masking` finds what to mask. This module applies it to all texts of a transcript: the text itself, words, segments,
chunks and speakers. Words keep their times. The reference and the metadata of the source are dropped, because anything
may be in them. Ids and URIs stay.
"""

import json
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeVar

from rich.console import Console

from distil_ray.cli.console import format_count, log_field
from distil_ray.errors import SettingsError
from distil_ray.export.masking import Kind, Span, TextMasker, mask_pieces
from distil_ray.export.settings import EMAILS, NAMES, NUMBERS, ExportSettings
from distil_ray.export.transcripts import Transcript
from distil_ray.readers.columns import SPEAKER
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError
from distil_ray.storage.uris import normalize
from distil_ray.types import Segment

SUMMARY_FILE = "redaction.json"  # at the target: counts of what was masked
PADDING_S = 0.1  # silenced before and after masked words, whose times are inexact
KINDS = {NUMBERS: Kind.NUMBER, EMAILS: Kind.EMAIL, NAMES: Kind.NAME}

Timed = TypeVar("Timed", bound=Segment)


@dataclass(slots=True)
class Redactor:
    """Redacts transcripts and counts what it masks.

    Attributes:
        masker: Finds what to mask.
        silences_audio: The export contains audio, which needs word times.
        counts: Masked spans by kind.
        num_recordings: Recordings with a masked span.
        silenced_s: Seconds of audio that are silenced.
    """

    masker: TextMasker
    silences_audio: bool
    counts: Counter[Kind] = field(default_factory=Counter)
    num_recordings: int = 0
    silenced_s: float = 0.0

    def redact(self, transcript: Transcript) -> Transcript:
        """Returns the transcript with everything masked.

        Raises:
            SettingsError: The audio has to be silenced, and the transcript has no word times.
        """
        words = transcript.words or ()
        spans = self.masker.find(transcript.text)
        word_spans = self.masker.find("".join(word.text for word in words))
        silences = self._silences(transcript, word_spans) if self.silences_audio else None
        self.counts.update(span.kind for span in spans)
        self.num_recordings += bool(spans)
        self.silenced_s += sum(end_s - start_s for start_s, end_s in silences or ())
        speakers = self._mask_speakers(transcript)
        separator = transcript.segment_separator
        metadata = transcript.recording.metadata
        return replace(
            transcript,
            recording=replace(
                transcript.recording,
                reference=None,
                metadata={SPEAKER: speakers[metadata[SPEAKER]]} if SPEAKER in metadata else {},
            ),
            text="".join(mask_pieces([transcript.text], spans, "")),
            words=None if transcript.words is None else _masked(words, word_spans, "", speakers),
            segments=None
            if transcript.segments is None
            else self._mask_separated(transcript.segments, separator, speakers),
            chunks=self._mask_separated(transcript.chunks, separator, speakers),
            silences=silences,
        )

    def _mask_separated(
        self, segments: Sequence[Segment], separator: str, speakers: dict[str, str]
    ) -> tuple[Segment, ...]:
        spans = self.masker.find(separator.join(one.text for one in segments))
        return _masked(segments, spans, separator, speakers)

    def _mask_speakers(self, transcript: Transcript) -> dict[str, str]:
        """Returns the label to write for each speaker: with e-mail addresses and names masked, but not numbers.

        Labels that are equal once masked are numbered, so that different speakers stay different.
        """
        found = [transcript.recording.metadata.get(SPEAKER)]
        found += [span.speaker for spans in (transcript.words, transcript.segments) for span in spans or ()]
        labels: dict[str, str] = {}
        uses = Counter[str]()
        for speaker in dict.fromkeys(name for name in found if name is not None):
            spans = [span for span in self.masker.find(speaker) if span.kind != Kind.NUMBER]
            label = "".join(mask_pieces([speaker], spans, ""))
            uses[label] += 1
            labels[speaker] = label if uses[label] == 1 else f"{label} {uses[label]}"
        return labels

    def _silences(self, transcript: Transcript, spans: Sequence[Span]) -> tuple[tuple[float, float], ...]:
        """Returns the seconds to silence: those of each span's words and between them, with padding, in order."""
        words = transcript.words or ()
        if "".join("".join(word.text for word in words).split()) != "".join(transcript.text.split()):
            problem = "has no word times" if not words else "has words that differ from its text"
            raise SettingsError(
                f"redact=…: {transcript.recording_id} {problem}, so that its audio cannot be silenced. Run again with"
                " decoding.timestamps=word (and output.on_settings_change=redo, to replace the transcripts of this"
                " output), or export a format without audio"
            )
        ends = list(accumulate(len(word.text) for word in words))
        merged: list[tuple[float, float]] = []
        for span in spans:
            own = words[bisect_right(ends, span.start) : bisect_left(ends, span.end) + 1]
            start_s = max(min(word.start_s for word in own) - PADDING_S, 0.0)
            end_s = min(max(word.end_s for word in own) + PADDING_S, transcript.duration_s)
            if merged and start_s <= merged[-1][1]:
                start_s, end_s = merged[-1][0], max(merged.pop()[1], end_s)
            merged.append((start_s, end_s))
        return tuple(merged)

    def summary(self) -> bytes:
        """Returns the counts as JSON, for the file `SUMMARY_FILE`."""
        counts = {f"num_{kind}s": self.counts[kind] for kind in Kind}
        content = {**counts, "num_recordings": self.num_recordings, "silenced_s": round(self.silenced_s, 3)}
        return f"{json.dumps(content)}\n".encode()

    def print(self, console: Console) -> None:
        """Prints the counts."""
        counts = ", ".join(format_count(self.counts[kind], kind) for kind in Kind)
        silenced = f"; {self.silenced_s:,.1f} s of audio silenced" if self.silences_audio else ""
        log_field("redacted", f"{counts} in {format_count(self.num_recordings, 'recording')}{silenced}", console)


def make_redactor(settings: ExportSettings, storage: Storage, *, silences_audio: bool) -> Redactor | None:
    """Returns the redactor for the setting ``redact``; None if nothing is to be redacted.

    Raises:
        SettingsError: The file of names cannot be read or has no names.
    """
    if not settings.redact:
        return None
    names = _read_names(settings.names_file, storage) if settings.names_file else []
    kinds = {KINDS[part.partition("=")[0]] for part in settings.redact}
    return Redactor(TextMasker(kinds, names, settings.min_number_words), silences_audio)


def _read_names(uri: str, storage: Storage) -> list[str]:
    try:
        lines = storage.read(normalize(uri)).decode("utf-8-sig").splitlines()
    except (MissingError, UnicodeDecodeError) as error:
        problem = "is not in UTF-8" if isinstance(error, UnicodeDecodeError) else "there is no such file"
        raise SettingsError(f"redact={NAMES}={uri}: {problem}. It must be a text with one name per line") from error
    names = [line.strip() for line in lines if any(map(str.isalnum, line))]
    if not names:
        raise SettingsError(f"redact={NAMES}={uri}: has no names. It must be a text with one name per line")
    return names


def _masked(
    spans: Sequence[Timed], found: Sequence[Span], separator: str, speakers: dict[str, str]
) -> tuple[Timed, ...]:
    texts = mask_pieces([span.text for span in spans], found, separator)
    return tuple(
        replace(span, text=text, speaker=None if span.speaker is None else speakers[span.speaker])
        for span, text in zip(spans, texts, strict=True)
    )
