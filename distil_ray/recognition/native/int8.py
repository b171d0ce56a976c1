"""Linear layers in 8-bit products, for processors that have them: a quarter of the bytes, up to four times the rate.

Weights are whole numbers of -127 to 127 with a scale for each output; activations are made so at every call, with a
scale for each row, so that a row's result depends on nothing but the row: products of whole numbers are exact in any
order. Attention, norms, convolutions and embeddings stay in float32, whose last bit may depend on the batch; here a
last bit may become a step of 1/127, and a near tie between two words fall the other way. Knows nothing of Whisper.

The product is oneDNN's, by the operator that torch's own quantized graphs call. It takes unsigned activations, hence
the shift by 128, and is many times slower with signed ones.
"""

import torch
from torch import Tensor

from distil_ray.recognition.native.linear import Affine

LARGEST = 127  # of the whole numbers that stand for weights and activations
_SHIFT = 128  # from signed to unsigned
_TINY = 1e-12  # scale of a row of zeros
_PART = 4096  # outputs whose weights are made whole together


class Int8Affine:
    """What `Affine` does, in 8 bits: float32 in, shape (..., in), float32 out, shape (..., out)."""

    def __init__(self, exact: Affine) -> None:
        self._scales = torch.maximum(exact.weight.amax(dim=1), exact.weight.amin(dim=1).neg_())
        self._scales.div_(LARGEST).clamp_(min=_TINY)
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
        scales.div_(LARGEST).clamp_(min=_TINY)
        # Signed first: the conversion to unsigned bytes is three times slower. The highest bit is the shift.
        whole = (rows / scales).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_SHIFT)
        product = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, _SHIFT, self._weight, self._scales, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        torch.addcmul(self._bias, product, scales, out=product)
        return product.view(*hidden.shape[:-1], -1)  # type: ignore[no-any-return]
