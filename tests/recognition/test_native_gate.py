"""Gated windows: short for the many, and the doubtful few are decoded again in the full one."""

from pathlib import Path

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition import quality_flags
from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native import fallback
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.types import Hypothesis
from tests.support.clips import load_samples

FULL = RecognizerOptions(dtype="float32", batch_size=2)
GATED = RecognizerOptions(dtype="float32", batch_size=2, window="gated")


def read(path: Path) -> PCM16:
    pcm: PCM16 = soundfile.read(path, dtype="int16")[0]
    return pcm


def heard(folder: Path, options: RecognizerOptions, chunks: list[PCM16]) -> list[Hypothesis]:
    return NativeRecognizer(folder, options).transcribe(chunks, ["en"] * len(chunks))


def test_clear_speech_stays_in_its_short_window(whisper_base: Path) -> None:
    """Two clips of one batch with windows of different length; either says what its full window says."""
    chunks = [load_samples("librispeech-61"), load_samples("austen-0920")]
    gated = heard(whisper_base, GATED, chunks)
    assert [hypothesis.window_s for hypothesis in gated] == [6.0, 7.0]
    assert [hypothesis.text for hypothesis in gated] == [full.text for full in heard(whisper_base, FULL, chunks)]


def test_a_loop_in_a_short_window_is_decoded_again_in_the_full_one(corpus: Path, whisper_base: Path) -> None:
    """The one clip of 56 accented ones that loops in its short window."""
    chunk = read(next((corpus / "accented").glob("*000440104*")))
    [gated], [full] = heard(whisper_base, GATED, [chunk]), heard(whisper_base, FULL, [chunk])
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
    ("change", "is_doubtful"),
    [({}, False), ({"ended": False}, True), ({"avg_logprob": -0.7}, True), ({"num_samples": 1_000}, True)],
)
def test_signs_of_doubt(change: dict[str, float], is_doubtful: bool) -> None:
    calm = {"tokens": list(range(20)), "text": "it was a quiet day", "avg_logprob": -0.2, "ended": True}
    assert fallback.needs_full_window(**{**calm, "num_samples": 64_000, **change}) is is_doubtful  # type: ignore[arg-type]


def test_text_that_repeats_is_doubtful_even_where_its_tokens_do_not() -> None:
    text = "a lot of rain, " * 12
    assert fallback.needs_full_window(list(range(40)), text, -0.1, True, 160_000)
