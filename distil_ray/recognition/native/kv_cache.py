"""The memory of the decoder loop: keys and values of every row that is being decoded, allocated once and reused.

A slot holds one chunk. Self-attention keeps room for every position of the decoder; cross-attention is projected once
per chunk, with the keys stored turned, (head, positions), as the product with a single query row reads them: measured
twice as fast as the usual layout in float32, and memory bandwidth is the limit from there. Slots in use are always
the first ones, so that a step works on plain slices; a finished row's place is taken by the last row or by a waiting
chunk. Unused room is zero, or what was heard before: a masked product with NaN would be NaN.

On a CPU unused room costs no memory: its pages come from the system at the first write. Texts are mostly far shorter
than they may be, and `fit` lays the rows of short windows side by side. On a GPU everything stays where it is, as
recorded passes (graphs.py) know it by its address, and windows have whole lanes of positions, as its products want.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from distil_ray.recognition.native.device import copy_async

LANES = 16  # float32 numbers that the widest processors add at once


class KVCache:
    """Self-attention (layers, 2, slots, heads, positions, head) and cross-attention keys and values."""

    self_kv: Tensor
    cross_keys: Tensor  # (layers, slots, heads, head, encoder positions)
    cross_values: Tensor  # (layers, slots, heads, encoder positions, head)

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        heads: int,
        head_size: int,
        positions: int,
        encoder_positions: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._rows = (layers, slots, heads)
        self._head_size = head_size
        self._is_static = device.type != "cpu"
        encoder_positions = round_up_to_lanes(encoder_positions) if self._is_static else encoder_positions
        self.self_kv = _zeros((layers, 2, slots, heads, positions, head_size), dtype, device)
        self._keys, self._values = (
            _zeros((layers * slots * heads * encoder_positions * head_size,), dtype, device) for _ in range(2)
        )
        self.encoder_lengths = torch.zeros(slots, dtype=torch.long, device=device)  # encoder positions in each slot
        self.cross_mask = torch.zeros(slots, encoder_positions, dtype=dtype, device=device)  # added to the attention
        self.slots = slots
        self._lay_out(encoder_positions)

    def resize_windows(self, encoder_positions: int) -> None:
        """Room for windows of up to so many positions from now on; what the slots hold of windows is lost."""
        if not self._is_static:
            self._lay_out(round_up_to_lanes(encoder_positions, self.cross_mask.shape[1]))

    def _lay_out(self, encoder_positions: int) -> None:
        size = prod(self._rows) * encoder_positions * self._head_size
        self.cross_keys = self._keys[:size].view(*self._rows, self._head_size, encoder_positions)
        self.cross_values = self._values[:size].view(*self._rows, encoder_positions, self._head_size)

    def move_rows(self, sources: Sequence[int], targets: Sequence[int], positions: int, encoder_positions: int) -> None:
        """Copies whole rows: the first `positions` and `encoder_positions` of slots `sources` to others, `targets`."""
        if self._is_static:
            self._move_rows_by_layer(sources, targets, positions, encoder_positions)
            return
        for source, target in zip(sources, targets, strict=True):
            self.self_kv[:, :, target, :, :positions] = self.self_kv[:, :, source, :, :positions]
            self.cross_keys[:, target, ..., :encoder_positions] = self.cross_keys[:, source, ..., :encoder_positions]
            self.cross_values[:, target, :, :encoder_positions] = self.cross_values[:, source, :, :encoder_positions]
            self.encoder_lengths[target] = self.encoder_lengths[source]
            self.cross_mask[target] = self.cross_mask[source]

    def _move_rows_by_layer(
        self, sources: Sequence[int], targets: Sequence[int], positions: int, encoder_positions: int
    ) -> None:
        """Every layer's in a few copies: on a GPU each costs a start, however short it is."""
        old, new = copy_async([list(sources), list(targets)], self.encoder_lengths.device)
        for self_kv, keys, values in zip(self.self_kv, self.cross_keys, self.cross_values, strict=True):
            self_kv[:, new, :, :positions] = self_kv[:, old, :, :positions]
            keys[new, ..., :encoder_positions] = keys[old, ..., :encoder_positions]
            values[new, :, :encoder_positions] = values[old, :, :encoder_positions]
        self.encoder_lengths[new] = self.encoder_lengths[old]
        self.cross_mask[new] = self.cross_mask[old]


def round_up_to_lanes(positions: int, most: int | None = None) -> int:
    """So many positions, or a few more but not above `most`: what may be masked behind a row's own.

    With whole lanes a row's sums are the same, to the bit, however many masked positions follow.
    """
    whole = -(-positions // LANES) * LANES
    return whole if most is None else min(whole, most)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros; on a CPU from numpy, which leaves the pages untouched where torch writes to all of them."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
