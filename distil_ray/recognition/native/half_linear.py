"""Linear layers with weights in 16 bits that compute in float32, for calls with a few rows on a CPU.

Whisper was trained in float16, and every number of OpenAI's checkpoints is one, also where a checkpoint stores float32.
Such weights can be read in 16 bits without changing a single one. A decoder step reads each weight once for a few rows,
so that half of the bytes are much of its time.
"""

import torch
from torch import Tensor

HALF_ENGINES = ("x86", "fbgemm")  # of torch's quantized operators: those that have the kernel
_CHECKED_AT_ONCE = 4096  # outputs


class HalfLinear:
    """A layer whose weight is stored in float16. Takes and returns float32.

    The operator is the one of torch's dynamic quantization to float16, whose kernel (FBGEMM) expands the weights to
    float32 in registers. The result of a row is the same, bit for bit, whatever is beside it, and also alone.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Packs a layer for which `is_half_exact` is true.

        Args:
            weight: float32, shape (out, in).
            bias: float32, shape (out,).
        """
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def __call__(self, hidden: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic_fp16(hidden, self._packed)  # type: ignore[no-any-return]


def is_half_exact(weight: Tensor) -> bool:
    """Returns whether every number of a matrix is a float16 number, and this machine has the kernel."""
    if weight.device.type != "cpu" or torch.backends.quantized.engine not in HALF_ENGINES:
        return False
    parts = (weight[begin : begin + _CHECKED_AT_ONCE] for begin in range(0, len(weight), _CHECKED_AT_ONCE))
    return all(torch.equal(part.half().float(), part) for part in parts)
