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

PACKED_FOR_ROWS = 8  # rows that the layout is chosen for

Product = Callable[[Tensor], Tensor]  # a linear layer, however it is computed: shape (..., in) to (..., out)


@dataclass(frozen=True, slots=True)
class Affine:
    """Weight, shape (out, in), and bias, shape (out,) or none, of one linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


class PackedProduct:
    """A float32 product on a CPU, asked for a few rows at once: its weight lies as oneDNN's kernels read it.

    The operator is the one that torch's own frozen graphs call. For 512 inputs and 51,865 outputs it takes 10 ms for
    one row, 12 for six and 18 for sixteen, where the plain product takes 12, 26 and 33; for 2,048 outputs 0.70, 0.68
    and 0.97 ms where that takes 0.59, 1.08 and 1.25. A row's result is the same, to the bit, whatever is beside it. It
    costs a copy of the weight.
    """

    def __init__(self, exact: Affine) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(exact.weight, PACKED_FOR_ROWS)
        self._bias = exact.bias

    def __call__(self, hidden: Tensor) -> Tensor:
        return beside_another(self._product, hidden)

    def _product(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self._weight, self._bias, "none", [], "")  # type: ignore[no-any-return]


def joined(*parts: tuple[nn.Linear, float]) -> Affine:
    """Several linear layers of the same input as one, each scaled; a missing bias (Whisper's keys) is zero."""
    is_one = len(parts) == 1 and parts[0][1] == 1.0  # then its weight is shared, not copied
    weight = parts[0][0].weight if is_one else torch.cat([linear.weight * scale for linear, scale in parts])
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias * scale
        for linear, scale in parts
    ]
    return Affine(weight, torch.cat(biases))


def for_few_rows(exact: Affine) -> Product:
    """The layer, arranged to be asked for a few rows at once."""
    if exact.weight.device.type != "cpu":
        return exact
    return PackedProduct(exact) if exact.weight.dtype == torch.float32 else partial(beside_another, exact)


def beside_another(product: Product, hidden: Tensor) -> Tensor:
    """The product; of a single row, beside a copy of it."""
    if hidden.numel() > hidden.shape[-1]:
        return product(hidden)
    return product(hidden.reshape(1, -1).expand(2, -1))[:1].view(*hidden.shape[:-1], -1)
