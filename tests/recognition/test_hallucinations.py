"""openai's rule for anomalous words between silences: what is kept of a window, and where the next one begins.

The cases were computed with the code of openai-whisper 20250625.
"""

from dataclasses import replace
from typing import Any

import pytest

from distil_ray.recognition.hallucinations import (
    DecodedWindow,
    KeptSegments,
    SpokenSegment,
    find_hallucinations,
    skip_hallucinations,
    spoken_segments,
)
from distil_ray.recognition.quality_flags import are_anomalous
from distil_ray.types import Segment, Word

WINDOW = DecodedWindow(start=6000, num_frames=3000, next_start=9000, audio_end=20_000, is_complete=True)


def words_of(*spans: tuple[float, float, float]) -> tuple[Word, ...]:
    return tuple(Word(start, end, " word", probability=probability) for start, end, probability in spans)


def segment(*spans: tuple[float, float, float]) -> SpokenSegment:
    words = words_of(*spans)
    return SpokenSegment(words[0].start_s, words[-1].end_s, words)


def speech(start_s: float, num: int = 4) -> SpokenSegment:
    return segment(*((start_s + 0.3 * i, start_s + 0.3 * i + 0.3, 0.9) for i in range(num)))


def noise(start_s: float, num: int = 3) -> SpokenSegment:
    return segment(*((start_s + 0.02 * i, start_s + 0.02 * i + 0.02, 0.05) for i in range(num)))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (words_of((0.0, 0.3, 0.9)), False),
        (words_of((0.0, 0.3, 0.1)), True),  # a point, for one word
        (words_of((0.0, 0.3, 0.1), (0.3, 0.6, 0.9)), False),  # a point, for two
        (words_of((0.0, 3.0, 0.9)), True),  # a second longer than a word
        (words_of(*[(i, i + 0.3, 0.1) for i in range(3)], *[(i, i + 0.3, 0.9) for i in range(3, 10)]), True),
        (words_of(*[(i, i + 0.3, 0.9) for i in range(8)], *[(i, i + 0.3, 0.1) for i in range(8, 12)]), False),
        ((Word(0.0, 0.3, " -", probability=0.9),), True),
        ((), False),
    ],
)
def test_a_segment_is_anomalous_by_its_first_eight_words(words: tuple[Word, ...], expected: bool) -> None:
    assert are_anomalous(words) is expected


@pytest.mark.parametrize(
    ("segments", "changes", "last_speech_s", "expected"),
    [
        ([speech(60.5), speech(64.0)], {}, 59.0, (2, 9000, 65.2)),
        # the text goes on: from the last word, or from the end of the window if little is left
        ([speech(60.5), speech(64.0)], {"is_complete": False}, 59.0, (2, 6520, 65.2)),
        ([speech(60.5), speech(87.5)], {"is_complete": False}, 59.0, (2, 9000, 88.7)),
        ([], {"is_complete": False}, 59.0, (0, 9000, 59.0)),
        # a late anomalous first segment: the silence before it is skipped
        ([noise(65.0), speech(70.0)], {}, 59.0, (0, 6500, 59.0)),
        # anomalous between silences: what follows is decoded again from there
        ([speech(60.5), noise(66.0), speech(70.0)], {}, 59.0, (1, 6600, 61.7)),
        ([noise(60.1), speech(70.0)], {}, 59.0, (0, 6100, 59.0)),  # at the edge, at least a second on
        ([speech(60.5), noise(66.0), noise(66.5)], {}, 59.0, (1, 6600, 61.7)),  # before another one
        ([speech(60.5), noise(88.5)], {}, 59.0, (1, 8850, 61.7)),
        ([speech(60.5), noise(66.0)], {"audio_end": 6700, "num_frames": 700}, 59.0, (2, 9000, 66.06)),
        ([speech(60.5), noise(66.0)], {"audio_end": 6850, "num_frames": 850}, 59.0, (1, 6600, 61.7)),
        ([speech(60.5), noise(86.0)], {"audio_end": 8810, "num_frames": 2810}, 59.0, (1, 8600, 61.7)),
        # speech too near
        ([speech(64.0), noise(66.0), speech(70.0)], {}, 59.0, (3, 9000, 71.2)),
        ([speech(60.5), noise(66.0), speech(66.5)], {}, 59.0, (3, 9000, 67.7)),
    ],
)
def test_what_is_kept_of_a_window_and_where_the_next_begins(
    segments: list[SpokenSegment], changes: dict[str, Any], last_speech_s: float, expected: tuple[int, int, float]
) -> None:
    kept = skip_hallucinations(segments, replace(WINDOW, **changes), last_speech_s, threshold_s=2.0)
    assert (kept.number, kept.next_start) == expected[:2]
    assert kept.last_speech_s == pytest.approx(expected[2])


def test_segments_without_words_are_passed_over() -> None:
    silent = SpokenSegment(63.0, 65.0, ())
    kept = skip_hallucinations([speech(60.5), silent, noise(66.0), silent], WINDOW, 59.0, 2.0)
    assert (kept.number, kept.next_start) == (2, 6600)
    assert skip_hallucinations([silent], WINDOW, 59.0, 2.0) == KeptSegments(1, 9000, 65.0)


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([speech(0.5), noise(6.0), speech(10.0)], {1}),
        ([noise(4.0)], {0}),
        ([noise(0.5), speech(10.0)], set()),  # the chunk shows half a second of silence before it
        ([speech(0.5), noise(6.0), noise(7.0), speech(15.0)], {1, 2}),
        ([speech(0.5), noise(28.5)], set()),
        ([speech(0.5), noise(6.0), speech(7.0)], set()),
    ],
)
def test_a_chunk_loses_anomalous_segments_with_silence_on_both_sides(
    segments: list[SpokenSegment], expected: set[int]
) -> None:
    assert find_hallucinations(segments, 30.0, 2.0) == expected


def test_words_belong_to_the_segment_in_which_they_begin() -> None:
    words = words_of((0.5, 0.8, 0.9), (0.8, 1.0, 0.9), (1.0, 1.5, 0.9))
    first, second = spoken_segments([Segment(0.5, 1.0, "word word"), Segment(1.0, 1.5, "word")], words, shift_s=60.0)
    assert [len(first.words), len(second.words)] == [2, 1]
    assert (first.start_s, second.words[0].end_s) == (60.5, 61.5)
