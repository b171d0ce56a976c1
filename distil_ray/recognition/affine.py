"""Linear layers as plain weights, several of one input joined into one product."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Affine:
    """Weight, shape (out, in), and bias, shape (out,), of one linear layer."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


def joined(*parts: tuple[nn.Linear, float]) -> Affine:
    """Several linear layers of the same input as one, each scaled; a missing bias (Whisper's keys) is zero."""
    if len(parts) == 1 and parts[0][1] == 1.0:
        return Affine(parts[0][0].weight, parts[0][0].bias)
    weights = [linear.weight * scale for linear, scale in parts]
    biases = [
        linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias * scale
        for linear, scale in parts
    ]
    return Affine(torch.cat(weights), torch.cat(biases))
