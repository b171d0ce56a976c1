"""Speech activity and pauses of a chunk, from the energy of its audio, without a model.

Both have thresholds between the level of the background and that of the speech, taken from the chunk itself. A chunk of
one loudness throughout (noise, a tone, music) counts as having no speech, and no pauses: `SpeechActivity` answers how
much speech a text may have left out, and errs on the side of silence. `find_pauses` gives the stretches of a fifth of a
second and more without speech, for the times of words. The module knows PCM and nothing of words; it takes a few
milliseconds of numpy for 30 s of audio.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.base import PCM16
from distil_ray.types import SAMPLE_RATE
from distil_ray.whisper.features import HOP

Pause = tuple[int, int]  # samples: the first one without speech, and the one after the last

FRAME = 400  # samples: 25 ms, centered on each step of 10 ms (`HOP`)
# Tuned on two recordings whose utterances have known edges, see docs/recognition.md.
BACKGROUND_PERCENTILE = 5
SPEECH_PERCENTILE = 99
MIN_PAUSE_RANGE_DB = 12.0  # between these two; below it pauses cannot be distinguished from speech
MAX_BELOW_SPEECH_DB = 25.0  # of the threshold, where the background is much quieter still
RELEASE_DB = 6.0  # below the threshold; a sound above it at the edge of a pause belongs to the word beside it
MAX_RELEASE = 8  # frames of such a sound, at most
MAX_CLICK = 5  # frames; a louder sound of this length inside a pause does not end it
MIN_PAUSE = 20  # frames: closures of plosives and breaks within words are shorter
MIN_EDGE_PAUSE = 5  # frames, at the beginning and at the end of a chunk

LOUD_PERCENTILE = 95.0  # the loud frames of a chunk: vowels
FLOOR_PERCENTILE = 10.0  # the quiet ones: pauses, or the weakest sounds where there is no pause
MIN_SPEECH_RANGE_DB = 6.0  # between the two; steady noise has less
SPEECH_RANGE_DB = 25.0  # frames further below the loud ones are not speech
FLOOR_MARGIN_DB = (
    10.0  # frames within that range are speech above floor + margin, or above the middle of the two if that is lower
)


def find_pauses(pcm: NDArray[np.int16]) -> list[Pause]:
    """Returns the pauses of a chunk in order, in samples from its first one.

    `pcm` is int16, shape (num_samples,), 16 kHz mono.
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
            pauses.append((first * HOP, min(last * HOP, len(pcm))))
    return pauses


def frame_levels(pcm: NDArray[np.int16]) -> NDArray[np.float64]:
    """Returns the level of each frame of 10 ms in dB above one step of 16 bits, never below 0.

    A full-scale square wave has 90 dB. A constant offset does not count. `pcm` is int16, shape (num_samples,), not
    empty. The result has the shape (ceil(num_samples / 160),).
    """
    samples = pcm.astype(np.float64) - pcm.mean()
    num_frames = -(-len(pcm) // HOP)
    margin = (FRAME - HOP) // 2
    padded = np.pad(samples, (margin, num_frames * HOP - len(pcm) + margin))
    sums = np.concatenate(([0.0], np.cumsum(padded * padded)))
    starts = np.arange(num_frames) * HOP
    power = (sums[starts + FRAME] - sums[starts]) / FRAME
    levels: NDArray[np.float64] = 10 * np.log10(power + 1.0)
    return levels


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yields the first index and the one after the last of each run of True."""
    steps = np.diff(np.concatenate(([0], mask.astype(np.int8), [0])))
    return zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True)


def _without_releases(is_sound: NDArray[np.bool_], begin: int, end: int) -> tuple[int, int]:
    """Returns the frames of a quiet run without the weak sounds at its edges: a word that fades, a soft consonant."""
    first, last = begin, end
    while begin > 0 and first < end - 1 and first - begin < MAX_RELEASE and is_sound[first]:
        first += 1
    while end < len(is_sound) and last > first + 1 and end - last < MAX_RELEASE and is_sound[last - 1]:
        last -= 1
    return first, last


@dataclass(frozen=True, slots=True)
class SpeechActivity:
    """The level of each frame of 10 ms of a chunk, and whether it is as loud as speech; shape (num_frames,)."""

    levels_db: NDArray[np.float64]
    is_active: NDArray[np.bool_]

    @classmethod
    def of(cls, pcm: PCM16) -> Self:
        """Measures a chunk.

        `pcm` is int16, shape (num_samples,), 16 kHz, not empty. Its loudness sets the threshold.
        """
        levels = frame_levels(pcm)
        loud, floor = np.percentile(levels, LOUD_PERCENTILE), np.percentile(levels, FLOOR_PERCENTILE)
        if loud - floor < MIN_SPEECH_RANGE_DB:
            return cls(levels, np.zeros(len(levels), np.bool_))
        return cls(levels, levels > max(loud - SPEECH_RANGE_DB, min(floor + FLOOR_MARGIN_DB, (loud + floor) / 2)))

    def seconds(self, start: int, end: int) -> float:
        """Returns the seconds of speech between two samples of the chunk."""
        return float(self.is_active[start // HOP : end // HOP].sum()) * HOP / SAMPLE_RATE

    def quietest(self, start: int, end: int) -> int:
        """Returns the middle of the quietest frame between two samples of the chunk; `start` if there is none."""
        levels = self.levels_db[max(0, start // HOP) : max(0, end // HOP)]
        return max(0, start // HOP) * HOP + int(levels.argmin()) * HOP + HOP // 2 if len(levels) else start
