"""The memory of the decoder loop: keys and values of every row that is being decoded, allocated once and reused.

A slot holds one chunk. Self-attention keeps room for every position of the decoder; cross-attention is projected once
per chunk, with the keys stored turned, (head, positions), as the product with a single query row reads them: measured
twice as fast as the usual layout in float32, and memory bandwidth is the limit from there. Slots in use are always
the first ones, so that a step works on plain slices; a finished row's place is taken by the last row or by a waiting
chunk. Unused room is zero (a masked product with NaN would be NaN) and costs no memory until it is written.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Cache:
    """Self-attention (layers, 2, slots, heads, positions, head) and cross-attention keys and values."""

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
        def room(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.own = room(layers, 2, slots, heads, positions, head_size)
        self.cross_keys = room(layers, slots, heads, head_size, encoder_positions)
        self.cross_values = room(layers, slots, heads, encoder_positions, head_size)
        self.heard = torch.zeros(slots, dtype=torch.long, device=device)  # encoder positions in each slot
        self.cross_mask = torch.zeros(slots, encoder_positions, dtype=dtype, device=device)  # added to the attention
        self.slots = slots

    def move(self, sources: Sequence[int], targets: Sequence[int], positions: int, encoder_positions: int) -> None:
        """Copies whole rows: the first `positions` and `encoder_positions` of slots `sources` to slots `targets`."""
        for source, target in zip(sources, targets, strict=True):
            self.own[:, :, target, :, :positions] = self.own[:, :, source, :, :positions]
            self.cross_keys[:, target, ..., :encoder_positions] = self.cross_keys[:, source, ..., :encoder_positions]
            self.cross_values[:, target, :, :encoder_positions] = self.cross_values[:, source, :, :encoder_positions]
            self.heard[target] = self.heard[source]
            self.cross_mask[target] = self.cross_mask[source]
