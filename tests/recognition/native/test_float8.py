"""Linear layers in 8-bit floating-point products: torch computes them on CPUs too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native import float8
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.float8 import Float8Layers, Float8Linear, check_products, quantize_rows
from distil_ray.recognition.native.linear import Linear
from distil_ray.recognition.native.recognizer import NativeRecognizer
from distil_ray.whisper import model as model_module
from distil_ray.whisper.features import LogMel
from distil_ray.whisper.model import open_model, resolve_dtype
from tests.support.clips import load_samples

needs_products = pytest.mark.skipif(
    not hasattr(functional, "scaled_mm"), reason=f"needs torch {float8.FIRST_TORCH} or later"
)

OPTIONS = RecognizerOptions(dtype="float8", batch_size=2, window="gated", max_new_tokens=12)
CPU = torch.device("cpu")


def random_tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_products
@pytest.mark.parametrize("num_outputs", [32, 33])  # a multiple of 16, and one that is padded
def test_the_product_is_that_of_the_rounded_numbers(num_outputs: int) -> None:
    weight, bias, hidden = random_tensor(num_outputs, 64), random_tensor(num_outputs), random_tensor(2, 3, 64, seed=1)
    hidden[0, 0] *= 1000  # each row has its own scale
    hidden[1, 2] = 0
    rows, scales = quantize_rows(hidden.view(6, 64))
    columns, column_scales = quantize_rows(weight)
    exact = functional.linear(rows.float() * scales, columns.float() * column_scales, bias).view(2, 3, num_outputs)

    found = Float8Linear(Linear(weight, bias))(hidden.to(torch.bfloat16))

    assert found.shape == exact.shape and found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), exact, rtol=0.02, atol=0.1 * float(exact[0, 1].abs().max()))
    assert torch.allclose(found[1, 2].float(), bias, rtol=0.01)


def test_numbers_keep_four_significant_bits_whatever_their_size() -> None:
    rows = random_tensor(8, 64) * torch.logspace(-6, 6, 8)[:, None]
    quantized, scales = quantize_rows(rows)
    error = (quantized.float() * scales - rows).abs()
    assert bool((error <= rows.abs() / 16 + rows.abs().amax(dim=1, keepdim=True) * 2**-17).all())
    assert float(quantized.float().abs().max()) == 448


@needs_products
def test_a_row_does_not_depend_on_its_neighbors() -> None:
    layer = Float8Linear(Linear(random_tensor(48, 64), None))
    rows = random_tensor(5, 64, seed=2).to(torch.bfloat16)
    assert torch.equal(layer(rows)[3:4], layer(rows[3:4]))


@needs_products
def test_hidden_states_of_real_speech_are_near_those_of_bfloat16(whisper_tiny_en: Path) -> None:
    features = LogMel(80)([load_samples("cards-001")], 200)
    loaded = [open_model(whisper_tiny_en, dtype="bfloat16") for _ in range(2)]
    plain = Encoder(loaded[0].module)(features).float()
    rounded = Encoder(loaded[1].module, float8=Float8Layers())(features).float()
    assert (rounded - plain).norm() < 0.12 * plain.norm()


@needs_products
def test_a_recognizer_computes_in_8_bits_once_they_pass_the_check(small_checkpoint: Path) -> None:
    recognizer = NativeRecognizer(small_checkpoint, OPTIONS)
    assert recognizer.dtype == "float8"
    assert any(text.startswith("model.dtype=float8: 8-bit products; its results agree") for text in recognizer.warnings)
    assert all(layer._both is None for layer in layers_of(recognizer)), "the weights of bfloat16 are freed"


@needs_products
def test_products_that_differ_too_much_are_replaced(small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = load_samples("cards-005")
    plain = NativeRecognizer(small_checkpoint, replace(OPTIONS, dtype="bfloat16"))
    (expected,) = plain.transcribe([clip], ["en"])
    product = Float8Linear.__call__
    monkeypatch.setattr(Float8Linear, "__call__", lambda layer, hidden: product(layer, hidden) * float("nan"))
    monkeypatch.setattr(float8, "check_products", lambda device: None)

    recognizer = NativeRecognizer(small_checkpoint, OPTIONS)

    assert recognizer.dtype == "bfloat16"
    assert any(text.startswith("model.dtype=float8: bfloat16, as 8-bit products") for text in recognizer.warnings)
    assert recognizer.transcribe([clip], ["en"]) == [expected]


@needs_products
def test_a_device_without_such_products_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Tensor:
        raise NotImplementedError("scaled_mm is for compute capability 8.9\nand more")

    check_products(CPU)
    monkeypatch.setattr(functional, "scaled_mm", lambda first, *_, **__: torch.zeros(5, 48))
    with pytest.raises(RuntimeError, match="differs from float32 by 1 of its size"):
        check_products(CPU)
    monkeypatch.setattr(functional, "scaled_mm", refuse)
    with pytest.raises(RuntimeError, match=r"cannot be used here: scaled_mm is for compute capability 8\.9\. Set"):
        check_products(CPU)
    monkeypatch.delattr(functional, "scaled_mm")
    with pytest.raises(RuntimeError, match=r"needs torch 2\.10 or later"):
        check_products(CPU)


def test_gpus_older_than_ada_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "NVIDIA A100")
    for capability in ((8, 0), (8, 9), (9, 0)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device, found=capability: found)
        if capability >= model_module.FLOAT8_CAPABILITY:
            assert resolve_dtype("float8", torch.device("cuda")) == (torch.bfloat16, None)
            continue
        with pytest.raises(RuntimeError, match=r"needs a GPU of CUDA capability 8\.9 .*; NVIDIA A100 has 8\.0"):
            resolve_dtype("float8", torch.device("cuda"))


def layers_of(recognizer: NativeRecognizer) -> list[Any]:
    layers = [each.fc1 for each in recognizer._encoder._layers] + [recognizer._decoder._vocabulary]
    assert all(isinstance(each._used, Float8Linear) for each in layers)
    return layers
