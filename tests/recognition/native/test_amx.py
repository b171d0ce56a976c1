"""What the recognizer computes in another way on processors with AMX is the same up to rounding.

The other ways are taken here in float32, so that any processor can compare them closely, and in bfloat16 where the
processor has AMX.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distil_ray.recognition.native import attention, encoder, kv_cache
from distil_ray.recognition.native.attention import masked_attention
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.linear import (
    MAX_BLOCK_ROWS,
    ROWS_STEP,
    Linear,
    PackedLinear,
    num_padded_rows,
    prepare_for_windows,
    row_blocks,
)
from distil_ray.whisper.model import open_model
from distil_ray.whisper.processor import has_amx

CPU = torch.device("cpu")
needs_amx = pytest.mark.skipif(not has_amx(), reason="the processor has no AMX")


@given(st.integers(1, 3000))
def test_blocks_cover_all_rows_and_have_few_sizes(num: int) -> None:
    blocks = row_blocks(num)
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(range(num))
    sizes = [block.stop - block.start for block in blocks]
    assert all(size <= MAX_BLOCK_ROWS and size % ROWS_STEP == 0 for size in sizes[:-1])
    assert len(set(sizes)) <= 2
    assert sizes[-1] <= MAX_BLOCK_ROWS


@given(st.integers(1, 2000))
def test_rows_are_padded_to_few_numbers(num: int) -> None:
    padded = num_padded_rows(num)
    assert num <= padded < num + 64
    assert num_padded_rows(padded) == padded
    assert len({num_padded_rows(each) for each in range(1, 65)}) <= 8
    assert num_padded_rows(80) == num_padded_rows(75) == 80  # sixteen chunks with five beams


@needs_amx
@pytest.mark.parametrize("num_rows", [1, 16, 50])
def test_a_packed_product_is_that_of_the_plain_layer_and_rows_are_independent(num_rows: int) -> None:
    numbers = torch.Generator().manual_seed(num_rows)
    weight, bias = torch.randn(96, 64, generator=numbers).bfloat16(), torch.randn(96, generator=numbers).bfloat16()
    rows = torch.randn(num_rows, 64, generator=numbers).bfloat16()
    product = prepare_for_windows(Linear(weight, bias))
    assert isinstance(product, PackedLinear)
    found = product(rows[None])
    assert found.shape == (1, num_rows, 96)
    exact = rows.double() @ weight.double().T + bias
    assert (found[0] - exact).abs().max() < 0.01 * exact.abs().max()
    assert torch.equal(torch.cat([product(row[None]) for row in rows[-3:]]), found[0, -3:])


@pytest.mark.parametrize("has_silence", [False, True])
def test_an_encoder_in_blocks_gives_the_same_states(
    has_silence: bool, small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = open_model(small_checkpoint, dtype="float32").module
    plain = Encoder(module)
    monkeypatch.setattr(encoder, "runs_in_amx", lambda _: True)
    in_blocks = Encoder(module)
    if has_silence:
        plain.add_silence_context()
        in_blocks.add_silence_context()
    features = torch.randn(2, module.config.num_mel_bins, 700, generator=torch.Generator().manual_seed(0))
    expected, found = plain(features), in_blocks(features)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()


def test_attention_in_one_kernel_is_that_of_plain_products(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.Generator().manual_seed(0)
    query, values = torch.randn(3, 2, 5, 8, generator=numbers), torch.randn(3, 2, 70, 8, generator=numbers)
    keys = torch.randn(3, 2, 8, 70, generator=numbers)
    mask = torch.randn(3, 1, 1, 70, generator=numbers)
    mask[1, ..., 40:] = float("-inf")
    expected = masked_attention(query, keys, values, mask)
    monkeypatch.setattr(attention, "runs_in_amx", lambda _: True)
    assert torch.allclose(masked_attention(query, keys, values, mask), expected, atol=1e-5)


@pytest.mark.parametrize("is_amx", [False, True])
def test_the_cache_holds_keys_as_attention_reads_them(is_amx: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "has_amx", lambda: is_amx)
    cache = KVCache(
        layers=1,
        slots=2,
        heads=2,
        head_size=4,
        positions=16,
        encoder_positions=32,
        dtype=torch.bfloat16,
        device=CPU,
    )
    cache.lay_out([32, 32])
    keys, values = cache.cross_kv(0, 0)
    assert keys.shape == (2, 4, 32)
    assert values.shape == (2, 32, 4)
    assert (keys.transpose(1, 2) if is_amx else keys).is_contiguous()


def test_silence_that_was_projected_once_is_that_of_each_window(small_checkpoint: Path) -> None:
    module = open_model(small_checkpoint, dtype="float32").module
    windows = Encoder(module)
    windows.add_silence_context()
    encoded = windows(torch.randn(1, module.config.num_mel_bins, 200, generator=torch.Generator().manual_seed(0)))
    caches = []
    for knows_silence in (False, True):
        decoder = Decoder(module)
        if knows_silence:
            decoder.add_silence(windows.silence)
        cache = decoder.new_cache(1)
        decoder.write_windows(encoded, cache, torch.tensor([0]), window_positions=100)
        caches.append(
            [part.clone() for layer in range(module.config.decoder_layers) for part in cache.cross_kv(layer, 0)]
        )
    assert encoded.shape[1] > 100
    for expected, found in zip(*caches, strict=True):
        assert torch.allclose(found, expected, atol=1e-4)
