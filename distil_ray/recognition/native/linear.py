"""Linear layers of the encoder and the decoder: fused, packed for a few rows, or in 8 bits.

On a CPU the result of a row is the same, bit for bit, whatever rows are beside it. Kernels for two rows and more were
seen to add in one order, those for a single row in another; so a single row is computed beside a copy of itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from distil_ray.recognition.native.half_linear import HalfLinear, is_half_exact
from distil_ray.whisper.int8_kernels import MAX_INT8, pack
from distil_ray.whisper.processor import Int8Products

PACKED_NUM_ROWS = 8  # the layout of packed weights is chosen for so many rows

Projection = Callable[[Tensor], Tensor]  # any linear layer: shape (..., in) to (..., out)

_TINY = 1e-12  # scale of a row of zeros
_QUANTIZED_AT_ONCE = 4096  # outputs whose weights are quantized together


@dataclass(frozen=True, slots=True)
class Linear:
    """Weight, shape (out, in), and bias, shape (out,) or None, of one linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


class PackedLinear:
    """A float32 layer on a CPU that is called with a few rows: its weight is stored as the kernels of oneDNN read it.

    The operator is the one of torch's own frozen graphs. For 512 inputs and 51,865 outputs it takes 10 ms for one row,
    12 for six and 18 for sixteen, where the plain product takes 12, 26 and 33; for 2,048 outputs 0.70, 0.68 and 0.97
    ms, where that takes 0.59, 1.08 and 1.25. The result of a row is the same, bit for bit, whatever is beside it. It
    costs a copy of the weight.
    """

    def __init__(self, linear: Linear) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight, PACKED_NUM_ROWS)
        self._bias = linear.bias

    def __call__(self, hidden: Tensor) -> Tensor:
        return pad_single_row(self._product, hidden)

    def _product(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]


def fuse_linears(*parts: tuple[nn.Linear, float]) -> Linear:
    """Returns several linear layers of the same input as one, each scaled.

    A missing bias (Whisper's keys have none) becomes zero.
    """
    is_one = len(parts) == 1 and parts[0][1] == 1.0  # its weight is then shared, not copied
    weight = parts[0][0].weight if is_one else torch.cat([linear.weight * scale for linear, scale in parts])
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias * scale
        for linear, scale in parts
    ]
    return Linear(weight, torch.cat(biases))


def prepare_for_few_rows(linear: Linear) -> Projection:
    """Returns the layer, arranged for calls with a few rows."""
    if linear.weight.device.type != "cpu":
        return linear
    if linear.weight.dtype != torch.float32:
        return partial(pad_single_row, linear)
    return HalfLinear(linear.weight, linear.bias) if is_half_exact(linear.weight) else PackedLinear(linear)


def pad_single_row(product: Projection, hidden: Tensor) -> Tensor:
    """Returns the product; a single row is computed beside a copy of itself."""
    if hidden.numel() > hidden.shape[-1]:
        return product(hidden)
    return product(hidden.reshape(1, -1).expand(2, -1))[:1].view(*hidden.shape[:-1], -1)


class Int8Linear:
    """A layer in 8-bit products: a quarter of the bytes, up to four times the rate.

    Takes float32, shape (..., in), and returns float32, shape (..., out). Weights are integers of at most
    `Int8Products.max_weight` with a scale for each output. Activations are quantized in each call with a scale for each
    row, so that the result of a row depends on nothing but the row: integer products are exact in any order. Attention,
    norms, convolutions and embeddings stay in float32, whose last bit may depend on the batch; here a last bit may
    become a step of 1/127, and a near tie between two tokens may fall the other way.
    """

    def __init__(self, linear: Linear, products: Int8Products) -> None:
        scales = torch.maximum(linear.weight.amax(dim=1), linear.weight.amin(dim=1).neg_())
        scales.div_(products.max_weight).clamp_(min=_TINY)
        quantized = torch.empty(linear.weight.shape, dtype=torch.int8)
        for begin in range(
            0, len(quantized), _QUANTIZED_AT_ONCE
        ):  # all at once, a vocabulary would take its float32 size again
            part = slice(begin, begin + _QUANTIZED_AT_ONCE)
            quantized[part] = (linear.weight[part] / scales[part, None]).round_()
        self._product = pack(quantized, scales, products)
        self._bias = torch.zeros(len(quantized)) if linear.bias is None else linear.bias.clone()

    def __call__(self, hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        scales = torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_())
        scales.div_(MAX_INT8).clamp_(min=_TINY)
        product = self._product(rows / scales)
        torch.addcmul(self._bias, product, scales, out=product)
        return product.view(*hidden.shape[:-1], -1)
