"""Int8 products are near the exact ones, independent of other rows, and refused where they are not supported."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.recognition.base import PCM16, RecognizerOptions
from distil_ray.recognition.native.linear import Int8Linear, Linear
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.recognition.transformers_recognizer import TransformersRecognizer
from distil_ray.whisper import model
from distil_ray.whisper.model import load_model
from tests.recognition.processors import needs_products
from tests.support.clips import load_samples

INT8 = RecognizerOptions(dtype="int8", batch_size=3, window="gated")
CLIPS = ("librispeech-61", "austen-0870")


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    return [load_samples(name) for name in CLIPS]


@needs_products
@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(-4, 4))
def test_an_int8_product_is_near_the_exact_one_and_rows_are_independent(
    seed: int, num_rows: int, magnitude: float
) -> None:
    numbers = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(48, 64, generator=numbers), torch.randn(48, generator=numbers)
    rows = torch.randn(num_rows, 64, generator=numbers) * 10**magnitude
    rows[seed % num_rows] = 0.0
    exact, eight_bits = Linear(weight, bias), Int8Linear(Linear(weight, bias))
    found = eight_bits(rows)
    # Each factor is off by half a step at most, a step being 1/127 of the largest in its row.
    steps = (rows.abs().amax(1, keepdim=True) + 1e-12) * weight.abs().amax(1) / 127
    assert ((found - exact(rows)).abs() <= steps * 64 * 1.01 + 1e-5).all()
    assert torch.equal(torch.cat([eight_bits(row[None]) for row in rows]), found)
    assert torch.equal(eight_bits(rows[None, None])[0, 0], found)


@needs_products
def test_int8_gives_the_words_of_float32(whisper_base: Path, clips: list[PCM16]) -> None:
    exact = NativeRecognizer(whisper_base, replace(INT8, dtype="float32"))
    eight_bits = NativeRecognizer(whisper_base, INT8)
    ours, theirs = (recognizer.transcribe(clips[:2], ["en"] * 2) for recognizer in (eight_bits, exact))
    assert [words(mine.text) for mine in ours] == [words(other.text) for other in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.avg_logprob == pytest.approx(other.avg_logprob, abs=0.05)
        assert mine.avg_logprob != other.avg_logprob  # 8 bits were at work


def words(text: str) -> list[str]:
    return "".join(letter for letter in text.lower() if letter.isalpha() or letter == " ").split()


def test_int8_is_refused_where_it_is_not_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"model\.dtype=int8"):
        TransformersRecognizer(tmp_path, RecognizerOptions(dtype="int8"))
    with pytest.raises(RuntimeError, match="is for CPUs"):
        model.resolve_dtype("int8", torch.device("cuda", 0))
    monkeypatch.setattr(model, "_cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(RuntimeError, match="needs a processor with 8-bit instructions"):
        NativeRecognizer(tmp_path, INT8)
    monkeypatch.setattr(model, "_cpu_flags", lambda: frozenset({"avx512_vnni"}))
    with pytest.raises(RuntimeError, match="attention=auto or sdpa; found eager"):
        load_model(tmp_path, dtype="int8", attention="eager")
