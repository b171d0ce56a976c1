"""Linear layers with weights in 16 bits that compute in float32, for calls with a few rows on a CPU.

Whisper was trained in float16, and every number of OpenAI's checkpoints is one, also where a checkpoint stores float32.
Such weights can be read in 16 bits without changing a single one. A decoder step reads each weight once for a few rows,
so that half of the bytes are much of its time.

The kernel takes up to 14 rows at a time (6 with AVX2) and reads all weights again for the next ones. Where steps have
many rows (beams, drafts), the outputs are divided into blocks whose weights stay in the cache meanwhile: 512 inputs and
51,865 outputs take 35 ms instead of 54 for 80 rows, but 14 instead of 12 for 16, as the outputs of blocks are put
together.

The weights of queries contain the scale of attention, 1/8 for Whisper's heads of 64. An eighth of a small float16
number has fewer bits, so that it may not be one; the weights are then stored times 8, and the products divided by it,
which is exact.
"""

import functools

import torch
from torch import Tensor

from distil_ray.recognition.native.row_padding import RowPadding

HALF_ENGINES = ("x86", "fbgemm")  # of torch's quantized operators: those that have the kernel
BLOCK_BYTES = 2**20  # of weights that are read once for many rows
WHOLE_BYTES = 4 * 2**20  # of weights that are not divided; they stay in a cache anyway
BLOCK_STEP = 64  # outputs
FACTORS = (1.0, 8.0)  # powers of two by which weights may be stored
_CHECKED_AT_ONCE = 4096  # outputs
_TRIED_INPUTS, _TRIED_OUTPUTS = 256, 64


class HalfLinear:
    """A layer whose weight is stored in float16. Takes and returns float32.

    The operator is the one of torch's dynamic quantization to float16, whose kernel (FBGEMM) expands the weights to
    float32 in registers. The result of a row is the same, bit for bit, whatever is beside it (row_padding.py).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, factor: float = 1.0, has_many_rows: bool = False) -> None:
        """Packs a layer.

        Args:
            weight: float32, shape (out, in).
            bias: float32, shape (out,).
            factor: That of `find_half_factor`.
            has_many_rows: Most calls have many rows, more than about 16.
        """
        self._factor = factor
        if factor != 1.0:
            weight, bias = weight * factor, None if bias is None else bias * factor
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
        rows = hidden.reshape(-1, hidden.shape[-1])
        padded = _row_padding().pad(rows)
        parts = [torch.ops.quantized.linear_dynamic_fp16(padded, packed)[: len(rows)] for packed in self._packed]
        product = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        if self._factor != 1.0:
            product.mul_(1.0 / self._factor)
        return product.view(*hidden.shape[:-1], -1)


@functools.cache
def _row_padding() -> RowPadding:
    """Returns the padding of all layers: the kernel divides rows by their number alone."""
    weight = torch.randn(_TRIED_OUTPUTS, _TRIED_INPUTS, generator=torch.Generator().manual_seed(0)).half().float()
    packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
    return RowPadding(lambda rows: torch.ops.quantized.linear_dynamic_fp16(rows, packed), (_TRIED_INPUTS,))


def find_half_factor(weight: Tensor) -> float | None:
    """Returns which of `FACTORS` makes every number of a matrix a float16 number.

    None: none of them does, or this machine lacks the kernel.
    """
    if weight.device.type != "cpu" or torch.backends.quantized.engine not in HALF_ENGINES:
        return None
    return next((factor for factor in FACTORS if _is_half_exact(weight, factor)), None)


def _is_half_exact(weight: Tensor, factor: float) -> bool:
    parts = (weight[begin : begin + _CHECKED_AT_ONCE] * factor for begin in range(0, len(weight), _CHECKED_AT_ONCE))
    return all(torch.equal(part.half().float(), part) for part in parts)
