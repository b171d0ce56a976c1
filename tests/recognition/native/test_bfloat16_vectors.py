"""What is computed in bfloat16 on processors with AVX512-BF16 and without AMX is the same up to rounding."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native import decoder, encoder_attention
from distil_ray.recognition.native.encoder_attention import (
    attend_by_sdpa,
    attend_in_blocks,
    choose_window_attention,
)
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.whisper import processor
from distil_ray.whisper.processor import EIGHT_BITS, has_bfloat16_vectors
from tests.recognition.processors import needs_avx2, slow_if_emulated
from tests.support.clips import load_samples

INT8 = RecognizerOptions(dtype="int8", batch_size=2, window="gated", timestamps="word")


@pytest.mark.parametrize("is_masked", [False, True])
@pytest.mark.parametrize(("rows", "heads", "length"), [(1, 6, 50), (2, 8, 125), (3, 20, 301)])
def test_attention_in_blocks_is_that_of_sdpa(rows: int, heads: int, length: int, is_masked: bool) -> None:
    numbers = torch.Generator().manual_seed(length)
    query, key, value = torch.randn(rows, length, 3, heads, 32, generator=numbers).permute(2, 0, 3, 1, 4)
    query = query * 0.2
    if is_masked:  # silence behind the window
        key, value = (torch.cat([each, each[:, :, :24]], dim=2) for each in (key, value))
    mask = torch.randn(1, 1, 1, key.shape[2], generator=numbers) if is_masked else None
    expected, found = attend_by_sdpa(query, key, value, mask), attend_in_blocks(query, key, value, mask)
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()
    parts = [attend_in_blocks(query[row, None], key[row, None], value[row, None], mask) for row in range(rows)]
    assert torch.equal(torch.cat(parts), found)


@pytest.mark.parametrize("has_vectors", [False, True])
def test_it_is_used_where_numbers_may_be_rounded_and_the_processor_gains(
    has_vectors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_attention, "has_bfloat16_vectors", lambda: has_vectors)
    weight = torch.zeros(2, 2)
    rounded = attend_in_blocks if has_vectors else attend_by_sdpa
    assert choose_window_attention(weight, None) is attend_by_sdpa
    assert choose_window_attention(weight, EIGHT_BITS) is rounded
    assert choose_window_attention(weight.bfloat16(), None) is rounded


def test_processors_with_amx_do_not_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in (("avx512_bf16", True), ("avx512_bf16 amx_bf16", False), ("avx512_vnni", False)):
        with monkeypatch.context() as patch:
            patch.setattr(processor, "_read_cpu_flags", lambda flags=flags: frozenset(flags.split()))
            for cached in (has_bfloat16_vectors, processor.has_amx):
                patch.setattr(processor, cached.__name__, cached.__wrapped__)
            assert processor.has_bfloat16_vectors() is expected


@needs_avx2
@slow_if_emulated
@pytest.mark.parametrize("num_beams", [1, 2])  # hidden states, keys and values
def test_int8_gives_the_same_words_with_windows_in_bfloat16(
    num_beams: int, whisper_tiny_en: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = load_samples("librispeech-61")
    options = replace(INT8, num_beams=num_beams)
    found = []
    for has_vectors in (False, True):
        for module in (decoder, encoder_attention):
            monkeypatch.setattr(module, "has_bfloat16_vectors", lambda has_vectors=has_vectors: has_vectors)
        found.append(NativeRecognizer(whisper_tiny_en, options).transcribe([clip], ["en"])[0])
    exact, rounded = found
    assert rounded.text == exact.text
    assert rounded.avg_logprob == pytest.approx(exact.avg_logprob, abs=0.05)
    assert rounded.avg_logprob != exact.avg_logprob  # it was at work
    assert exact.words and rounded.words
    for mine, other in zip(rounded.words, exact.words, strict=True):
        assert mine.start_s == pytest.approx(other.start_s, abs=0.1)
        assert mine.end_s == pytest.approx(other.end_s, abs=0.1)
