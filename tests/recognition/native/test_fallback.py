"""Short windows and temperatures: only chunks that need it are decoded again, by fixed rules, the same on every run."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition import quality_flags
from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import fallback
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
def test_a_higher_temperature_is_needed_by_the_rule_of_openai(
    ratio: float, mean_logprob: float, no_speech_prob: float, expected: bool
) -> None:
    assert needs_higher_temperature(ratio, mean_logprob, no_speech_prob, RecognizerOptions()) is expected


def test_the_seed_depends_on_chunk_and_temperature() -> None:
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


def test_only_chunks_that_need_it_are_sampled_and_their_texts_never_change(
    whisper_tiny_en: Path, chunks: list[PCM16]
) -> None:
    """Whatever is beside them, in whatever order, at whatever batch size, by whatever recognizer."""
    greedy = english(NativeRecognizer(whisper_tiny_en, GREEDY), chunks)
    found = english(NativeRecognizer(whisper_tiny_en, FALLBACK), chunks)
    assert [(hypothesis.temperature or 0.0) > 0 for hypothesis in found] == [False, True, False]
    assert [one.tokens == other.tokens for one, other in zip(found, greedy, strict=True)] == [True, False, True]
    another = NativeRecognizer(whisper_tiny_en, replace(FALLBACK, batch_size=1))
    assert [text.tokens for text in english(another, chunks[1::-1])] == [text.tokens for text in found[1::-1]]


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


FULL = RecognizerOptions(dtype="float32", batch_size=2)
GATED = RecognizerOptions(dtype="float32", batch_size=2, window="gated")


def read(path: Path) -> PCM16:
    pcm: PCM16 = soundfile.read(path, dtype="int16")[0]
    return pcm


def transcribe(folder: Path, options: RecognizerOptions, chunks: list[PCM16]) -> list[Hypothesis]:
    return NativeRecognizer(folder, options).transcribe(chunks, ["en"] * len(chunks))


def test_clear_speech_stays_in_its_short_window(whisper_base: Path) -> None:
    """Two clips of one batch with windows of different length; either says what its full window says."""
    chunks = [load_samples("librispeech-61"), load_samples("austen-0920")]
    gated = transcribe(whisper_base, GATED, chunks)
    assert [hypothesis.window_s for hypothesis in gated] == [6.0, 7.0]
    assert [hypothesis.text for hypothesis in gated] == [full.text for full in transcribe(whisper_base, FULL, chunks)]


def test_a_loop_in_a_short_window_is_decoded_again_in_the_full_one(corpus: Path, whisper_base: Path) -> None:
    """The one clip of 56 accented ones that loops in its short window."""
    chunk = read(next((corpus / "accented").glob("*000440104*")))
    [gated], [full] = transcribe(whisper_base, GATED, [chunk]), transcribe(whisper_base, FULL, [chunk])
    assert gated.quality_flags == (quality_flags.REDECODED,)
    assert gated.window_s == 30.0
    assert gated.tokens == full.tokens


@given(st.integers(1, 480_000))
def test_a_window_holds_its_chunk_and_its_margin(num_samples: int) -> None:
    frames = fallback.window_frames(num_samples)
    assert frames % 100 == 0
    assert 100 <= frames <= 3000
    assert frames == 3000 or frames * 160 >= num_samples + fallback.MARGIN_S * 16_000


@pytest.mark.parametrize(
    ("change", "expected"),
    [({}, False), ({"ended": False}, True), ({"avg_logprob": -0.7}, True), ({"num_samples": 1_000}, True)],
)
def test_results_that_need_the_full_window(change: dict[str, float], expected: bool) -> None:
    plain = {"tokens": list(range(20)), "text": "it was a quiet day", "avg_logprob": -0.2, "ended": True}
    assert fallback.needs_full_window(**{**plain, "num_samples": 64_000, **change}) is expected  # type: ignore[arg-type]


def test_text_that_repeats_needs_the_full_window_even_where_its_tokens_do_not() -> None:
    text = "a lot of rain, " * 12
    assert fallback.needs_full_window(list(range(40)), text, -0.1, True, 160_000)
