"""Attention over the cache in a decoder step: dense products, or one kernel that reads each row by its length.

Two plain products around a softmax are faster than scaled_dot_product_attention for a single query per row on a CPU, by
1.2 times in float32 and 8 times in bfloat16; with AMX, the latter is faster by 1.5 times in bfloat16. Both read every
row as far as the longest. On a GPU a Triton kernel (triton_attention.py) reads the positions of each row alone; it is
used only if it compiles on this machine and agrees with plain products. On a CPU, cross-attention of one query per row
reads hidden states (state_attention.py).
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from distil_ray.recognition.native.kv_cache import CrossBlock, KVCache, round_up_to_lanes
from distil_ray.recognition.native.linear import runs_in_amx
from distil_ray.recognition.native.state_attention import StateProjection, attend_to_states

SingleQueryAttention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None], Tensor]

SUMMED_AT_ONCE = 128  # positions
TRIAL_LENGTHS = (1, 70, 200)  # within one block of the kernel, and over several
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of numbers about 1


def choose_single_query_attention(
    device: torch.device, dtype: torch.dtype, head_size: int
) -> tuple[SingleQueryAttention | None, str | None]:
    """Returns the kernel, or None for plain products, and a message with the reason where there was a choice."""
    if device.type != "cuda":
        return None, None
    try:
        from distil_ray.recognition.native.triton_attention import single_query_attention

        difference = max_difference(single_query_attention, device, dtype, head_size)
    except Exception as error:  # no Triton, no compiler, too old a GPU: none of these may end a run
        return (
            None,
            f"decoder attention: plain products, as the Triton kernel is not available ({_reason(error)})",
        )
    if not difference <= TOLERANCE[dtype]:
        return None, f"decoder attention: plain products, as the Triton kernel differs from them by {difference:.1e}"
    return single_query_attention, "decoder attention: a Triton kernel that reads the positions of each row alone"


def _reason(error: Exception) -> str:
    """Returns the last line of a message; what Triton's compiler prints is not part of the error."""
    if isinstance(error, subprocess.CalledProcessError):
        return (
            f"its C compiler, {error.cmd[0]}, ended with exit code {error.returncode};"
            " Triton needs gcc and the headers of Python: install gcc and python3-dev"
        )
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)


def max_difference(attention: SingleQueryAttention, device: torch.device, dtype: torch.dtype, head_size: int) -> float:
    """Returns the largest difference of a kernel from plain products in float32.

    The trial has rows of several lengths, with and without a mask.
    """
    rows, heads, positions = len(TRIAL_LENGTHS), 2, 256
    generator = torch.Generator().manual_seed(0)

    def random_tensor(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    query, keys = (
        random_tensor(rows, heads, head_size) / head_size**0.5,
        random_tensor(rows, heads, head_size, positions),
    )
    values, mask = random_tensor(rows, heads, positions, head_size), random_tensor(rows, positions)
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
    """Returns attention of scaled queries, shape (rows, heads, head), over transposed keys, by plain products.

    Args:
        query: One per row.
        keys: Shape (rows, heads, head, positions).
        values: Shape (rows, heads, positions, head).
        lengths: Shape (rows,): so many positions of each row count, at least one.
        mask: Added before the softmax, shape (rows, positions or more).

    Returns:
        The shape of `query`.
    """
    weights = torch.matmul(query[:, :, None], keys)
    if mask is not None:
        weights = weights + mask[:, None, None, : keys.shape[3]]
    indices = torch.arange(keys.shape[3], device=keys.device)
    is_behind = indices >= lengths.clamp(min=1)[:, None]
    shares = torch.softmax(weights.masked_fill(is_behind[:, None, None], float("-inf")), dim=-1)
    return torch.matmul(shares, values)[:, :, 0]


class StepAttention(Protocol):
    """The attention of a step in each layer: queries (rows, P, heads, head) in, (rows, P, d_model) out."""

    def self_attention(self, query: Tensor, self_kv: Tensor) -> Tensor:
        """Attends to the text.

        `self_kv` is the layer's part of `KVCache.self_kv`, which includes the keys and values of this step.
        """
        ...

    def cross_attention(self, query: Tensor, layer: int) -> Tensor:
        """Attends to the window, in the layer of this number."""
        ...


class _DenseSelfAttention:
    """Any number of queries per row, by plain products over the same positions of all texts."""

    def __init__(self, visible: Tensor, dtype: torch.dtype) -> None:
        """Prepares the mask of a step.

        Args:
            visible: The first T entries of the self-attention cache that each query attends to: bool, shape (rows, P,
                T).
            dtype: Of the queries.
        """
        self._rows, _, self._length = visible.shape
        self._past = additive_mask(visible, dtype)

    def self_attention(self, query: Tensor, self_kv: Tensor) -> Tensor:
        keys, values = self_kv[:, : self._rows, :, : self._length]
        return merge_heads(masked_attention(query.transpose(1, 2), keys.transpose(2, 3), values, self._past))


class DenseAttention(_DenseSelfAttention):
    """Any number of queries per row, by plain products over the same positions of all rows of a block."""

    def __init__(self, visible: Tensor, cache: KVCache, encoder_positions: int, is_ragged: bool) -> None:
        """Prepares the masks of a step.

        `visible` is that of `_DenseSelfAttention`. The other arguments are those of `Decoder.step`.
        """
        super().__init__(visible, cache.dtype)
        self._blocks = [
            _block_of_rows(cache, block, self._rows, encoder_positions, is_ragged)
            for block in cache.blocks
            if block.first < self._rows
        ]

    def cross_attention(self, query: Tensor, layer: int) -> Tensor:
        query = query.transpose(1, 2)
        mixed = [
            masked_attention(query[part.rows], part.keys[layer], part.values[layer], part.mask) for part in self._blocks
        ]
        return merge_heads(mixed[0] if len(mixed) == 1 else torch.cat(mixed))


@dataclass(frozen=True, slots=True)
class _BlockRows:
    """The rows of a step that are in one block of the cache, and what they attend to."""

    rows: slice
    keys: Tensor  # (layers, rows, heads, head, positions)
    values: Tensor  # (layers, rows, heads, positions, head)
    mask: Tensor | None


def _block_of_rows(
    cache: KVCache, block: CrossBlock, num_rows: int, encoder_positions: int, is_ragged: bool
) -> _BlockRows:
    """Returns the part of the first `num_rows` rows that is in a block; other arguments as for `DenseAttention`."""
    rows = slice(block.first, min(block.stop, num_rows))
    num = rows.stop - rows.start
    if len(cache.blocks) > 1:
        encoder_positions = min(encoder_positions, max(1, int(cache.encoder_lengths[rows].max())))
    positions = min(round_up_to_lanes(encoder_positions, cache.cross_mask.shape[1]), block.positions)
    return _BlockRows(
        rows,
        block.keys[:, :num, ..., :positions],
        block.values[:, :num, :, :positions],
        cache.cross_mask[rows, None, None, :positions] if is_ragged else None,
    )


class StateAttention(_DenseSelfAttention):
    """Any number of queries per row; the cross-attention is over hidden states."""

    def __init__(
        self, visible: Tensor, cache: KVCache, states: Tensor, projections: Sequence[StateProjection], is_ragged: bool
    ) -> None:
        """Finds rows with windows of one length that follow each other: these are computed together.

        The sums of a row are then over its own positions, and do not depend on other rows.

        Args:
            visible: That of `_DenseSelfAttention`.
            cache: Of the rows.
            states: Those of the cache.
            projections: Of each layer.
            is_ragged: That of `Decoder.step`.
        """
        super().__init__(visible, cache.dtype)
        self._projections = projections
        self._parts: list[tuple[Tensor, Tensor | None]] = []  # states and mask of consecutive rows
        first = 0
        for length, same in groupby(cache.encoder_lengths[: self._rows].clamp(min=1).tolist()):
            rows = slice(first, first + len(list(same)))
            mask = cache.cross_mask[rows, None, None, :length] if is_ragged else None
            self._parts.append((states[rows, :length], mask))
            first = rows.stop

    def cross_attention(self, query: Tensor, layer: int) -> Tensor:
        projection = self._projections[layer]
        queries = projection.project_queries(query)
        by_part = torch.split(queries, [len(states) for states, _ in self._parts])
        sums = [attend_to_states(own, *part) for own, part in zip(by_part, self._parts, strict=True)]
        return projection.project_sums(sums[0] if len(sums) == 1 else torch.cat(sums))


class LengthAwareAttention:
    """One query per row, by a kernel that reads the positions of each row alone."""

    def __init__(self, attend_one: SingleQueryAttention, positions: Tensor, cache: KVCache) -> None:
        """Prepares the lengths of the rows. `positions` are those of the queries, shape (rows, 1)."""
        self._attend = attend_one
        self._rows = len(positions)
        self._lengths = positions[:, 0] + 1
        self._encoder_lengths, self._cross_mask = cache.encoder_lengths[: self._rows], cache.cross_mask[: self._rows]
        self._blocks = [block for block in cache.blocks if block.first < self._rows]

    def self_attention(self, query: Tensor, self_kv: Tensor) -> Tensor:
        keys, values = self_kv[:, : self._rows]
        return self._attend(query[:, 0], keys.transpose(2, 3), values, self._lengths, None).view(self._rows, 1, -1)

    def cross_attention(self, query: Tensor, layer: int) -> Tensor:
        mixed = []
        for block in self._blocks:
            rows = slice(block.first, min(block.stop, self._rows))
            keys, values = (part[layer, : rows.stop - rows.start] for part in (block.keys, block.values))
            mixed.append(
                self._attend(query[rows, 0], keys, values, self._encoder_lengths[rows], self._cross_mask[rows])
            )
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).view(self._rows, 1, -1)


def masked_attention(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Returns attention of scaled queries, shape (rows, heads, P, head), over transposed keys, (rows, heads, head, T).

    `values` have the shape (rows, heads, T, head). `mask` is added to the weights. Where keys, values and mask have
    another number type than the queries, it is computed in theirs.
    """
    if query.dtype != keys.dtype:
        return masked_attention(query.to(keys.dtype), keys, values, mask).to(query.dtype)
    if runs_in_amx(query):
        return functional.scaled_dot_product_attention(query, keys.transpose(-1, -2), values, attn_mask=mask, scale=1.0)
    # A single row would be read where it lies and several rows be copied together: the kernels differ by the layout.
    weights = torch.matmul(query.contiguous(), keys)
    if mask is not None:
        weights += mask
    return _sum_values(torch.softmax(weights, dim=-1), values)


def _sum_values(shares: Tensor, values: Tensor) -> Tensor:
    """Returns sums of values, shape (rows, heads, P, head), weighted by shares, (rows, heads, P, T).

    On a CPU a block of positions is added at a time. Kernels divide long sums too, but some at places that depend on T,
    so that masked positions at the end would change how a row is rounded.
    """
    if shares.device.type != "cpu" or shares.shape[-1] <= SUMMED_AT_ONCE:
        return torch.matmul(shares, values)
    parts = zip(torch.split(shares, SUMMED_AT_ONCE, dim=-1), torch.split(values, SUMMED_AT_ONCE, dim=-2), strict=True)
    first, *others = (torch.matmul(share, value) for share, value in parts)
    for other in others:
        first += other
    return first


def additive_mask(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns 0 where `allowed`, shape (rows, queries, keys), else minus infinity; shape (rows, 1, queries, keys)."""
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, float("-inf")).unsqueeze(1)


def merge_heads(mixed: Tensor) -> Tensor:
    """Puts the heads side by side: (rows, heads, P, head) to (rows, P, d_model)."""
    return mixed.transpose(1, 2).flatten(2)
