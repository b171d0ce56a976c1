"""Where a chunk is as loud as its speech, and where it is quietest: measures of energy that ask no model.

It answers one question, how much speech a text may have left out, and errs on the side of silence: a chunk of one
loudness throughout (noise, a tone, music) counts as having none. It knows PCM and nothing of words.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.native.pauses import frame_levels
from distil_ray.whisper.features import HOP, SAMPLE_RATE

LOUD_PERCENTILE = 95.0  # a chunk's loud frames: its vowels
FLOOR_PERCENTILE = 10.0  # and its quiet ones: pauses, or the weakest sounds where there is no pause
MIN_RANGE_DB = 6.0  # between both; steady noise has less
RANGE_DB = 25.0  # below the loud frames nothing counts as speech
MARGIN_DB = 10.0  # above the floor everything within that range does, or above the middle of both, if that is lower


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
        if loud - floor < MIN_RANGE_DB:
            return cls(levels, np.zeros(len(levels), np.bool_))
        return cls(levels, levels > max(loud - RANGE_DB, min(floor + MARGIN_DB, (loud + floor) / 2)))

    def seconds(self, start: int, end: int) -> float:
        """Seconds of speech between two places of the chunk, in samples."""
        return float(self.is_active[start // HOP : end // HOP].sum()) * HOP / SAMPLE_RATE

    def quietest(self, start: int, end: int) -> int:
        """The middle of the quietest frame between two places of the chunk, in samples; `start` if there is none."""
        levels = self.levels_db[max(0, start // HOP) : max(0, end // HOP)]
        return max(0, start // HOP) * HOP + int(levels.argmin()) * HOP + HOP // 2 if len(levels) else start
