"""Products with weights in 16 bits are those of the same numbers in float32, and rows are independent."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distil_ray.recognition.native.half_linear import HALF_ENGINES, HalfLinear, find_half_factor
from distil_ray.recognition.native.linear import Linear, PackedLinear, fuse_linears, prepare_for_steps
from distil_ray.whisper.stored_model import StoredModel

needs_kernel = pytest.mark.skipif(
    torch.backends.quantized.engine not in HALF_ENGINES, reason="this processor has no kernel for float16 weights"
)


@needs_kernel
@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_product_is_that_of_float32_and_rows_are_independent(seed: int, num_rows: int) -> None:
    numbers = torch.Generator().manual_seed(seed)
    weight = torch.randn(48, 96, generator=numbers).half().float()
    bias, rows = torch.randn(48, generator=numbers), torch.randn(num_rows, 96, generator=numbers)
    product = prepare_for_steps(Linear(weight, bias))
    assert isinstance(product, HalfLinear)
    found = product(rows)
    exact = rows.double() @ weight.double().T + bias
    assert (found - exact).abs().max() < 1e-4
    assert torch.equal(torch.cat([product(row[None]) for row in rows]), found)
    assert torch.equal(product(rows[None, None])[0, 0], found)


@needs_kernel
@pytest.mark.parametrize("has_bias", [True, False])
def test_blocks_of_outputs_for_many_rows_give_the_same_numbers(has_bias: bool) -> None:
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(5001, 512, generator=numbers).half().float()
    linear = Linear(weight, torch.randn(5001, generator=numbers) if has_bias else None)
    whole, divided = prepare_for_steps(linear), prepare_for_steps(linear, has_many_rows=True)
    assert isinstance(whole, HalfLinear) and isinstance(divided, HalfLinear)
    assert (len(whole._packed), len(divided._packed)) == (1, 5)
    for shape in ((1, 512), (80, 512), (16, 5, 512)):
        rows = torch.randn(shape, generator=numbers)
        assert torch.equal(divided(rows), whole(rows))
    small = prepare_for_steps(Linear(weight[:2048], None), has_many_rows=True)
    assert isinstance(small, HalfLinear) and len(small._packed) == 1


@needs_kernel
def test_weights_with_the_scale_of_attention_give_the_same_bits_as_without(whisper_tiny_en: Path) -> None:
    layers = StoredModel(whisper_tiny_en, torch.float32, torch.device("cpu")).model.decoder.layers
    attention = next(iter(layers)).self_attn
    query, key = attention.q_proj, attention.k_proj
    scaled, plain = fuse_linears((query, attention.scaling), (key, 1.0)), fuse_linears((query, 1.0), (key, 1.0))
    assert attention.scaling == 1 / 8
    assert (find_half_factor(plain.weight), find_half_factor(scaled.weight)) == (1.0, 8.0)
    rows = torch.randn(16, query.weight.shape[1], generator=torch.Generator().manual_seed(0))
    expected = prepare_for_steps(plain)(rows)
    expected[:, : query.out_features] /= 8
    assert torch.equal(prepare_for_steps(scaled)(rows), expected)


@needs_kernel
@pytest.mark.parametrize("number", [1e-9, 1.0001, 70_000.0, float("nan")])
def test_a_weight_with_another_number_stays_in_float32(number: float) -> None:
    weight = torch.ones(8, 16)
    assert find_half_factor(weight) == 1.0
    weight[7, 15] = number
    assert find_half_factor(weight) is None
    assert isinstance(prepare_for_steps(Linear(weight, None)), PackedLinear)


def test_a_processor_without_the_kernel_stays_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distil_ray.recognition.native.half_linear.HALF_ENGINES", ())
    assert find_half_factor(torch.ones(8, 16)) is None
