"""Assigns speakers to words and segments by the speaker turns of their recording.

A word belongs to the speaker whose turns overlap it longest. A word outside of all turns belongs to the nearest turn,
if that is not further than `MAX_DISTANCE_S` away: word times and turns are both inexact by some tenths of a second. A
segment belongs to the speaker of most of its words, measured by their length; without word times it is treated like a
word. The module knows only times; `distil_ray.readers.rttm` reads the turns.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from distil_ray.types import Segment, SpeakerTurn, Word

MAX_DISTANCE_S = 0.5  # from a word or segment to the nearest turn
MIN_WORD_S = 0.001  # length that a word without duration counts with

Timed = TypeVar("Timed", bound=Segment)


def assign_speakers(
    segments: Sequence[Segment] | None, words: Sequence[Word] | None, turns: Sequence[SpeakerTurn]
) -> tuple[list[Segment] | None, list[Word] | None]:
    """Returns the segments and words with their speakers; None where there is nobody to assign.

    Args:
        segments: Segments of a recording in order of time; None if there are none.
        words: Its words in order of time; None if there are none.
        turns: Its speaker turns, ordered by start.
    """
    spoken = None if words is None else list(_by_turns(words, turns))
    if segments is None:
        return None, spoken
    return list(_by_words(segments, spoken) if spoken else _by_turns(segments, turns)), spoken


def _by_turns(spans: Sequence[Timed], turns: Sequence[SpeakerTurn]) -> Iterator[Timed]:
    """Yields spans, which are in order of time, with the speakers of the turns."""
    position = 0
    near: list[SpeakerTurn] = []
    for span in spans:
        while position < len(turns) and turns[position].start_s <= span.end_s + MAX_DISTANCE_S:
            near.append(turns[position])
            position += 1
        near = [turn for turn in near if turn.end_s >= span.start_s - MAX_DISTANCE_S]
        yield replace(span, speaker=_choose(span, near))


def _choose(span: Segment, turns: Sequence[SpeakerTurn]) -> str | None:
    overlaps: defaultdict[str, float] = defaultdict(float)
    for turn in turns:
        overlaps[turn.speaker] += max(min(turn.end_s, span.end_s) - max(turn.start_s, span.start_s), 0.0)
    if not overlaps:
        return None
    longest = max(overlaps, key=lambda speaker: overlaps[speaker])  # the first turn's on a tie
    if overlaps[longest] > 0:
        return longest
    distances = [(max(turn.start_s - span.end_s, span.start_s - turn.end_s), turn) for turn in turns]
    distance, nearest = min(distances, key=lambda pair: pair[0])
    return nearest.speaker if distance <= MAX_DISTANCE_S else None


def _by_words(segments: Sequence[Segment], words: Sequence[Word]) -> Iterator[Segment]:
    """Yields segments with the speaker of most of their words. A word belongs to the segment of its midpoint."""
    position = 0
    for number, segment in enumerate(segments):
        is_last = number == len(segments) - 1
        lengths: defaultdict[str | None, float] = defaultdict(float)
        while position < len(words) and (is_last or _midpoint(words[position]) < segment.end_s):
            word = words[position]
            lengths[word.speaker] += max(word.end_s - word.start_s, MIN_WORD_S)
            position += 1
        known = [speaker for speaker in lengths if speaker is not None]
        yield replace(segment, speaker=max(known, key=lambda speaker: lengths[speaker], default=None))


def _midpoint(word: Word) -> float:
    return (word.start_s + word.end_s) / 2
