"""Attention over the cache, for a step of many rows: plain products, or one kernel that reads each row by its length.

Two plain products around a softmax beat scaled_dot_product_attention for a single query row on a CPU, by 1.2 times in
float32 and 8 times in bfloat16. They read every row as far as the longest; the kernel (single_query.py) does not.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from distil_ray.recognition.native.kv_cache import KVCache, round_up_to_lanes

SingleQueryAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]

TRIAL_LENGTHS = (1, 70, 200)  # within one step of the kernel, and over several
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of numbers about 1


def choose_single_query_attention(
    device: torch.device, dtype: torch.dtype, head_size: int
) -> tuple[SingleQueryAttention | None, str | None]:
    """The kernel, or None where plain products do; and why, where there was a choice."""
    if device.type != "cuda":
        return None, None
    try:
        from distil_ray.recognition.native.triton_attention import single_query_attention

        difference = max_difference(single_query_attention, device, dtype, head_size)
    except Exception as error:  # no Triton, no compiler, a GPU too old: none of it may end a run
        lines = str(error).strip().splitlines()
        return (
            None,
            f"a step's attention: plain products, as Triton's is not to be had ({lines[-1] if lines else error!r})",
        )
    if not difference <= TOLERANCE[dtype]:
        return None, f"a step's attention: plain products, as Triton's differs from them by {difference:.1e}"
    return single_query_attention, "a step's attention: one Triton kernel, which reads the positions of each row alone"


def max_difference(attention: SingleQueryAttention, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """The largest difference from plain products in float32, over rows of several lengths, with a mask and without."""
    rows, heads, positions = len(TRIAL_LENGTHS), 2, 256
    noise = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=noise).to(device, dtype)

    query, keys = some(rows, heads, head_size) / head_size**0.5, some(rows, heads, head_size, positions)
    values, mask = some(rows, heads, positions, head_size), some(rows, positions)
    lengths = torch.tensor(TRIAL_LENGTHS, device=device)
    differences = []
    for added in (None, mask):
        found = attention(query, keys, values, lengths, added).float()
        exact = reference_attention(
            query.float(), keys.float(), values.float(), lengths, None if added is None else added.float()
        )
        differences.append(float((found - exact).abs().max()))
    return max(differences)


def reference_attention(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of scaled queries, shape (rows, heads, head), over turned keys, shape (rows, heads, head, positions).

    `values`: (rows, heads, positions, head). Of each row the first `lengths`, shape (rows,), positions count, one at
    least; `mask`, shape (rows, positions or more), is added before the softmax. Gives the shape of `query`.
    """
    weights = torch.matmul(query[:, :, None], keys)
    if mask is not None:
        weights = weights + mask[:, None, None, : keys.shape[3]]
    places = torch.arange(keys.shape[3], device=keys.device)
    behind = places >= lengths.clamp(min=1)[:, None]
    shares = torch.softmax(weights.masked_fill(behind[:, None, None], float("-inf")), dim=-1)
    return torch.matmul(shares, values)[:, :, 0]


class StepAttention(Protocol):
    """A step's attention in each layer: queries (rows, P, heads, head) in, (rows, P, d_model) out."""

    def self_attention(self, query: Tensor, self_kv: Tensor) -> Tensor:
        """Over the text; `own`: the layer's part of `Cache.own`, the step's own keys and values included."""
        ...

    def cross_attention(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Over the windows; the layer's parts of `Cache.cross_keys` and `Cache.cross_values`."""
        ...


class DenseAttention:
    """Any number of queries a row, by plain products over the same positions of every row."""

    def __init__(
        self, places: Tensor, positions: Tensor, cache: KVCache, encoder_positions: int, is_ragged: bool
    ) -> None:
        """`places`: numbers from 0 on, as many as positions of text are looked at; the rest as for `Decoder.step`."""
        self._rows, self._length = len(positions), len(places)
        self._past = additive_mask(places[None, None, :] <= positions[:, :, None], cache.self_kv.dtype)
        self._encoder_positions = round_up_to_lanes(encoder_positions, cache.cross_values.shape[3])
        cross_mask = cache.cross_mask[: self._rows, None, None, : self._encoder_positions]
        self._cross_mask = cross_mask if is_ragged else None

    def self_attention(self, query: Tensor, self_kv: Tensor) -> Tensor:
        keys, values = self_kv[:, : self._rows, :, : self._length]
        return merge_heads(masked_attention(query.transpose(1, 2), keys.transpose(2, 3), values, self._past))

    def cross_attention(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        keys = keys[: self._rows, :, :, : self._encoder_positions]
        values = values[: self._rows, :, : self._encoder_positions]
        return merge_heads(masked_attention(query.transpose(1, 2), keys, values, self._cross_mask))


class LengthAwareAttention:
    """One query a row, by a kernel that reads each row's own positions."""

    def __init__(self, attend_one: SingleQueryAttention, positions: Tensor, cache: KVCache) -> None:
        """`positions`: those of the queries, shape (rows, 1)."""
        self._attend = attend_one
        self._rows = len(positions)
        self._lengths = positions[:, 0] + 1
        self._encoder_lengths, self._cross_mask = cache.encoder_lengths[: self._rows], cache.cross_mask[: self._rows]

    def self_attention(self, query: Tensor, self_kv: Tensor) -> Tensor:
        keys, values = self_kv[:, : self._rows]
        return self._attend(query[:, 0], keys.transpose(2, 3), values, self._lengths, None).view(self._rows, 1, -1)

    def cross_attention(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        rows = self._rows
        mixed = self._attend(query[:, 0], keys[:rows], values[:rows], self._encoder_lengths, self._cross_mask)
        return mixed.view(rows, 1, -1)


def masked_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of scaled queries, shape (rows, heads, P, head), over turned keys, shape (rows, heads, head, T)."""
    weights = torch.matmul(query, keys)
    if mask is not None:
        weights += mask
    return torch.matmul(torch.softmax(weights, dim=-1), values)


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where `allowed`, shape (rows, queries, keys), else minus infinity; shape (rows, 1, queries, keys)."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, float("-inf")).unsqueeze(1)


def merge_heads(mixed: Tensor) -> Tensor:
    """Heads side by side again: (rows, heads, P, head) to (rows, P, d_model)."""
    return mixed.transpose(1, 2).flatten(2)
