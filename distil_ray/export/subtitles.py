"""Subtitle cues of a transcript, for the formats SubRip and WebVTT.

Cues come from the segments of a transcript, else from its words, else from its chunks. Times are in milliseconds from
the first sample of the recording; cues never overlap.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.types import Segment

MAX_CUE_MS = 7_000  # longest display time of a cue in subtitle guides
MAX_CUE_CHARS = 84  # two lines of 42
CUE_COLUMNS = ("segments", "words", *(f"chunks.list.element.{name}" for name in ("start_s", "end_s", "text")))
PAUSE_MS = 700  # between words, after which a new cue begins
SENTENCE_END = tuple(".?!…。？！")

# Line breaks of any reader, and control characters, which no format allows.
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Cue:
    """A subtitle: `start` and `end` in milliseconds from the recording's first sample; `end` is greater."""

    start: int
    end: int
    text: str


def build_cues(transcript: Transcript) -> list[Cue]:
    """Returns the cues of a transcript; none if it has no words or is shorter than a millisecond.

    Raises:
        NotExportableError: The transcript has neither segments nor words, and its chunks overlap, so that words near
            a chunk boundary are in two chunks.
    """
    if transcript.segments:
        return build_span_cues(transcript.segments, False, transcript.duration_s)
    if transcript.words:
        return build_span_cues(transcript.words, True, transcript.duration_s)
    if any(after.start_s < before.end_s for before, after in pairwise(transcript.chunks)):
        raise NotExportableError("recognized in overlapping chunks, without times (decoding.timestamps=segment)")
    return build_span_cues(transcript.chunks, False, transcript.duration_s)


def build_span_cues(spans: Iterable[Segment], are_words: bool, end_s: float) -> list[Cue]:
    """Returns cues that do not overlap: one per span, or per group of words that fits into a cue.

    Args:
        spans: Segments, chunks or words, in order of time.
        are_words: Group the spans.
        end_s: No cue ends later.
    """
    timed = map(_cue, spans)
    return _in_order(_phrases(list(timed)) if are_words else timed, int(end_s * 1000))


def one_line(text: str) -> str:
    """Returns the text without line breaks and control characters."""
    return _BREAKS.sub(" ", text).strip()


def _cue(span: Segment) -> Cue:
    return Cue(round(span.start_s * 1000), round(span.end_s * 1000), span.text)


def _phrases(words: Sequence[Cue]) -> Iterator[Cue]:
    """Groups words into cues. A cue ends with a sentence, at a pause, or when it is full."""
    phrase: list[Cue] = []
    for word in words:
        if phrase and _ends_before(phrase, word):
            yield _join(phrase)
            phrase = []
        phrase.append(word)
    if phrase:
        yield _join(phrase)


def _ends_before(phrase: Sequence[Cue], word: Cue) -> bool:
    num_chars = sum(len(one.text) for one in phrase) + len(word.text)
    return (
        phrase[-1].text.rstrip().endswith(SENTENCE_END)
        or word.start - phrase[-1].end > PAUSE_MS
        or word.end - phrase[0].start > MAX_CUE_MS
        or num_chars > MAX_CUE_CHARS
    )


def _join(phrase: Sequence[Cue]) -> Cue:
    return Cue(phrase[0].start, phrase[-1].end, "".join(word.text for word in phrase))


def _in_order(timed: Iterable[Cue], duration: int) -> list[Cue]:
    """Returns cues that do not overlap and end within `duration` milliseconds."""
    ordered: list[Cue] = []
    for cue in timed:
        text = one_line(cue.text)
        if not text:
            continue
        last = ordered[-1].end if ordered else 0
        start = max(cue.start, last)
        end = min(max(cue.end, start + 1), duration)
        if start < end:
            ordered.append(Cue(start, end, text))
        elif ordered:
            ordered[-1] = Cue(ordered[-1].start, ordered[-1].end, f"{ordered[-1].text} {text}")
        elif duration:
            ordered.append(Cue(duration - 1, duration, text))
    return ordered


def format_time(milliseconds: int, point: str) -> str:
    """Returns a time as 00:00:00 with `point` before the milliseconds."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
