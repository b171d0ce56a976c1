"""Self-attention of an encoder layer: SDPA, or products of bfloat16 a block of queries at a time.

Processors with AVX512-BF16 but without AMX multiply bfloat16 numbers at twice the rate of float32, and SDPA gains
nothing from it: on an AMD EPYC (Zen 4), 74 to 84 x 10⁹ operations per second in float32 and 67 to 79 in bfloat16. Plain
products around a softmax reach 81 to 105, from float32 and back, if the weights of a block stay in the cache.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from distil_ray.whisper.processor import Int8Products, has_bfloat16_vectors

# Scaled queries, keys and values, shapes (rows, heads, positions, head), and a mask that is added to the weights, shape
# (1, 1, 1, positions of the keys), or None: the result has the shape and number type of the queries.
WindowAttention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

HEADS_AT_ONCE, QUERIES_AT_ONCE = 8, 125  # of a block

attend_by_sdpa: WindowAttention = partial(functional.scaled_dot_product_attention, scale=1.0)


def choose_window_attention(weight: Tensor, int8: Int8Products | None) -> WindowAttention:
    """Returns the attention for a layer with weights like this one. With `int8`, float32 need not be exact."""
    may_round = int8 is not None or weight.dtype == torch.bfloat16
    return attend_in_blocks if may_round and weight.device.type == "cpu" and has_bfloat16_vectors() else attend_by_sdpa


def attend_in_blocks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Computes attention in bfloat16 (see `WindowAttention`); a row does not depend on the others."""
    rows, heads, length, size = query.shape
    mixed = query.new_empty(rows, length, heads, size).transpose(1, 2)
    mask = None if mask is None else mask[0].to(torch.bfloat16)
    for row in range(rows):
        queries, keys, values = (each[row].to(torch.bfloat16).contiguous() for each in (query, key, value))
        for first in range(0, heads, HEADS_AT_ONCE):
            part = slice(first, first + HEADS_AT_ONCE)
            transposed, own_values = keys[part].transpose(1, 2), values[part]
            for begin in range(0, length, QUERIES_AT_ONCE):
                block = slice(begin, begin + QUERIES_AT_ONCE)
                weights = torch.bmm(queries[part, block], transposed)
                if mask is not None:
                    weights += mask
                mixed[row, part, block] = torch.bmm(torch.softmax(weights, dim=-1), own_values)
    return mixed
