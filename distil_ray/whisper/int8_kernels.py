"""Products of 8-bit activations and weights by torch's kernels of oneDNN and FBGEMM (`processor.py`).

Sums are integers of 32 bits, so that they are exact in any order. Activations are unsigned for both libraries, hence
the shift by 128.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from distil_ray.whisper.processor import Int8Products

MAX_INT8 = 127  # of quantized activations
_SHIFT = 128  # from signed to unsigned bytes
_CHECKED_INPUTS, _CHECKED_OUTPUTS, _CHECKED_ROWS = 256, 64, 17

# From activations in steps, float32, shape (rows, in), between -127 and 127, which are rounded, to their products with
# the weights, float32, shape (rows, out).
Product = Callable[[Tensor], Tensor]


def pack(weight: Tensor, scales: Tensor, products: Int8Products) -> Product:
    """Arranges weights for their kernel.

    Args:
        weight: int8, shape (out, in), with magnitudes of at most `products.max_weight`.
        scales: float32, shape (out,): what a step of the weights of each output is.
        products: Which kernel.
    """
    return _pack_for_onednn(weight, scales) if products.library == "onednn" else _pack_for_fbgemm(weight, scales)


def find_problem(products: Int8Products) -> str | None:
    """Returns a message if these kernels fail here, or if a product of the largest numbers is not exact."""
    try:
        is_exact = _is_exact(products)
    except (AttributeError, RuntimeError) as error:
        return f"{products.library} failed: {' '.join(str(error).split())[:200]}"
    return None if is_exact else f"the products of {products.library} overflow"


def _is_exact(products: Int8Products) -> bool:
    """Multiplies the largest activations and weights, of equal and of alternating signs, and compares all sums."""
    signs = torch.ones(_CHECKED_OUTPUTS, _CHECKED_INPUTS)
    signs[1::3] = -1.0
    signs[2::3, ::2] = -1.0
    weight, rows = signs * products.max_weight, torch.full((_CHECKED_ROWS, _CHECKED_INPUTS), float(MAX_INT8))
    rows[1::3] *= -1.0
    rows[2::3, ::2] *= -1.0
    found = pack(weight.to(torch.int8), torch.ones(_CHECKED_OUTPUTS), products)(rows)
    return torch.equal(found, rows @ weight.T)  # sums below 2**24 are exact in float32


def _pack_for_onednn(weight: Tensor, scales: Tensor) -> Product:
    """Uses the operator of torch's own quantized graphs. It is many times slower with signed activations."""
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    zeros = torch.zeros(len(weight), dtype=torch.int32)

    def product(rows: Tensor) -> Tensor:
        # Signed first: the conversion to unsigned bytes is three times slower. The highest bit is the shift.
        quantized = rows.round_().to(torch.int8).view(torch.uint8).bitwise_xor_(_SHIFT)
        return torch.ops.onednn.qlinear_pointwise(  # type: ignore[no-any-return]
            quantized, 1.0, _SHIFT, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )

    return product


def _pack_for_fbgemm(weight: Tensor, scales: Tensor) -> Product:
    """Uses the operator of torch's quantized modules, which rounds and shifts the activations itself."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"  # decides whose layout the weights get
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", UserWarning
            )  # quantized tensors are deprecated; this operator takes no other
            zeros = torch.zeros(len(weight), dtype=torch.long)
            quantized = torch._make_per_channel_quantized_tensor(weight, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantized, None)
    finally:
        torch.backends.quantized.engine = before

    def product(rows: Tensor) -> Tensor:
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(rows, 1.0, _SHIFT, packed)  # type: ignore[no-any-return]

    return product
