"""Linear layers as plain weights, several of one input joined into one product.

On a CPU a row's result is the same, to the bit, whatever rows are beside it: kernels for two rows and more
were seen to add in the same order, those for a single row in another, so a single row is computed twice over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

PACKED_NUM_ROWS = 8  # rows that the layout is chosen for

Projection = Callable[[Tensor], Tensor]  # a linear layer, however it is computed: shape (..., in) to (..., out)


@dataclass(frozen=True, slots=True)
class Linear:
    """Weight, shape (out, in), and bias, shape (out,) or none, of one linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


class PackedLinear:
    """A float32 product on a CPU, asked for a few rows at once: its weight lies as oneDNN's kernels read it.

    The operator is the one that torch's own frozen graphs call. For 512 inputs and 51,865 outputs it takes 10 ms for
    one row, 12 for six and 18 for sixteen, where the plain product takes 12, 26 and 33; for 2,048 outputs 0.70, 0.68
    and 0.97 ms where that takes 0.59, 1.08 and 1.25. A row's result is the same, to the bit, whatever is beside it. It
    costs a copy of the weight.
    """

    def __init__(self, exact: Linear) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(exact.weight, PACKED_NUM_ROWS)
        self._bias = exact.bias

    def __call__(self, hidden: Tensor) -> Tensor:
        return pad_single_row(self._product, hidden)

    def _product(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]


def fuse_linears(*parts: tuple[nn.Linear, float]) -> Linear:
    """Several linear layers of the same input as one, each scaled; a missing bias (Whisper's keys) is zero."""
    is_one = len(parts) == 1 and parts[0][1] == 1.0  # then its weight is shared, not copied
    weight = parts[0][0].weight if is_one else torch.cat([linear.weight * scale for linear, scale in parts])
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias * scale
        for linear, scale in parts
    ]
    return Linear(weight, torch.cat(biases))


def prepare_for_few_rows(exact: Linear) -> Projection:
    """The layer, arranged to be asked for a few rows at once."""
    if exact.weight.device.type != "cpu":
        return exact
    return PackedLinear(exact) if exact.weight.dtype == torch.float32 else partial(pad_single_row, exact)


def pad_single_row(product: Projection, hidden: Tensor) -> Tensor:
    """The product; of a single row, beside a copy of it."""
    if hidden.numel() > hidden.shape[-1]:
        return product(hidden)
    return product(hidden.reshape(1, -1).expand(2, -1))[:1].view(*hidden.shape[:-1], -1)


MAX_INT8 = 127  # of the whole numbers that stand for weights and activations
_SHIFT = 128  # from signed to unsigned
_TINY = 1e-12  # scale of a row of zeros
_PART = 4096  # outputs whose weights are made whole together


class Int8Linear:
    """What `Affine` does, in 8 bits: float32 in, shape (..., in), float32 out, shape (..., out)."""

    def __init__(self, exact: Linear) -> None:
        self._scales = torch.maximum(exact.weight.amax(dim=1), exact.weight.amin(dim=1).neg_())
        self._scales.div_(MAX_INT8).clamp_(min=_TINY)
        whole = torch.empty(exact.weight.shape, dtype=torch.int8)
        for begin in range(0, len(whole), _PART):  # a whole vocabulary at once would take its float32 size again
            part = slice(begin, begin + _PART)
            whole[part] = (exact.weight[part] / self._scales[part, None]).round_()
        self._weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self._zeros = torch.zeros(len(whole), dtype=torch.int32)
        self._bias = torch.zeros(len(whole)) if exact.bias is None else exact.bias.clone()

    def __call__(self, hidden: Tensor) -> Tensor:
        rows = hidden.reshape(-1, hidden.shape[-1])
        scales = torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_())
        scales.div_(MAX_INT8).clamp_(min=_TINY)
        # Signed first: the conversion to unsigned bytes is three times slower. The highest bit is the shift.
        whole = (rows / scales).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_SHIFT)
        product = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, _SHIFT, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        torch.addcmul(self._bias, product, scales, out=product)
        return product.view(*hidden.shape[:-1], -1)  # type: ignore[no-any-return]
