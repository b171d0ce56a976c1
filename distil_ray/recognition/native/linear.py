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

from distil_ray.recognition.native.half_linear import HalfLinear, find_half_factor
from distil_ray.whisper.int8_kernels import MAX_INT8, pack
from distil_ray.whisper.processor import Int8Products, has_amx

PACKED_NUM_ROWS = 8  # the layout of packed weights is chosen for so many rows
ROWS_STEP = 50  # positions of a second: short windows are whole seconds
MAX_BLOCK_ROWS = 300

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
    """A layer on a CPU whose weight is stored as the kernels of oneDNN read it.

    In float32 it is for calls with a few rows; in bfloat16 on a processor with AMX for any number of them. oneDNN
    compiles a kernel for each number of rows, which takes 1 to 10 ms for AMX: bfloat16 rows are padded to one of a few
    numbers.

    The operator is the one of torch's own frozen graphs. For 512 inputs and 51,865 outputs it takes 10 ms for one row,
    12 for six and 18 for sixteen, where the plain product takes 12, 26 and 33; for 2,048 outputs 0.70, 0.68 and 0.97
    ms, where that takes 0.59, 1.08 and 1.25. The result of a row is the same, bit for bit, whatever is beside it. It
    costs a copy of the weight.
    """

    def __init__(self, linear: Linear) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight, PACKED_NUM_ROWS)
        self._bias = linear.bias

    def __call__(self, hidden: Tensor) -> Tensor:
        if hidden.dtype == torch.float32:
            return pad_single_row(self._product, hidden)
        rows = hidden.reshape(-1, hidden.shape[-1])
        num_missing = num_padded_rows(len(rows)) - len(rows)
        if not num_missing:
            return self._product(hidden)
        padded = functional.pad(rows, (0, 0, 0, num_missing))
        return self._product(padded)[: len(rows)].view(*hidden.shape[:-1], -1)

    def _product(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]


def runs_in_amx(tensor: Tensor) -> bool:
    """Returns whether products with this tensor are computed in the AMX tiles of the processor."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 and has_amx()


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


def prepare_for_windows(linear: Linear) -> Projection:
    """Returns the layer, arranged for calls with the positions of whole windows."""
    return PackedLinear(linear) if runs_in_amx(linear.weight) else linear


def prepare_for_steps(linear: Linear, has_many_rows: bool = False) -> Projection:
    """Returns the layer, arranged for the rows of a decoder step: a few or, with `has_many_rows`, some tens."""
    if linear.weight.device.type != "cpu":
        return linear
    if runs_in_amx(linear.weight):
        return PackedLinear(linear)
    if linear.weight.dtype != torch.float32:
        return partial(pad_single_row, linear)
    if (factor := find_half_factor(linear.weight)) is not None:
        return HalfLinear(linear.weight, linear.bias, factor, has_many_rows)
    return PackedLinear(linear)


def pad_single_row(product: Projection, hidden: Tensor) -> Tensor:
    """Returns the product; a single row is computed beside a copy of itself."""
    if hidden.numel() > hidden.shape[-1]:
        return product(hidden)
    return product(hidden.reshape(1, -1).expand(2, -1))[:1].view(*hidden.shape[:-1], -1)


def num_padded_rows(num: int) -> int:
    """Returns the number of rows that so many are padded to: up to 16 a multiple of 4, up to 128 of 16, else of 64."""
    if num % ROWS_STEP == 0:
        return num
    step = 4 if num <= 16 else 16 if num <= 128 else 64
    return -(-num // step) * step


def row_blocks(num: int) -> list[slice]:
    """Divides rows into blocks of about one size, multiples of `ROWS_STEP` but for the last, at most `MAX_BLOCK_ROWS`.

    What a layer of the encoder computes of a block stays in the processor's second-level cache, and a kernel is
    compiled for each size of blocks instead of each length of windows.
    """
    num_blocks = -(-num // MAX_BLOCK_ROWS)
    size = -(-num // (num_blocks * ROWS_STEP)) * ROWS_STEP
    return [slice(begin, min(begin + size, num)) for begin in range(0, num, size)]


class Int8Linear:
    """A layer in 8-bit products: a quarter of the bytes, up to four times the rate.

    Takes float32, shape (..., in), and returns float32, shape (..., out). Weights are integers of at most
    `Int8Products.max_weight` with a scale for each output. Activations are quantized in each call with a scale for each
    row, so that the result of a row depends on nothing but the row: integer products are exact in any order. Norms,
    convolutions, embeddings and most of attention (but see encoder_attention.py) stay in float32, whose last bit may
    depend on the batch; here a last bit may become a step of 1/127, and a near tie between two tokens may fall the
    other way.
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
