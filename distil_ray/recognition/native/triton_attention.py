"""A Triton kernel for the attention of one query per row, in a decoder step, which is limited by memory bandwidth.

A program handles one row and head. It reads the positions of that row once, keys and values in turn, with a running
softmax. So nothing behind the end of a short window or text is read, no attention weights are written, and one recorded
step serves rows of any length. Products are summed in float32. Import this module only where Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

POSITIONS = 64  # read at once by a program
WARPS = 4


@triton.jit  # type: ignore[untyped-decorator]
def _single_query_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0917  # a kernel takes plain numbers
    query,
    keys,
    values,
    lengths,
    mask,
    mixed,
    query_row,
    query_head,
    key_row,
    key_head,
    key_number,
    key_position,
    value_row,
    value_head,
    value_position,
    mask_row,
    heads,
    size: tl.constexpr,
    has_mask: tl.constexpr,
    step: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)  # offsets of large caches need 64 bits
    head = tl.program_id(1)
    numbers = tl.arange(0, size)
    query_numbers = tl.load(query + row * query_row + head * query_head + numbers).to(tl.float32)
    length = tl.maximum(tl.load(lengths + row), 1).to(tl.int32)
    key_begin = keys + row * key_row + head * key_head
    value_begin = values + row * value_row + head * value_head
    highest = tl.full((), float("-inf"), tl.float32)
    total = tl.full((), 0.0, tl.float32)
    summed = tl.zeros((size,), tl.float32)
    for begin in range(0, length, step):
        positions = begin + tl.arange(0, step)
        is_valid = positions < length
        key = tl.load(
            key_begin + numbers[:, None] * key_number + positions[None, :] * key_position,
            mask=is_valid[None, :],
            other=0.0,
        )
        weights = tl.sum(query_numbers[:, None] * key.to(tl.float32), axis=0)
        if has_mask:
            weights += tl.load(mask + row * mask_row + positions, mask=is_valid, other=0.0).to(tl.float32)
        weights = tl.where(is_valid, weights, float("-inf"))
        higher = tl.maximum(highest, tl.max(weights, axis=0))
        shrink = tl.exp(highest - higher)
        exponentials = tl.exp(weights - higher)
        value = tl.load(
            value_begin + positions[:, None] * value_position + numbers[None, :], mask=is_valid[:, None], other=0.0
        )
        summed = summed * shrink + tl.sum(exponentials[:, None] * value.to(tl.float32), axis=0)
        total = total * shrink + tl.sum(exponentials, axis=0)
        highest = higher
    target = mixed + (row * heads + head) * size + numbers
    tl.store(target, (summed / total).to(mixed.dtype.element_ty))


def single_query_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mask: Tensor | None) -> Tensor:
    """Does what `attention.reference_attention` does.

    The head size must be a power of two, and the numbers of a value must be contiguous.
    """
    rows, heads, size = query.shape
    mixed = torch.empty(rows, heads, size, dtype=query.dtype, device=query.device)
    _single_query_kernel[(rows, heads)](
        query,
        keys,
        values,
        lengths,
        lengths if mask is None else mask,
        mixed,
        *query.stride()[:2],
        *keys.stride(),
        *values.stride()[:3],
        0 if mask is None else mask.stride(0),
        heads,
        size=size,
        has_mask=mask is not None,
        step=POSITIONS,
        num_warps=WARPS,
    )
    return mixed
