"""Where a chunk is as loud as its speech, and where it is quietest: measures of energy that ask no model.

It answers one question, how much speech a text may have left out, and errs on the side of silence: a chunk of one
loudness throughout (noise, a tone, music) counts as having none. It knows PCM and nothing of words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.base import PCM16
from distil_ray.whisper.features import HOP, SAMPLE_RATE

Pause = tuple[int, int]  # samples: the first one without speech, and the one after the last

FRAME_STEP = 160  # samples: 10 ms
FRAME = 400  # samples: 25 ms, centered on the step
# Tuned on two recordings whose utterances have known edges, see docs/recognition.md.
BACKGROUND_PERCENTILE = 5
SPEECH_PERCENTILE = 99
MIN_PAUSE_RANGE_DB = 12.0  # between these two; below it pauses cannot be told from speech
MAX_BELOW_SPEECH_DB = 25.0  # of the threshold, where the background is much quieter than that
RELEASE_DB = 6.0  # below the threshold: a sound above this level at the edge of a pause belongs to the word beside it
MAX_RELEASE = 8  # frames that such a sound may last
MAX_CLICK = 5  # frames: a louder sound of this length inside of a pause does not end it
MIN_PAUSE = 20  # frames: closures of plosives and breaks within words are shorter
MIN_EDGE_PAUSE = 5  # frames, at the beginning and at the end of a chunk


def find_pauses(pcm: NDArray[np.int16]) -> list[Pause]:
    """The pauses of a chunk in their order, in samples from its first one.

    `pcm`: int16, shape (num_samples,), 16 kHz mono.
    """
    levels = frame_levels(pcm)
    background, speech = np.percentile(levels, (BACKGROUND_PERCENTILE, SPEECH_PERCENTILE))
    if speech - background < MIN_PAUSE_RANGE_DB:
        return []
    threshold = min((background + speech) / 2, speech - MAX_BELOW_SPEECH_DB)
    is_quiet = levels < threshold
    for begin, end in list(_runs(~is_quiet)):
        if end - begin <= MAX_CLICK:
            is_quiet[begin:end] = True
    pauses = []
    for begin, end in _runs(is_quiet):
        is_at_edge = begin == 0 or end == len(levels)
        if end - begin >= (MIN_EDGE_PAUSE if is_at_edge else MIN_PAUSE):
            first, last = _without_releases(levels >= threshold - RELEASE_DB, begin, end)
            pauses.append((first * FRAME_STEP, min(last * FRAME_STEP, len(pcm))))
    return pauses


def frame_levels(pcm: NDArray[np.int16]) -> NDArray[np.float64]:
    """Level of each frame of 10 ms in dB above one step of 16 bits (a full-scale square wave has 90); never below 0.

    `pcm`: int16, shape (num_samples,), not empty. A constant offset does not count. Shape (ceil(num_samples / 160),).
    """
    samples = pcm.astype(np.float64) - pcm.mean()
    num_frames = -(-len(pcm) // FRAME_STEP)
    margin = (FRAME - FRAME_STEP) // 2
    padded = np.pad(samples, (margin, num_frames * FRAME_STEP - len(pcm) + margin))
    sums = np.concatenate(([0.0], np.cumsum(padded * padded)))
    starts = np.arange(num_frames) * FRAME_STEP
    power = (sums[starts + FRAME] - sums[starts]) / FRAME
    levels: NDArray[np.float64] = 10 * np.log10(power + 1.0)
    return levels


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(first, one after the last) of each run of True."""
    steps = np.diff(np.concatenate(([0], mask.astype(np.int8), [0])))
    return zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True)


def _without_releases(is_sound: NDArray[np.bool_], begin: int, end: int) -> tuple[int, int]:
    """The frames of a quiet run without the weak sounds at its edges: a word that dies away, a soft consonant."""
    first, last = begin, end
    while begin > 0 and first < end - 1 and first - begin < MAX_RELEASE and is_sound[first]:
        first += 1
    while end < len(is_sound) and last > first + 1 and end - last < MAX_RELEASE and is_sound[last - 1]:
        last -= 1
    return first, last


LOUD_PERCENTILE = 95.0  # a chunk's loud frames: its vowels
FLOOR_PERCENTILE = 10.0  # and its quiet ones: pauses, or the weakest sounds where there is no pause
MIN_SPEECH_RANGE_DB = 6.0  # between both; steady noise has less
SPEECH_RANGE_DB = 25.0  # below the loud frames nothing counts as speech
FLOOR_MARGIN_DB = (
    10.0  # above the floor everything within that range does, or above the middle of both, if that is lower
)


@dataclass(frozen=True, slots=True)
class SpeechActivity:
    """The level of each frame of 10 ms of a chunk, and whether it is as loud as speech; shape (num_frames,)."""

    levels_db: NDArray[np.float64]
    is_active: NDArray[np.bool_]

    @classmethod
    def of(cls, pcm: PCM16) -> Self:
        """Measures a chunk: `pcm`, int16, shape (num_samples,), 16 kHz, not empty. Its loudness sets the threshold."""
        levels = frame_levels(pcm)
        loud, floor = np.percentile(levels, LOUD_PERCENTILE), np.percentile(levels, FLOOR_PERCENTILE)
        if loud - floor < MIN_SPEECH_RANGE_DB:
            return cls(levels, np.zeros(len(levels), np.bool_))
        return cls(levels, levels > max(loud - SPEECH_RANGE_DB, min(floor + FLOOR_MARGIN_DB, (loud + floor) / 2)))

    def seconds(self, start: int, end: int) -> float:
        """Seconds of speech between two places of the chunk, in samples."""
        return float(self.is_active[start // HOP : end // HOP].sum()) * HOP / SAMPLE_RATE

    def quietest(self, start: int, end: int) -> int:
        """The middle of the quietest frame between two places of the chunk, in samples; `start` if there is none."""
        levels = self.levels_db[max(0, start // HOP) : max(0, end // HOP)]
        return max(0, start // HOP) * HOP + int(levels.argmin()) * HOP + HOP // 2 if len(levels) else start
