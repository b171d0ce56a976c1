"""Mixing and resampling lose nothing and keep the length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.audio.conversion import ChannelMixer, Resampler, to_pcm16
from distil_ray.audio.pcm import Samples
from distil_ray.types import SAMPLE_RATE


def voice(seed: int, num_samples: int = 32_000) -> Samples:
    return np.random.default_rng(seed).normal(0, 0.1, num_samples).astype(np.float32)


def rms(samples: Samples) -> float:
    return float(np.sqrt(np.mean(samples.astype(np.float64) ** 2)))


def test_equal_channels_mix_to_themselves() -> None:
    mono = voice(1)
    mixed = ChannelMixer().mix(np.stack([mono, mono], axis=1))
    assert np.allclose(mixed, mono, atol=1e-7)


@pytest.mark.parametrize("channels", [2, 6, 8, 32])
def test_a_voice_on_one_channel_is_kept_at_its_share(channels: int) -> None:
    samples = np.zeros((32_000, channels), np.float32)
    samples[:, channels // 2] = voice(1)
    mixer = ChannelMixer()
    assert rms(mixer.mix(samples)) == pytest.approx(rms(voice(1)) / channels, rel=1e-3)
    assert not mixer.has_antiphase


def test_unrelated_channels_are_not_taken_for_antiphase() -> None:
    mixer = ChannelMixer()
    for seed in range(20):
        mixer.mix(np.stack([voice(seed), voice(100 + seed)], axis=1))
    assert not mixer.has_antiphase


def test_antiphase_takes_the_louder_channel_and_stays_with_it_through_silence() -> None:
    mixer, mono = ChannelMixer(), voice(1)
    inverted = np.stack([-0.9 * mono, mono], axis=1)
    assert np.array_equal(mixer.mix(inverted), mono)
    assert mixer.has_antiphase
    assert np.array_equal(mixer.mix(inverted * np.float32(1e-6)), mono * np.float32(1e-6))
    assert np.allclose(
        mixer.mix(inverted * np.array([1.3, 1], np.float32)), mono
    )  # a little louder: no change to and fro
    assert rms(mixer.mix(np.stack([mono, mono], axis=1)) - mono) < 1e-6  # in phase again: the mean again
    assert mixer.has_antiphase


def test_a_mean_never_clips() -> None:
    full = np.ones((1000, 6), np.float32)
    assert ChannelMixer().mix(full).max() <= 1 + 1e-6


@given(
    st.sampled_from([1000, 7350, 8000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000]),
    st.lists(st.integers(0, 30_000), max_size=6),
)
@settings(deadline=None, max_examples=60)
def test_the_length_is_that_of_the_rates_ratio(rate: int, pieces: list[int]) -> None:
    resampler = Resampler(rate)
    given_samples = [voice(i, size) for i, size in enumerate(pieces)]
    out = sum(len(resampler.push(samples)) for samples in given_samples) + len(resampler.finish())
    assert abs(out - round(sum(pieces) * SAMPLE_RATE / rate)) <= 1


@pytest.mark.parametrize("rate", [7350, 8000, 44_100, 48_000, 192_000])
def test_a_tone_keeps_its_pitch_its_level_and_its_time(rate: int) -> None:
    tone = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(2 * rate) / rate)).astype(np.float32)
    resampler = Resampler(rate)
    out = np.concatenate([*map(resampler.push, np.array_split(tone, 7)), resampler.finish()])
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(out)) / SAMPLE_RATE)
    assert np.abs(out - expected)[500:-500].max() < 1e-3


def test_every_16_bit_value_survives_the_way_to_float_and_back() -> None:
    values = np.arange(-32_768, 32_768).astype(np.int16)
    pcm, num_clipped = to_pcm16(values.astype(np.float32) * np.float32(1 / 32_768))
    assert np.array_equal(pcm, values)
    assert num_clipped == 0


def test_samples_beyond_full_scale_are_limited_and_counted() -> None:
    pcm, num_clipped = to_pcm16(np.array([1.0, 1.5, -1.0, -1.5, 0.5], np.float32))
    assert pcm.tolist() == [32_767, 32_767, -32_768, -32_768, 16_384]
    assert num_clipped == 2
