"""Linear layers in products of 8-bit floating-point numbers, for GPUs that have them (Ada, Hopper and later).

Such products have twice the rate of bfloat16, and weights take half of the bytes. Weights have a scale for each output,
activations one for each row, chosen in each call, so that the largest number of a row is the largest that the type can
hold. The result of a row depends on nothing but the row, and is bfloat16. The product is torch's own (`scaled_mm`).

A number of the type (float8_e4m3fn) has 4 significant bits. Results differ from those of bfloat16 by 3 % of their size
(root mean square), so that tokens may differ where two are nearly as likely. Whether the texts are as good is a
question of the checkpoint: compare word error rates.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distil_ray.recognition.native.linear import Int8Linear, Linear, Projection, prepare_for_windows
from distil_ray.whisper.processor import Int8Products

FLOAT8 = torch.float8_e4m3fn
MAX_FLOAT8 = torch.finfo(FLOAT8).max  # 448
_TINY = 1e-12  # scale of a row of zeros
_MULTIPLE = 16  # of the outputs, which the products of a GPU need
TRIAL_TOLERANCE = 0.02  # of the largest number of a product, beside the same product in float32
FIRST_TORCH = "2.10"  # with `scaled_mm`


class Float8Linear:
    """One layer. Takes hidden states, shape (..., in), and returns bfloat16, shape (..., out)."""

    def __init__(self, linear: Linear) -> None:
        num_outputs = len(linear.weight)
        padding = (0, 0, 0, -num_outputs % _MULTIPLE)  # Whisper's vocabulary has 51,865 outputs, or one more
        quantized, scales = quantize_rows(functional.pad(linear.weight, padding))
        self._weight, self._scales = quantized.t(), scales.t().contiguous()
        self._bias = None if linear.bias is None else functional.pad(linear.bias, padding[2:]).to(torch.bfloat16)
        self._num_outputs = num_outputs

    def __call__(self, hidden: Tensor) -> Tensor:
        quantized, scales = quantize_rows(hidden.reshape(-1, hidden.shape[-1]))
        kind: Any = functional.ScalingType.RowWise  # type: ignore[attr-defined, unused-ignore]
        product = functional.scaled_mm(  # type: ignore[attr-defined, unused-ignore]
            quantized,
            self._weight,
            scales,
            kind,
            self._scales,
            kind,
            bias=self._bias,
            output_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
        return product[:, : self._num_outputs].view(*hidden.shape[:-1], -1)


class Float8Layers:
    """All layers of a recognizer in 8 bits, each beside the plain one until `settle` has decided for one of them."""

    def __init__(self) -> None:
        self._layers: list[_ComparedLayer] = []

    def add(self, linear: Linear) -> Projection:
        """Returns a layer in 8 bits."""
        layer = _ComparedLayer(linear)
        self._layers.append(layer)
        return layer

    def switch(self, is_on: bool) -> None:
        """Makes all layers compute in 8 bits, or as they are."""
        for layer in self._layers:
            layer.switch(is_on)

    def settle(self) -> None:
        """Frees the weights that are not in use. No layer can be switched then."""
        for layer in self._layers:
            layer.settle()
        self._layers.clear()


class _ComparedLayer:
    """A layer in 8 bits and the plain one; one of them is in use."""

    def __init__(self, linear: Linear) -> None:
        self._both: tuple[Projection, Projection] | None = (linear, Float8Linear(linear))
        self._used: Projection = self._both[1]

    def switch(self, is_on: bool) -> None:
        assert self._both is not None, "settled"
        self._used = self._both[is_on]

    def settle(self) -> None:
        self._both = None

    def __call__(self, hidden: Tensor) -> Tensor:
        return self._used(hidden)


def quantize(linear: Linear, int8: Int8Products | None, float8: Float8Layers | None) -> Projection:
    """Returns a layer of whole windows, in 8 bits where one of the two is given."""
    if int8 is not None:
        return Int8Linear(linear, int8)
    return prepare_for_windows(linear) if float8 is None else float8.add(linear)


def quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows, shape (rows, numbers), in 8 bits, and their scales, float32, shape (rows, 1)."""
    scales = torch.linalg.vector_norm(rows, float("inf"), dim=1, keepdim=True, dtype=torch.float32)
    scales = scales.clamp(min=_TINY) / MAX_FLOAT8
    return (rows / scales).to(FLOAT8), scales


def create_layers(device: torch.device) -> Float8Layers:
    """Returns a collection of layers for a device. Raises `RuntimeError` if it has no 8-bit products."""
    check_products(device)
    return Float8Layers()


def check_products(device: torch.device) -> None:
    """Computes a small product on the device, before anything is loaded.

    Raises:
        RuntimeError: torch or the device has no such products, or the result is wrong.
    """
    if not hasattr(functional, "scaled_mm"):
        raise RuntimeError(
            f"model.dtype=float8 needs torch {FIRST_TORCH} or later; found {torch.__version__}. Set auto or bfloat16"
        )
    numbers = torch.Generator().manual_seed(0)
    weight, bias, rows = (torch.randn(*shape, generator=numbers).to(device) for shape in ((33, 64), (33,), (5, 64)))
    exact = functional.linear(_rounded(rows), _rounded(weight), bias)
    try:
        difference = float((Float8Linear(Linear(weight, bias))(rows) - exact).abs().max() / exact.abs().max())
    except Exception as error:  # whatever a library raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"model.dtype=float8 cannot be used here: {reason}. Set auto or bfloat16") from error
    if not difference <= TRIAL_TOLERANCE:
        raise RuntimeError(
            f"model.dtype=float8 cannot be used here: a product differs from float32 by {difference:.2g} of its size."
            " Set auto or bfloat16"
        )


def _rounded(rows: Tensor) -> Tensor:
    quantized, scales = quantize_rows(rows)
    return quantized.float() * scales
