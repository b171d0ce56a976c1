"""Calls: recordings that belong together, exported as one file with the turns of all speakers (``group=call``).

A call is the recordings that share a `call_id`, such as the channels of a file. A recording without one is a call by
itself, whose speakers may come from an RTTM file. Times of a call count from the earliest start of its recordings in
their files; for the channels of a whole file that is its first sample. `turns` joins words to turns; this module makes
calls of rows, names their speakers, and renders them for the formats.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distil_ray.errors import RunError, SettingsError
from distil_ray.export.cues import Cue, CueSettings, Passage, build_cues
from distil_ray.export.records import span_record, to_json_line
from distil_ray.export.subtitles import INCOMPLETE, make_up, one_line, require_word_times, time_words
from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.export.turns import Phrase, Turn, build_turns, split_phrases
from distil_ray.readers.columns import SPEAKER
from distil_ray.types import Segment

CALL_COLUMNS = ("segments", "words")


@dataclass(frozen=True, slots=True)
class Call:
    """The transcripts of one call.

    Attributes:
        call_id: The `call_id` of the recordings; for a recording without one, its id.
        transcripts: In the order of their channels, then of their ids.
        num_left_out: Recordings of the call that failed or were not selected.
        max_pause_s: Longest pause within a turn.
    """

    call_id: str
    transcripts: tuple[Transcript, ...]
    num_left_out: int
    max_pause_s: float

    @property
    def export_id(self) -> str:
        """The id that the file of the call is named after."""
        return self.call_id

    @property
    def num_recordings(self) -> int:
        """Number of recordings that are exported."""
        return len(self.transcripts)

    @property
    def audio_s(self) -> float:
        """Seconds of audio of all recordings."""
        return sum(transcript.duration_s for transcript in self.transcripts)

    @property
    def offsets_s(self) -> list[float]:
        """Start of each recording in the call, in seconds."""
        starts = [transcript.location.start_s or 0.0 for transcript in self.transcripts]
        return [start - min(starts) for start in starts]

    @property
    def duration_s(self) -> float:
        """Seconds from the start of the first recording to the end of the last."""
        return max(offset + one.duration_s for offset, one in zip(self.offsets_s, self.transcripts, strict=True))

    @property
    def speakers(self) -> list[str | None]:
        """The speaker of each recording: its metadata, else its channel; None for a recording that is a call by itself.

        A speaker that several recordings share is replaced by their channels, or by their ids.
        """
        named = [transcript.recording.metadata.get(SPEAKER) for transcript in self.transcripts]
        if len(named) == 1 and self.transcripts[0].location.channel is None:
            return named
        return [
            name if name is not None and named.count(name) == 1 else _default_speaker(transcript)
            for name, transcript in zip(named, self.transcripts, strict=True)
        ]

    def build_turns(self) -> list[Turn]:
        """Returns the turns of all speakers, ordered by start.

        Raises:
            SettingsError: A transcript has neither words nor segments.
            RunError: A transcript has a text, and its words or segments have none.
            NotExportableError: The words and the segments of a transcript lack a part of its text.
        """
        phrases: list[Phrase] = []
        for number, transcript in enumerate(self.transcripts):
            segments, words = _timed_spans(transcript, self.offsets_s[number])
            if not make_up(words, transcript.text):
                words = []
            own = split_phrases(number, segments, words, self.speakers[number])
            if one_line(transcript.text) and not any(one_line(span.text) for one in own for span in one.spans):
                raise RunError(
                    f"group=call: {transcript.recording_id} has a text, but its words or segments have none of it."
                    " Remove its row from the output and transcribe it again"
                )
            if not make_up([span for one in own for span in one.spans], transcript.text):
                raise NotExportableError(INCOMPLETE)
            phrases += own
        return build_turns(phrases, self.max_pause_s)

    def turn_text(self, turn: Turn) -> str:
        """Returns the text of a turn as one line."""
        if turn.has_words:
            return one_line("".join(span.text for span in turn.spans))
        separator = self.transcripts[turn.recording].segment_separator
        return one_line(separator.join(text for span in turn.spans if (text := span.text.strip())))


def group_calls(
    rows: Iterable[tuple[str | None, Transcript | None]], call_ids: Iterable[str | None], max_pause_s: float
) -> Iterator[Call]:
    """Yields calls, each when its last row has come. Calls of which no recording is exported are left out.

    Args:
        rows: Call id and transcript of every current row of the output; no transcript where it is left out.
        call_ids: The call ids of the same rows, in any order. They say how many rows a call has; eight bytes are held
            for each.
        max_pause_s: Longest pause within a turn.
    """
    hashes = np.fromiter((hash(one) for one in call_ids if one is not None), np.int64)
    known, counts = np.unique(hashes, return_counts=True)
    waiting: dict[str, list[Transcript | None]] = {}
    for call_id, transcript in rows:
        if call_id is None:
            if transcript is not None:
                yield Call(transcript.recording_id, (transcript,), 0, max_pause_s)
            continue
        own = waiting.setdefault(call_id, [])
        own.append(transcript)
        if len(own) >= counts[np.searchsorted(known, hash(call_id))]:
            yield from _make_call(call_id, waiting.pop(call_id), max_pause_s)
    for call_id, own in waiting.items():  # calls whose ids have the same hash
        yield from _make_call(call_id, own, max_pause_s)


def render_call_text(call: Call) -> str:
    """Returns a line per turn, with the speaker before it."""
    return "".join(f"{line}\n" for turn in call.build_turns() if (line := _with_speaker(turn, call.turn_text(turn))))


def render_call_record(call: Call) -> str:
    """Returns the call as a line of JSON: its recordings and its turns; times are seconds of the call."""
    turns = call.build_turns()
    speakers = dict.fromkeys(turn.speaker for turn in turns if turn.speaker is not None)
    return to_json_line(
        {
            "call_id": call.call_id,
            "duration_s": call.duration_s,
            "speakers": list(speakers),
            "num_recordings_left_out": call.num_left_out,
            "recordings": [
                _recording_record(transcript, offset_s, speaker)
                for transcript, offset_s, speaker in zip(call.transcripts, call.offsets_s, call.speakers, strict=True)
            ],
            "turns": [record for turn in turns if (record := _turn_record(call, turn))["text"]],
        }
    )


def build_call_cues(call: Call, settings: CueSettings, step: int = 1) -> list[Cue]:
    """Returns the subtitle cues of a call with their speakers, ordered by start; for `step` see `build_cues`.

    Cues of different recordings may overlap.

    Raises:
        SettingsError: A transcript has no times, or words are to be highlighted and it has no word times.
    """
    passages: list[list[Passage]] = [[] for _ in call.transcripts]
    for turn in call.build_turns():
        if settings.highlight_words and not turn.has_words:
            require_word_times(call.transcripts[turn.recording])
        passages[turn.recording] += [Passage(time_words(phrase.spans), turn.speaker) for phrase in turn.phrases]
    cues: list[Cue] = []
    for own, offset_s, transcript in zip(passages, call.offsets_s, call.transcripts, strict=True):
        cues += build_cues(own, settings, int((offset_s + transcript.duration_s) * 1000), step)
    return sorted(cues, key=lambda cue: cue.start)


def _make_call(call_id: str, found: Sequence[Transcript | None], max_pause_s: float) -> Iterator[Call]:
    kept = [transcript for transcript in found if transcript is not None]
    kept.sort(key=lambda one: (one.location.channel is None, one.location.channel, one.recording_id))
    if kept:
        yield Call(call_id, tuple(kept), len(found) - len(kept), max_pause_s)


def _default_speaker(transcript: Transcript) -> str:
    channel = transcript.location.channel
    return transcript.recording_id if channel is None else f"channel {channel}"


def _timed_spans(transcript: Transcript, offset_s: float) -> tuple[list[Segment], list[Segment]]:
    """Returns the segments and words with times of the call."""
    if transcript.text and not transcript.segments and not transcript.words:
        raise SettingsError(
            f"group=call: {transcript.recording_id} has no times. Run again with decoding.timestamps=segment or word"
            " (and output.on_settings_change=redo, to replace the transcripts of this output)"
        )
    segments, words = (
        [replace(span, start_s=span.start_s + offset_s, end_s=span.end_s + offset_s) for span in spans or ()]
        for spans in (transcript.segments, transcript.words)
    )
    return segments, words


def _with_speaker(turn: Turn, text: str) -> str:
    return add_speaker(turn.speaker, text) if text else ""


def add_speaker(speaker: str | None, text: str) -> str:
    """Returns the text with its speaker and a colon before it; unchanged where the speaker is not known."""
    return text if speaker is None else f"{one_line(speaker)}: {text}"


def _recording_record(transcript: Transcript, offset_s: float, speaker: str | None) -> dict[str, Any]:
    record = {
        "recording_id": transcript.recording_id,
        "uri": transcript.recording.uri,
        "channel": transcript.location.channel,
        "start_s": offset_s,
        "duration_s": transcript.duration_s,
        "speaker": speaker,
        "language": transcript.recording.language,
        "status": transcript.status,
        "quality_flags": transcript.quality_flags or None,
    }
    return {name: value for name, value in record.items() if value is not None}


def _turn_record(call: Call, turn: Turn) -> dict[str, Any]:
    record = {
        "start_s": turn.start_s,
        "end_s": turn.end_s,
        "speaker": turn.speaker,
        "recording_id": call.transcripts[turn.recording].recording_id,
        "text": call.turn_text(turn),
        "words": [span_record(span) for span in turn.spans] if turn.has_words else None,
    }
    return {name: value for name, value in record.items() if value is not None}
