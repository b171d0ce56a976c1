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
    """Weight, shape (out, in), and bias, shape (out,), of one linear layer."""

    weight: Tensor
    bias: Tensor
    is_for_few_rows: bool = False

    def __call__(self, hidden: Tensor) -> Tensor:
        if self.is_for_few_rows:
            return beside_another(partial(functional.linear, weight=self.weight, bias=self.bias), hidden)
        return functional.linear(hidden, self.weight, self.bias)


class PackedProduct:
    """A product with a large float32 weight, shape (out, in), on a CPU, which lies as oneDNN's kernels read it.

    The operator is the one that torch's own frozen graphs call. For 512 inputs and 51,865 outputs it takes 10 ms for
    one row, 12 for six and 18 for sixteen, where the product from the left takes 12, 21 and 22 and the plain one 12, 26
    and 33; and a row's result is the same, to the bit, whatever is beside it. It costs a copy of the weight.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_FOR_ROWS)

    def __call__(self, hidden: Tensor) -> Tensor:
        return beside_another(self._product, hidden)

    def _product(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self._weight, None, "none", [], "")  # type: ignore[no-any-return]


def joined(*parts: tuple[nn.Linear, float], few_rows: bool = False) -> Affine:
    """Several linear layers of the same input as one, each scaled; a missing bias (Whisper's keys) is zero.

    `few_rows`: the product is mostly asked for a few rows at once. In float32 on a CPU the weight then lies turned in
    memory, (in, out), which takes half the time for 8 to 16 rows.
    """
    is_one = len(parts) == 1 and parts[0][1] == 1.0  # then its weight is shared, not copied
    weight = parts[0][0].weight if is_one else torch.cat([linear.weight * scale for linear, scale in parts])
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias * scale
        for linear, scale in parts
    ]
    is_for_few_rows = few_rows and weight.device.type == "cpu"
    if is_for_few_rows and weight.dtype == torch.float32:
        weight = weight.t().contiguous().t()
    return Affine(weight, torch.cat(biases), is_for_few_rows)


def beside_another(product: Product, hidden: Tensor) -> Tensor:
    """The product; of a single row, beside a copy of it."""
    if hidden.numel() > hidden.shape[-1]:
        return product(hidden)
    return product(hidden.reshape(1, -1).expand(2, -1))[:1].view(*hidden.shape[:-1], -1)
