"""The keys and values of all rows that are being decoded, allocated once and reused.

A slot holds one chunk. The self-attention part has room for every position of the decoder. The cross-attention part is
projected once per chunk. Its keys are stored transposed, (head, positions), as the product with a single query reads
them: measured twice as fast as the usual layout in float32, where memory bandwidth is the limit. The slots in use are
always the first ones, so that a step works on plain slices; a finished row is replaced by the last row or by a waiting
chunk. Unused positions hold zeros or older values: a masked product with NaN would be NaN.

On a CPU unused positions cost no memory: the system provides their pages at the first write. Texts are mostly far
shorter than they may be, and `resize_windows` packs the rows of short windows. On a GPU nothing moves, as recorded
steps (cuda_graphs.py) use fixed addresses, and windows are padded to whole lanes of positions.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from distil_ray.recognition.native.device import copy_async

LANES = 16  # float32 numbers that the widest vector units add at once


class KVCache:
    """Keys and values of self-attention and cross-attention, for every decoder layer and slot."""

    self_kv: Tensor  # (layers, 2, slots, heads, positions, head): keys and values
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
        """Allocates the cache.

        Args:
            layers: Decoder layers.
            slots: Rows.
            heads: Attention heads of a layer.
            head_size: Numbers of a head.
            positions: Decoder positions of a row.
            encoder_positions: Encoder positions of a row, at most.
            dtype: Of keys and values.
            device: Where the cache is.
        """
        self._rows = (layers, slots, heads)
        self._head_size = head_size
        self._is_static = device.type != "cpu"
        encoder_positions = round_up_to_lanes(encoder_positions) if self._is_static else encoder_positions
        self.self_kv = _zeros((layers, 2, slots, heads, positions, head_size), dtype, device)
        self._keys, self._values = (
            _zeros((layers * slots * heads * encoder_positions * head_size,), dtype, device) for _ in range(2)
        )
        self.encoder_lengths = torch.zeros(slots, dtype=torch.long, device=device)  # encoder positions in each slot
        self.cross_mask = torch.zeros(
            slots, encoder_positions, dtype=dtype, device=device
        )  # added to the attention weights
        self.slots = slots
        self._lay_out(encoder_positions)

    def resize_windows(self, encoder_positions: int) -> None:
        """Lays the cross-attention part out for windows of up to so many positions. What it held is lost.

        Does nothing on a GPU.
        """
        if not self._is_static:
            self._lay_out(round_up_to_lanes(encoder_positions, self.cross_mask.shape[1]))

    def _lay_out(self, encoder_positions: int) -> None:
        size = prod(self._rows) * encoder_positions * self._head_size
        self.cross_keys = self._keys[:size].view(*self._rows, self._head_size, encoder_positions)
        self.cross_values = self._values[:size].view(*self._rows, encoder_positions, self._head_size)

    def move_rows(self, sources: Sequence[int], targets: Sequence[int], positions: int, encoder_positions: int) -> None:
        """Copies the first `positions` and `encoder_positions` of the slots `sources` to the slots `targets`."""
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
        """Copies all rows of a layer at once: on a GPU each copy has the cost of a launch, however short it is."""
        old, new = copy_async([list(sources), list(targets)], self.encoder_lengths.device)
        for self_kv, keys, values in zip(self.self_kv, self.cross_keys, self.cross_values, strict=True):
            self_kv[:, new, :, :positions] = self_kv[:, old, :, :positions]
            keys[new, ..., :encoder_positions] = keys[old, ..., :encoder_positions]
            values[new, :, :encoder_positions] = values[old, :, :encoder_positions]
        self.encoder_lengths[new] = self.encoder_lengths[old]
        self.cross_mask[new] = self.cross_mask[old]


def round_up_to_lanes(positions: int, largest: int | None = None) -> int:
    """Returns `positions` rounded up to whole lanes, but not above `largest`.

    With whole lanes, the sums of a row are the same, bit for bit, however many masked positions follow.
    """
    whole = -(-positions // LANES) * LANES
    return whole if largest is None else min(whole, largest)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns zeros. On a CPU numpy allocates them, which leaves their pages untouched; torch would write to all."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(prod(shape) * dtype.itemsize, np.uint8)).view(dtype).view(shape)
