"""Hallucinated segments between silences, by openai's rule (openai/whisper, transcribe.py).

Where nobody speaks Whisper invents words. Their times and probabilities are anomalous: too short, too long or unlikely
(quality_flags.py). A segment of such words counts as a hallucination if silence, or another such segment, is on both
sides of it. `skip_hallucinations` says for a window of sequential decoding what is kept of it and where the next one
begins, `find_hallucinations` which segments of a chunk, which no other window follows, are dropped.

The module knows words and times; no model and no audio.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from distil_ray.recognition.quality_flags import are_anomalous
from distil_ray.types import Segment, Word

FRAMES_PER_S = 100  # in which windows are placed
WINDOW_S = 30.0
EDGE_S = 2.0  # so near to an edge of its window a segment counts as having silence on that side
MIN_PROGRESS_S = 1.0  # from the beginning of a window to that of the next one


@dataclass(frozen=True, slots=True)
class SpokenSegment:
    """A segment with its words; times in seconds."""

    start_s: float
    end_s: float
    words: tuple[Word, ...]

    @property
    def is_anomalous(self) -> bool:
        """The first words are anomalous."""
        return are_anomalous(self.words)


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """A window of sequential decoding, in frames of 10 ms from the beginning of the audio.

    Attributes:
        start: First frame.
        num_frames: Frames that are audio.
        next_start: First frame of the next window, without the rule.
        audio_end: End of the whole audio.
        is_complete: The text ends with a single timestamp: nothing is said behind it.
    """

    start: int
    num_frames: int
    next_start: int
    audio_end: int
    is_complete: bool


@dataclass(frozen=True, slots=True)
class KeptSegments:
    """The first segments of a window, which are kept.

    Attributes:
        number: How many.
        next_start: First frame of the next window.
        last_speech_s: Time of the end of the last word that was kept, also of an earlier window.
    """

    number: int
    next_start: int
    last_speech_s: float


def skip_hallucinations(
    segments: Sequence[SpokenSegment], window: DecodedWindow, last_speech_s: float, threshold_s: float
) -> KeptSegments:
    """Returns what is kept of a window, and where the next one begins.

    The next window begins behind the last word, unless little of the window is left; where the first segment is
    anomalous and late, at that segment, of which nothing is kept; and at the first hallucination between silences, from
    which on nothing is kept.

    Args:
        segments: Of the window, with times from the beginning of the audio.
        window: The window.
        last_speech_s: `KeptSegments.last_speech_s` of the window before; 0 at first.
        threshold_s: More seconds without a word are silence.
    """
    start_s, end_s = window.start / FRAMES_PER_S, window.start / FRAMES_PER_S + WINDOW_S
    next_start = window.next_start
    text_end_s = _last_end(segments)
    if not window.is_complete and text_end_s is not None and text_end_s > start_s:
        is_open = end_s - text_end_s > threshold_s
        next_start = round(text_end_s * FRAMES_PER_S) if is_open else window.start + window.num_frames
    first = _next_with_words(segments)
    if first is not None and first.is_anomalous and (gap_s := first.start_s - start_s) > threshold_s:
        return KeptSegments(0, window.start + round(gap_s * FRAMES_PER_S), last_speech_s)
    audio_end_s = start_s + window.num_frames / FRAMES_PER_S
    before_s = last_speech_s
    for index, segment in enumerate(segments):
        if not segment.words:
            continue
        if segment.is_anomalous:
            following = _next_with_words(segments[index + 1 :])
            after_s = following.words[0].start_s if following else audio_end_s
            is_silent_before = (
                segment.start_s - before_s > threshold_s
                or segment.start_s < threshold_s
                or segment.start_s - start_s < EDGE_S
            )
            is_silent_after = (
                after_s - segment.end_s > threshold_s
                or (following is not None and following.is_anomalous)
                or end_s - segment.end_s < EDGE_S
            )
            if is_silent_before and is_silent_after:
                next_start = round(max(start_s + MIN_PROGRESS_S, segment.start_s) * FRAMES_PER_S)
                if window.audio_end / FRAMES_PER_S - segment.end_s < threshold_s:
                    next_start = window.audio_end
                return KeptSegments(index, next_start, _last_end(segments[:index]) or last_speech_s)
        before_s = segment.end_s
    return KeptSegments(len(segments), next_start, text_end_s or last_speech_s)


def find_hallucinations(segments: Sequence[SpokenSegment], chunk_s: float, threshold_s: float) -> set[int]:
    """Returns the indices of the hallucinations among the segments of a chunk, which stands for itself.

    Silence counts only where the chunk shows more than `threshold_s` of it: openai's rule takes the edges of a window
    for silence, because it decodes again what it has dropped. An anomalous segment behind counts as silence.

    Args:
        segments: With words, and times from the beginning of the chunk.
        chunk_s: Length of the chunk.
        threshold_s: More seconds without a word are silence.
    """
    found: set[int] = set()
    before_s = 0.0
    for index, segment in enumerate(segments):
        following = segments[index + 1] if index + 1 < len(segments) else None
        after_s = following.start_s if following else chunk_s
        is_silent_after = after_s - segment.end_s > threshold_s or (following is not None and following.is_anomalous)
        if segment.is_anomalous and segment.start_s - before_s > threshold_s and is_silent_after:
            found.add(index)
        else:
            before_s = segment.end_s
    return found


def spoken_segments(segments: Sequence[Segment], words: Sequence[Word], shift_s: float = 0.0) -> list[SpokenSegment]:
    """Returns the segments of a hypothesis with their words, `shift_s` later. A word begins within its segment."""
    starts = [segment.start_s for segment in segments]
    own: list[list[Word]] = [[] for _ in segments]
    for word in words:
        index = max(bisect_right(starts, word.start_s) - 1, 0)
        own[index].append(Word(word.start_s + shift_s, word.end_s + shift_s, word.text, probability=word.probability))
    return [
        SpokenSegment(segment.start_s + shift_s, segment.end_s + shift_s, tuple(mine))
        for segment, mine in zip(segments, own, strict=True)
    ]


def _next_with_words(segments: Sequence[SpokenSegment]) -> SpokenSegment | None:
    return next((segment for segment in segments if segment.words), None)


def _last_end(segments: Sequence[SpokenSegment]) -> float | None:
    """Returns the end of the last word; without words, that of the last segment."""
    ends = [word.end_s for segment in segments for word in segment.words]
    return ends[-1] if ends else (segments[-1].end_s if segments else None)
