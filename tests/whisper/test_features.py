"""The log-mel features equal the feature extractor's, for any mixture of lengths and any window."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from distil_ray.whisper.features import FFT_SIZE, HOP, MAX_FRAMES, MAX_SAMPLES, LogMel, LongAudio

TOLERANCE = 1e-5


def noise(num_samples: int, loudness: int, seed: int = 0) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-loudness, loudness + 1, num_samples).astype(np.int16)


def extracted(chunks: list[NDArray[np.int16]], num_mel_bins: int = 80) -> torch.Tensor:
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)  # type: ignore[no-untyped-call]
    samples = [chunk.astype(np.float32) / 32768 for chunk in chunks]
    features = extractor(samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    assert isinstance(features, torch.Tensor)
    return features


@pytest.mark.parametrize("num_mel_bins", [80, 128])
def test_features_equal_the_feature_extractors(num_mel_bins: int) -> None:
    lengths = [1, 159, 160, 399, 16_000, MAX_SAMPLES - 201, MAX_SAMPLES - 1, MAX_SAMPLES]
    chunks = [noise(length, 3000, seed=length) for length in lengths]
    features = LogMel(num_mel_bins)(chunks)
    assert features.shape == (len(chunks), num_mel_bins, MAX_FRAMES)
    assert torch.allclose(features, extracted(chunks, num_mel_bins), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("num_samples", [1, 159, 401, 16_000, MAX_SAMPLES + 1234, 2 * MAX_SAMPLES])
def test_features_of_long_audio_equal_the_feature_extractors(num_samples: int) -> None:
    """As a whole, without padding; the windows are parts of it, followed by zeros."""
    pcm = noise(num_samples, 3000)
    pcm[num_samples // 2 :] //= 100
    audio, log_mel = LongAudio(pcm), LogMel(80)
    features = audio.features(log_mel)
    assert features.shape == (80, audio.num_frames)
    if num_samples >= FFT_SIZE:  # the extractor cannot reflect the edges of less
        extractor = WhisperFeatureExtractor()  # type: ignore[no-untyped-call]
        samples = pcm.astype(np.float32) / 32768
        expected = extractor(samples, sampling_rate=16_000, return_tensors="pt", padding="longest", truncation=False)
        assert torch.allclose(features, expected["input_features"][0], atol=TOLERANCE, rtol=0)
    start = audio.num_frames // 3
    window = audio.window(start, log_mel)
    assert torch.equal(window[:, : audio.num_frames - start], features[:, start : start + MAX_FRAMES])
    assert not window[:, audio.num_frames - start :].any()


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 5 * 16_000), min_size=1, max_size=4), st.integers(0, 200))
def test_a_short_window_is_the_beginning_of_the_long_one(lengths: list[int], spare_frames: int) -> None:
    chunks = [noise(length, 1000, seed=length) for length in lengths]
    num_frames = 2 + max(lengths) // HOP + spare_frames
    short = LogMel(80)(chunks, num_frames)
    assert torch.allclose(short, LogMel(80)(chunks)[:, :, :num_frames], atol=TOLERANCE, rtol=0)


def test_a_loud_row_does_not_raise_the_floor_of_a_quiet_one() -> None:
    quiet, loud = noise(16_000, 3), noise(32_000, 30_000)
    together = LogMel(80)([quiet, loud])
    assert torch.equal(together[0], LogMel(80)([quiet])[0])


def test_silence_has_one_value() -> None:
    features = LogMel(80)([np.zeros(16_000, np.int16)])
    assert features.amin() == features.amax()
    assert torch.allclose(features, extracted([np.zeros(16_000, np.int16)]), atol=TOLERANCE, rtol=0)


def test_a_chunk_longer_than_its_window_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        LogMel(80)([noise(16_001, 100)], num_frames=100)
