"""Pauses are found where the level shows no speech, and nowhere else."""

import numpy as np
import pytest

from distil_ray.recognition.base import PCM16
from distil_ray.recognition.native.speech_activity import find_pauses, frame_levels

RATE = 16_000
SEED = 7


def sound(seconds: float, level: float) -> PCM16:
    """White noise with a standard deviation of `level` steps."""
    samples = np.random.default_rng(SEED).normal(0, level, round(seconds * RATE))
    return np.clip(samples, -32768, 32767).astype(np.int16)


def joined(*parts: tuple[float, float]) -> PCM16:
    return np.concatenate([sound(seconds, level) for seconds, level in parts])


def in_seconds(pcm: PCM16) -> list[tuple[float, float]]:
    return [(begin / RATE, end / RATE) for begin, end in find_pauses(pcm)]


@pytest.mark.parametrize("background", [0.0, 3.0, 60.0])
@pytest.mark.parametrize("offset", [0, 1000])
def test_pauses_between_and_around_sounds_are_found(background: float, offset: int) -> None:
    pcm = joined((0.3, background), (1.0, 3000), (0.5, background), (2.0, 3000), (0.4, background)) + np.int16(offset)
    found = in_seconds(pcm)
    assert [edge for pause in found for edge in pause] == pytest.approx([0, 0.3, 1.3, 1.8, 3.8, 4.2], abs=0.02)


def test_pauses_that_are_short_or_hardly_quieter_than_the_sound_are_none() -> None:
    assert in_seconds(joined((1.0, 3000), (0.12, 3), (1.0, 3000), (0.15, 3), (1.0, 3000))) == []
    assert in_seconds(joined((1.0, 3000), (0.5, 1000), (1.0, 3000))) == []
    assert in_seconds(sound(3.0, 3000)) == []
    assert in_seconds(np.zeros(RATE, np.int16)) == []
    assert in_seconds(np.zeros(1, np.int16)) == []


def test_a_click_does_not_end_a_pause_and_a_weak_sound_belongs_to_its_word() -> None:
    found = in_seconds(joined((1.0, 3000), (0.3, 3), (0.03, 3000), (0.3, 3), (1.0, 3000)))
    assert [edge for pause in found for edge in pause] == pytest.approx([1.0, 1.63], abs=0.02)
    faint = 3000 / 10 ** (29 / 20)  # below the threshold of speech, above the background
    found = in_seconds(joined((1.0, 3000), (0.06, faint), (0.5, 3), (0.06, faint), (1.0, 3000)))
    assert [edge for pause in found for edge in pause] == pytest.approx([1.06, 1.56], abs=0.02)


def test_levels_are_those_of_frames_of_ten_milliseconds() -> None:
    assert frame_levels(np.full(RATE, 500, np.int16)).tolist() == [0.0] * 100, "an offset is no sound"
    assert frame_levels(sound(1.005, 1000)).shape == (101,)
    assert frame_levels(sound(1.0, 1000))[10:90].mean() == pytest.approx(60, abs=0.3)
