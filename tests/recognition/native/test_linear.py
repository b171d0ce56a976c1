"""Int8 products are near the exact ones, independent of other rows, and float32 where the processor has none."""

import platform
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
from distil_ray.whisper import model, processor
from distil_ray.whisper.model import load_model
from distil_ray.whisper.processor import Int8Products
from tests.recognition.processors import PRODUCTS, needs_avx2
from tests.support.clips import load_samples

INT8 = RecognizerOptions(dtype="int8", batch_size=3, window="gated")
CLIPS = ("librispeech-61", "austen-0870")


@pytest.fixture(scope="module")
def clips() -> list[PCM16]:
    return [load_samples(name) for name in CLIPS]


@pytest.mark.parametrize("products", PRODUCTS)
@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(-4, 4))
def test_an_int8_product_is_near_the_exact_one_and_rows_are_independent(
    products: Int8Products, seed: int, num_rows: int, magnitude: float
) -> None:
    numbers = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(48, 64, generator=numbers), torch.randn(48, generator=numbers)
    rows = torch.randn(num_rows, 64, generator=numbers) * 10**magnitude
    rows[seed % num_rows] = 0.0
    exact, eight_bits = Linear(weight, bias), Int8Linear(Linear(weight, bias), products)
    found = eight_bits(rows)
    # Each factor is off by half a step at most, a step being 1/127 (1/64 in 7 bits) of the largest in its row.
    largest = (rows.abs().amax(1, keepdim=True) + 1e-12) * weight.abs().amax(1)
    error = 64 * largest * (0.5 / 127 + 0.5 / products.max_weight)
    assert ((found - exact(rows)).abs() <= error * 1.01 + 1e-5).all()
    assert torch.equal(torch.cat([eight_bits(row[None]) for row in rows]), found)
    assert torch.equal(eight_bits(rows[None, None])[0, 0], found)


@needs_avx2
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


@pytest.mark.parametrize("cause", ["an old processor", "ARM", "a kernel that overflows"])
def test_where_there_are_no_8_bit_products_int8_is_float32_and_says_so(
    cause: str, whisper_tiny_en: Path, clips: list[PCM16], monkeypatch: pytest.MonkeyPatch
) -> None:
    if cause == "an old processor":
        monkeypatch.setattr(processor, "_read_cpu_flags", lambda: frozenset({"avx"}))
    elif cause == "ARM":
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    else:
        monkeypatch.setattr(processor, "_read_cpu_flags", lambda: frozenset({"avx2"}))
        monkeypatch.setattr(model, "find_problem", lambda products: f"the products of {products.library} overflow")
    opened = model.open_model(whisper_tiny_en, dtype="int8")
    assert (opened.dtype_name, opened.int8) == ("float32", None)
    assert opened.warnings[0].startswith("model.dtype=int8: float32 instead, because ")
    if cause == "ARM":
        recognizer, exact = (
            NativeRecognizer(whisper_tiny_en, replace(INT8, dtype=each, window="full")) for each in ("int8", "float32")
        )
        assert (recognizer.dtype, recognizer.warnings) == ("float32", (opened.warnings[0], *exact.warnings))
        assert recognizer.transcribe(clips[:1], ["en"]) == exact.transcribe(clips[:1], ["en"])


def test_int8_is_refused_where_no_processor_supports_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.dtype=int8"):
        TransformersRecognizer(tmp_path, RecognizerOptions(dtype="int8"))
    with pytest.raises(RuntimeError, match="is for CPUs"):
        model.resolve_dtype("int8", torch.device("cuda", 0))
    with pytest.raises(RuntimeError, match="attention=auto or sdpa; found eager"):
        load_model(tmp_path, dtype="int8", attention="eager")
