"""Cross-attention over hidden states is that over keys and values, and a row's does not depend on its neighbors."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.linear import Linear
from distil_ray.recognition.native.state_attention import StateProjection, attend_to_states, can_read_states
from distil_ray.whisper.model import open_model

WINDOWS = (200, 200, 130, 300, 60)  # positions of the rows of a batch; two of one length follow each other


@pytest.fixture(scope="module")
def decoders(whisper_tiny_en: Path) -> tuple[Encoder, Decoder, Decoder]:
    """An encoder with silence behind windows, a decoder with keys and values, and one with hidden states."""
    module = open_model(whisper_tiny_en, dtype="float32").module
    encoder = Encoder(module)
    encoder.add_silence_context()
    return encoder, Decoder(module), Decoder(module, reads_states=True)


@torch.inference_mode()
def run_prompts(encoder: Encoder, decoder: Decoder, rows: list[int], num_ids: int) -> tuple[KVCache, Tensor]:
    """Returns the cache with some of the windows, and the hidden states of their prompts."""
    numbers = torch.Generator().manual_seed(0)
    windows = [torch.randn(1, encoder._num_bins, 2 * length, generator=numbers) for length in WINDOWS]
    encoded = [encoder(windows[row]) for row in rows]
    cache = decoder.new_cache(len(rows))
    cache.lay_out([each.shape[1] for each in encoded])
    for slot, (row, states) in enumerate(zip(rows, encoded, strict=True)):
        decoder.write_windows(states, cache, torch.tensor([slot]), WINDOWS[row])
    ids = torch.stack([torch.arange(num_ids) * 7 % 50 + row for row in rows])
    longest = max(each.shape[1] for each in encoded)
    return cache, decoder.prefill(ids, cache, torch.arange(len(rows)), longest)


@torch.inference_mode()
def run_step(decoder: Decoder, cache: KVCache, rows: list[int], position: int, num_ids: int) -> Tensor:
    ids = torch.stack([torch.arange(num_ids) * 3 % 50 + row for row in rows])
    positions = torch.arange(position, position + num_ids).expand(len(rows), -1)
    longest = int(cache.encoder_lengths.max())
    return decoder.step(ids, positions, cache, position + num_ids, longest, is_ragged=True)


@pytest.mark.parametrize("num_ids", [1, 4])
@pytest.mark.parametrize("prompt", [1, 5, 70])  # as many as a head has numbers, and more
def test_hidden_states_give_what_keys_and_values_give(
    prompt: int, num_ids: int, decoders: tuple[Encoder, Decoder, Decoder]
) -> None:
    encoder, *both = decoders
    rows = list(range(len(WINDOWS)))
    found = []
    for decoder in both:
        cache, prompts = run_prompts(encoder, decoder, rows, prompt)
        found.append(torch.cat([prompts, run_step(decoder, cache, rows, prompt, num_ids)], dim=1))
    expected, other = found
    assert (other - expected).abs().max() < 1e-4 * expected.abs().max()


def test_both_caches_hold_what_they_should(decoders: tuple[Encoder, Decoder, Decoder]) -> None:
    encoder, projects, reads_states = decoders
    with_keys, _ = run_prompts(encoder, projects, [0, 1], 2)
    with_states, _ = run_prompts(encoder, reads_states, [0, 1], 2)
    assert with_keys.states is None and with_keys.blocks
    assert with_states.states is not None and not with_states.blocks
    assert reads_states.bytes_per_slot() < projects.bytes_per_slot()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_gives_the_same_bits_alone_and_beside_others(
    threads: int, decoders: tuple[Encoder, Decoder, Decoder]
) -> None:
    encoder, _, decoder = decoders
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        everyone = list(range(len(WINDOWS)))
        cache, prompts = run_prompts(encoder, decoder, everyone, 5)
        together = torch.cat([prompts, run_step(decoder, cache, everyone, 5, 1)], dim=1)
        for row in everyone:
            cache, prompts = run_prompts(encoder, decoder, [row], 5)
            alone = torch.cat([prompts, run_step(decoder, cache, [row], 5, 1)], dim=1)
            assert torch.equal(alone[0], together[row]), f"row {row}"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("heads", "width"), [(6, 384), (8, 512), (20, 1280)])
def test_whisper_s_shapes_give_the_same_bits_for_any_number_of_rows(heads: int, width: int, threads: int) -> None:
    numbers = torch.Generator().manual_seed(0)
    linear = Linear(torch.randn(2 * width, width, generator=numbers) / width**0.5, torch.randn(2 * width))
    projection = StateProjection(linear, heads)
    query = torch.randn(17, 1, heads, width // heads, generator=numbers)
    states = torch.randn(17, 317, width, generator=numbers)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        queries = projection.project_queries(query)
        expected = projection.project_sums(attend_to_states(queries, states, None))
        for num in (1, 2, 3, 5, 16):
            mine = projection.project_queries(query[:num])
            assert torch.equal(mine, queries[:num])
            found = projection.project_sums(attend_to_states(mine, states[:num], None))
            assert torch.equal(found, expected[:num]), f"{num} rows"
    finally:
        torch.set_num_threads(before)


def test_keys_for_alignment_are_those_of_the_other_cache(decoders: tuple[Encoder, Decoder, Decoder]) -> None:
    encoder, *both = decoders
    heads, slots = torch.tensor([1, 0]), torch.tensor([2, 0])
    found = []
    for decoder in both:
        cache, _ = run_prompts(encoder, decoder, [0, 2, 4], 2)
        length = int(cache.encoder_lengths[2])
        found.append(decoder.keys(cache, 1, slots, length, heads))
    expected, other = found
    assert other.shape == expected.shape
    assert torch.allclose(other, expected, atol=1e-4)


def test_rows_move_with_their_states(decoders: tuple[Encoder, Decoder, Decoder]) -> None:
    encoder, _, decoder = decoders
    cache, _ = run_prompts(encoder, decoder, [0, 2, 4], 5)
    expected = run_step(decoder, cache, [0, 2, 4], 5, 1)[2]
    with torch.inference_mode():
        cache.move_rows([2], [0], 6, int(cache.encoder_lengths.max()))
    found = run_step(decoder, cache, [4], 5, 1)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "device", "expected"), [("float32", "cpu", True), ("bfloat16", "cpu", False), ("float32", "meta", False)]
)
def test_states_are_read_in_float32_on_a_cpu(dtype: str, device: str, expected: bool) -> None:
    assert can_read_states(torch.zeros(1, dtype=getattr(torch, dtype), device=device)) == expected
