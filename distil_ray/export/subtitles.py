"""Cues as SubRip (.srt) and WebVTT (.vtt)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from distil_ray.export.transcripts import NotExportableError, Transcript
from distil_ray.types import Segment

MAX_CUE_MS = 7_000  # what subtitle guides allow a cue to stand
MAX_CUE_LETTERS = 84  # two lines of 42
PAUSE_MS = 700  # between words, after which a new cue begins
SENTENCE_END = tuple(".?!…。？！")

# What breaks a line, for one reader or another, and control characters, which no format has room for.
_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Cue:
    """`start` and `end` in milliseconds from the recording's first sample; `end` is greater."""

    start: int
    end: int
    text: str


def cues(transcript: Transcript) -> list[Cue]:
    """The transcript's cues; none for one without words or shorter than a millisecond.

    Raises `NotExportableError` where nothing tells which words belong where: chunks that overlap say some twice.
    """
    if transcript.segments:
        timed: Iterable[Cue] = map(_cue, transcript.segments)
    elif transcript.words:
        timed = _phrases([_cue(word) for word in transcript.words])
    elif any(after.start_s < before.end_s for before, after in pairwise(transcript.chunks)):
        raise NotExportableError("recognized in overlapping chunks, without times (decoding.timestamps=segment)")
    else:
        timed = map(_cue, transcript.chunks)
    return _in_order(timed, int(transcript.duration_s * 1000))


def one_line(text: str) -> str:
    """The text without line breaks and control characters."""
    return _BREAKS.sub(" ", text).strip()


def _cue(span: Segment) -> Cue:
    return Cue(round(span.start_s * 1000), round(span.end_s * 1000), span.text)


def _phrases(words: Sequence[Cue]) -> Iterator[Cue]:
    """Words gathered until a sentence ends, somebody pauses, or a cue is full."""
    phrase: list[Cue] = []
    for word in words:
        if phrase and _ends_before(phrase, word):
            yield _joined(phrase)
            phrase = []
        phrase.append(word)
    if phrase:
        yield _joined(phrase)


def _ends_before(phrase: Sequence[Cue], word: Cue) -> bool:
    letters = sum(len(one.text) for one in phrase) + len(word.text)
    return (
        phrase[-1].text.rstrip().endswith(SENTENCE_END)
        or word.start - phrase[-1].end > PAUSE_MS
        or word.end - phrase[0].start > MAX_CUE_MS
        or letters > MAX_CUE_LETTERS
    )


def _joined(phrase: Sequence[Cue]) -> Cue:
    return Cue(phrase[0].start, phrase[-1].end, "".join(word.text for word in phrase))


def _in_order(timed: Iterable[Cue], duration: int) -> list[Cue]:
    """Cues that begin where the one before has ended or later, and end within `duration` milliseconds."""
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


# SubRip has no escapes. A word joiner, which is not seen, keeps its arrow from being taken for a line of times.
_ARROW, _HARMLESS_ARROW = "-->", "--\u2060>"
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # W3C WebVTT, section "cue text"


def srt(transcript: Transcript) -> str:
    blocks = [
        f"{number}\n{_time(cue.start, ',')} --> {_time(cue.end, ',')}\n{cue.text.replace(_ARROW, _HARMLESS_ARROW)}\n"
        for number, cue in enumerate(cues(transcript), 1)
    ]
    return "\n".join(blocks)


def vtt(transcript: Transcript) -> str:
    blocks = [
        f"{_time(cue.start, '.')} --> {_time(cue.end, '.')}\n{cue.text.translate(_ESCAPES)}\n"
        for cue in cues(transcript)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def _time(milliseconds: int, point: str) -> str:
    seconds, rest = divmod(milliseconds, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{rest:03}"
