"""Linear layers with weights in 16 bits that compute in float32, for calls with a few rows on a CPU.

Whisper was trained in float16, and every number of OpenAI's checkpoints is one, also where a checkpoint stores float32.
Such weights can be read in 16 bits without changing a single one. A decoder step reads each weight once for a few rows,
so that half of the bytes are much of its time.

The kernel takes up to 14 rows at a time and reads all weights again for the next ones. Where steps have many rows
(beams, drafts), the outputs are divided into blocks whose weights stay in the cache meanwhile: 512 inputs and 51,865
outputs take 35 ms instead of 54 for 80 rows, but 14 instead of 12 for 16, as the outputs of blocks are put together.
"""

import torch
from torch import Tensor

HALF_ENGINES = ("x86", "fbgemm")  # of torch's quantized operators: those that have the kernel
BLOCK_BYTES = 2**20  # of weights that are read once for many rows
WHOLE_BYTES = 4 * 2**20  # of weights that are not divided; they stay in a cache anyway
BLOCK_STEP = 64  # outputs
_CHECKED_AT_ONCE = 4096  # outputs


class HalfLinear:
    """A layer whose weight is stored in float16. Takes and returns float32.

    The operator is the one of torch's dynamic quantization to float16, whose kernel (FBGEMM) expands the weights to
    float32 in registers. The result of a row is the same, bit for bit, whatever is beside it, and also alone.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, has_many_rows: bool = False) -> None:
        """Packs a layer for which `is_half_exact` is true.

        Args:
            weight: float32, shape (out, in).
            bias: float32, shape (out,).
            has_many_rows: Most calls have many rows, more than about 16.
        """
        outputs, inputs = weight.shape
        size = outputs
        if has_many_rows and 2 * weight.numel() > WHOLE_BYTES:
            size = max(1, BLOCK_BYTES // (2 * inputs * BLOCK_STEP)) * BLOCK_STEP
        blocks = [slice(begin, begin + size) for begin in range(0, outputs, size)]
        self._packed = [
            torch.ops.quantized.linear_prepack_fp16(weight[block], None if bias is None else bias[block])
            for block in blocks
        ]

    def __call__(self, hidden: Tensor) -> Tensor:
        parts = [torch.ops.quantized.linear_dynamic_fp16(hidden, packed) for packed in self._packed]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def is_half_exact(weight: Tensor) -> bool:
    """Returns whether every number of a matrix is a float16 number, and this machine has the kernel."""
    if weight.device.type != "cpu" or torch.backends.quantized.engine not in HALF_ENGINES:
        return False
    parts = (weight[begin : begin + _CHECKED_AT_ONCE] for begin in range(0, len(weight), _CHECKED_AT_ONCE))
    return all(torch.equal(part.half().float(), part) for part in parts)
