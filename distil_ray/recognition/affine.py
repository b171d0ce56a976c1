"""Linear layers as plain weights, several of one input joined into one product."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Product = Callable[[Tensor], Tensor]  # a linear layer, however it is computed: shape (..., in) to (..., out)


@dataclass(frozen=True, slots=True)
class Affine:
    """Weight, shape (out, in), and bias, shape (out,), of one linear layer."""

    weight: Tensor
    bias: Tensor

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


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
    if few_rows and weight.device.type == "cpu" and weight.dtype == torch.float32:
        weight = weight.t().contiguous().t()
    return Affine(weight, torch.cat(biases))
