"""Temperature fallback: openai's rule, for the chunks that need it alone, and the same text on every run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.fallback import needs_higher_temperature, sampling_seed
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.types import Hypothesis
from tests.support.clips import load_samples

GREEDY = RecognizerOptions(dtype="float32", batch_size=3, max_new_tokens=30)
FALLBACK = replace(GREEDY, temperatures=(0.0, 0.4, 1.0), logprob_threshold=-0.5, no_speech_threshold=None)


@pytest.mark.parametrize(
    ("ratio", "mean_logprob", "no_speech_prob", "expected"),
    [
        (1.5, -0.3, 0.1, False),
        (2.5, -0.3, 0.1, True),  # repeats itself
        (2.4, -1.0, 0.1, False),  # the thresholds themselves pass
        (1.5, -1.1, 0.1, True),  # unlikely
        (1.5, -1.1, 0.7, False),  # silence, not doubt
        (2.5, -1.1, 0.7, False),
        (2.5, -0.3, 0.7, True),  # sure of its words, so no silence
    ],
)
def test_a_text_is_tried_again_by_openais_rule(
    ratio: float, mean_logprob: float, no_speech_prob: float, expected: bool
) -> None:
    assert needs_higher_temperature(ratio, mean_logprob, no_speech_prob, RecognizerOptions()) is expected


def test_a_seed_is_the_chunks_own_and_the_temperatures() -> None:
    chunk = np.arange(1000, dtype=np.int16)
    assert sampling_seed(chunk, 0.2) == sampling_seed(chunk.copy(), 0.2)
    assert len({sampling_seed(chunk, 0.2), sampling_seed(chunk, 0.4), sampling_seed(chunk[1:], 0.2)}) == 3


@pytest.fixture(scope="module")
def chunks() -> list[PCM16]:
    """Clear, drowned in noise, and clear again."""
    clear = [load_samples("librispeech-61"), load_samples("austen-0880-8khz")]
    noise = np.random.default_rng(5).normal(0, 3000, len(clear[0]))
    return [clear[0], (clear[0] * 0.2 + noise).astype(np.int16), clear[1]]


def english(recognizer: NativeRecognizer, chunks: list[PCM16]) -> list[Hypothesis]:
    return recognizer.transcribe(chunks, ["en"] * len(chunks))


def test_only_doubtful_chunks_are_sampled_and_their_texts_never_change(
    whisper_tiny_en: Path, chunks: list[PCM16]
) -> None:
    """Whatever is beside them, in whatever order, at whatever batch size, by whatever recognizer."""
    greedy = english(NativeRecognizer(whisper_tiny_en, GREEDY), chunks)
    heard = english(NativeRecognizer(whisper_tiny_en, FALLBACK), chunks)
    assert [(hypothesis.temperature or 0.0) > 0 for hypothesis in heard] == [False, True, False]
    assert [one.tokens == other.tokens for one, other in zip(heard, greedy, strict=True)] == [True, False, True]
    another = NativeRecognizer(whisper_tiny_en, replace(FALLBACK, batch_size=1))
    assert [text.tokens for text in english(another, chunks[1::-1])] == [text.tokens for text in heard[1::-1]]


def test_the_last_temperatures_text_counts_where_none_passes(whisper_tiny_en: Path, chunks: list[PCM16]) -> None:
    """Whatever comes out is less likely than certain; times stay in order at any temperature."""
    never = replace(FALLBACK, temperatures=(0.0, 1.0), logprob_threshold=0.0, timestamps="segment", window="gated")
    for hypothesis in english(NativeRecognizer(whisper_tiny_en, never), chunks[::2]):
        assert hypothesis.temperature == 1.0
        assert hypothesis.window_s == 30.0
        assert hypothesis.segments is not None
        times = [time for segment in hypothesis.segments for time in (segment.start_s, segment.end_s)]
        assert times == sorted(times)


def test_the_transformers_recognizer_refuses_temperatures(whisper_tiny_en: Path) -> None:
    with pytest.raises(ValueError, match=r"decoding\.temperatures=\[0\.0, 0\.2\]"):
        TransformersRecognizer(whisper_tiny_en, RecognizerOptions(temperatures=(0.0, 0.2)))
