"""The keys and values of all rows that are being decoded.

A slot holds one chunk. The cross-attention part is projected once per chunk. Its keys are stored transposed, (head,
positions), as the product with a single query reads them: measured twice as fast as the usual layout in float32, where
memory bandwidth is the limit. The slots in use are always the first ones, so that a step works on plain slices; a
finished row is replaced by the last row or by a waiting chunk. Unused positions hold zeros or older values: a masked
product with NaN would be NaN.

On a CPU the cache takes what the rows need. The longest windows get the first slots, as chunks are decoded longest
first, and consecutive slots with windows of about one length are a block with room for the longest of them: a step is
one product for each block. Rows only move to slots before their own, and chunks that wait are not longer than those
before them, so that both fit; what does not makes the blocks grow. The self-attention part grows with the texts. A run
gets the memory of the run before it, unless it needs much less: on their first use, the system took up to 2 ms for each
MB of huge pages, as long as 25 steps take to read them. On a GPU nothing moves, as recorded steps (cuda_graphs.py) use
fixed addresses: there is one block, for windows of any length, padded to whole lanes of positions.

Where attention reads hidden states instead of keys and values (state_attention.py), the cache has these, and no blocks.
The system gives a slot memory as it is used, so that there is room for the longest window in each.
"""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from distil_ray.recognition.native.device import copy_async
from distil_ray.whisper.processor import has_amx

LANES = 16  # float32 numbers that the widest vector units add at once
BLOCK_SHARE = 0.75  # of the longest window of a block that its shortest has at least
FIRST_POSITIONS = 64  # of a text that there is room for at first
GROWTH = 1.5  # of that room, when texts get longer
KEPT_SHARE = 0.1  # of the memory for windows that a run needs at least to keep it, as the next may need all again
KEPT_POSITIONS = 144  # of a text, the room that is kept for the next run
HUGE_PAGE_BYTES = 4 * 2**20  # from this size on, pages of 2 MiB lose little and are read faster


@dataclass(frozen=True, slots=True)
class CrossBlock:
    """Cross-attention keys and values of consecutive slots, from `first` on.

    Attributes:
        first: The first slot.
        keys: Shape (layers, slots, heads, head, positions).
        values: Shape (layers, slots, heads, positions, head).
    """

    first: int
    keys: Tensor
    values: Tensor

    @property
    def stop(self) -> int:
        """The slot after the last one."""
        return self.first + self.keys.shape[1]

    @property
    def positions(self) -> int:
        """Encoder positions that a row may have."""
        return self.keys.shape[-1]


class KVCache:
    """Keys and values of self-attention and cross-attention, for every decoder layer and slot.

    Attributes:
        self_kv: Of each layer, shape (2, slots, heads, positions, head): keys and values.
        blocks: The cross-attention of the slots; none where `states` is used.
        states: Hidden states of the encoder, shape (slots, encoder positions, d_model), or None.
        slots: Rows at most.
        max_positions: Decoder positions of a row at most.
        encoder_lengths: Encoder positions in each slot, int64, shape (slots,).
        cross_mask: Added to the attention weights, shape (slots, encoder positions).
        dtype: Of the self-attention. What is kept of windows, and `cross_mask`, may have another one.
    """

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
        window_dtype: torch.dtype | None = None,
        keeps_states: bool = False,
    ) -> None:
        """Creates the cache; on a GPU it is allocated as a whole.

        Args:
            layers: Decoder layers.
            slots: Rows.
            heads: Attention heads of a layer.
            head_size: Numbers of a head.
            positions: Decoder positions of a row.
            encoder_positions: Encoder positions of a row, at most.
            dtype: Of keys and values.
            device: Where the cache is.
            window_dtype: Of those of the cross-attention, or of hidden states; None: `dtype`.
            keeps_states: The hidden states of windows are kept instead of keys and values. On a CPU only.
        """
        self._layers, self._heads, self._head_size = layers, heads, head_size
        self.dtype, self._window_dtype, self._device = dtype, window_dtype or dtype, device
        self.is_static = device.type != "cpu"
        # Attention in AMX tiles reads a position at a time (attention.py): transposed keys are a view of those.
        self._keeps_rows = device.type == "cpu" and self._window_dtype == torch.bfloat16 and has_amx()
        encoder_positions = round_up_to_lanes(encoder_positions) if self.is_static else encoder_positions
        self._window_memory: Tensor | None = None  # of the blocks, on a CPU
        self.slots, self.max_positions = slots, positions
        self.encoder_lengths = torch.zeros(slots, dtype=torch.long, device=device)
        self.cross_mask = torch.zeros(slots, encoder_positions, dtype=self._window_dtype, device=device)
        self.self_kv = [self._new_self_kv(slots, positions) for _ in range(layers)] if self.is_static else []
        self.blocks = self._new_blocks([encoder_positions] * slots) if self.is_static else []
        self.states: Tensor | None = None
        if keeps_states:
            self.states = _zeros((slots, encoder_positions, heads * head_size), self._window_dtype, device)

    def lay_out(self, encoder_positions: Sequence[int]) -> None:
        """Prepares for windows with these numbers of encoder positions, in any order. What the cache holds is lost.

        There may be more of them than slots. Does nothing on a GPU.
        """
        if self.is_static:
            return
        if self.self_kv and self.self_kv[0].shape[3] > KEPT_POSITIONS:
            self.self_kv = []
        if self.states is not None:
            return
        largest = self.cross_mask.shape[1]
        longest = sorted((round_up_to_lanes(each, largest) for each in encoder_positions), reverse=True)[: self.slots]
        plan = plan_blocks(longest)
        if [(block.stop - block.first, block.positions) for block in self.blocks] != plan:
            self.blocks = []  # the new ones may get their memory
            self.blocks = self._new_blocks(longest)

    def reserve_texts(self, positions: int) -> None:
        """Makes room for so many positions of each text. Does nothing on a GPU."""
        if self.is_static or (self.self_kv and positions <= self.self_kv[0].shape[3]):
            return
        held = self.self_kv[0].shape[3] if self.self_kv else 0
        wanted = max(positions, FIRST_POSITIONS, int(GROWTH * held))
        room = min(round_up_to_lanes(wanted), self.max_positions)
        if not held:
            self.self_kv = [self._new_self_kv(self.slots, room) for _ in range(self._layers)]
            return
        for layer, old in enumerate(self.self_kv):  # one after the other, so that little is there twice
            new = self._new_self_kv(self.slots, room)
            new[:, :, :, :held] = old
            self.self_kv[layer] = new

    def reserve_window(self, slot: int, encoder_positions: int) -> None:
        """Makes room for a window in a slot. Does nothing on a GPU, and for hidden states."""
        if (
            self.is_static
            or self.states is not None
            or (self.blocks and slot < self.blocks[-1].stop and encoder_positions <= self.block_of(slot).positions)
        ):
            return
        needed = round_up_to_lanes(encoder_positions, self.cross_mask.shape[1])
        held = [block.positions for block in self.blocks for _ in range(block.first, block.stop)]
        held += [0] * (slot + 1 - len(held))
        self._window_memory = None  # still in use by the old blocks
        old, self.blocks = (
            self.blocks,
            self._new_blocks([max(each, needed) for each in held[: slot + 1]] + held[slot + 1 :]),
        )
        for block in old:
            for number in range(block.first, block.stop):
                target = self.block_of(number)
                _copy_row(block, number, target, number, block.positions)

    def block_of(self, slot: int) -> CrossBlock:
        """Returns the block of a slot."""
        return next(block for block in self.blocks if slot < block.stop)

    def cross_kv(self, layer: int, slot: int) -> tuple[Tensor, Tensor]:
        """Returns keys, shape (heads, head, positions), and values, (heads, positions, head), of one slot."""
        block = self.block_of(slot)
        return block.keys[layer, slot - block.first], block.values[layer, slot - block.first]

    def gather_keys(self, layer: int, slots: Tensor, encoder_positions: int, heads: Tensor) -> Tensor:
        """Returns the keys of some heads in several slots, shape (rows, heads, head, encoder_positions).

        No slot holds more positions. Those behind a row's own are zeros or older values.
        """
        if self.is_static:
            return self.blocks[0].keys[layer][slots[:, None], heads, :, :encoder_positions]
        gathered = torch.zeros(len(slots), len(heads), self._head_size, encoder_positions, dtype=self._window_dtype)
        for row, slot in zip(gathered, slots.tolist(), strict=True):
            keys = self.cross_kv(layer, slot)[0][heads, :, :encoder_positions]
            row[..., : keys.shape[-1]] = keys
        return gathered

    def move_rows(self, sources: Sequence[int], targets: Sequence[int], positions: int, encoder_positions: int) -> None:
        """Copies the first `positions` and `encoder_positions` of the slots `sources` to the slots `targets`."""
        if self.is_static:
            self._move_rows_by_layer(sources, targets, positions, encoder_positions)
            return
        for source, target in zip(sources, targets, strict=True):
            for self_kv in self.self_kv:
                self_kv[:, target, :, :positions] = self_kv[:, source, :, :positions]
            own = int(self.encoder_lengths[source])
            if self.states is None:
                self.reserve_window(target, own)
                _copy_row(self.block_of(source), source, self.block_of(target), target, own)
            else:
                self.states[target, :own] = self.states[source, :own]
            self.encoder_lengths[target] = self.encoder_lengths[source]
            self.cross_mask[target] = self.cross_mask[source]

    def _move_rows_by_layer(
        self, sources: Sequence[int], targets: Sequence[int], positions: int, encoder_positions: int
    ) -> None:
        """Copies all rows of a layer at once: on a GPU each copy has the cost of a launch, however short it is."""
        old, new = copy_async([list(sources), list(targets)], self.encoder_lengths.device)
        block = self.blocks[0]
        for self_kv, keys, values in zip(self.self_kv, block.keys, block.values, strict=True):
            self_kv[:, new, :, :positions] = self_kv[:, old, :, :positions]
            keys[new, ..., :encoder_positions] = keys[old, ..., :encoder_positions]
            values[new, :, :encoder_positions] = values[old, :, :encoder_positions]
        self.encoder_lengths[new] = self.encoder_lengths[old]
        self.cross_mask[new] = self.cross_mask[old]

    def _new_self_kv(self, slots: int, positions: int) -> Tensor:
        return _zeros((2, slots, self._heads, positions, self._head_size), self.dtype, self._device)

    def _new_blocks(self, encoder_positions: Sequence[int]) -> list[CrossBlock]:
        """Returns blocks for slots with so many encoder positions, in whole lanes, the longest first."""
        plan = plan_blocks(encoder_positions)
        if not plan:
            return []
        numbers = self._layers * self._heads * self._head_size  # of a position of a slot, for the keys
        memory = self._reserve_windows(sum(2 * numbers * rows * positions for rows, positions in plan))
        blocks: list[CrossBlock] = []
        first = begin = 0
        for rows, positions in plan:
            size = numbers * rows * positions
            shape = (self._layers, rows, self._heads)
            keys = memory[begin : begin + size]
            if self._keeps_rows:
                keys = keys.view(*shape, positions, self._head_size).transpose(-1, -2)
            else:
                keys = keys.view(*shape, self._head_size, positions)
            values = memory[begin + size : begin + 2 * size].view(*shape, positions, self._head_size)
            blocks.append(CrossBlock(first, keys, values))
            first, begin = first + rows, begin + 2 * size
        return blocks

    def _reserve_windows(self, size: int) -> Tensor:
        """Returns memory for `size` numbers: zeros or older values, shape (size or more,)."""
        held = self._window_memory
        if held is None or not KEPT_SHARE * len(held) <= size <= len(held):
            self._window_memory = held = None  # before the new one is allocated
            held = _zeros((size,), self._window_dtype, self._device)
            self._window_memory = held
        return held


def plan_blocks(encoder_positions: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the number of slots and their room for each block; the windows are given longest first."""
    blocks: list[tuple[int, int]] = []
    for positions in encoder_positions:
        if blocks and positions >= BLOCK_SHARE * blocks[-1][1]:
            blocks[-1] = blocks[-1][0] + 1, blocks[-1][1]
        else:
            blocks.append((1, positions))
    return blocks


def round_up_to_lanes(positions: int, largest: int | None = None) -> int:
    """Returns `positions` rounded up to whole lanes, but not above `largest`.

    With whole lanes, the sums of a row are the same, bit for bit, however many masked positions follow.
    """
    whole = -(-positions // LANES) * LANES
    return whole if largest is None else min(whole, largest)


def _copy_row(source: CrossBlock, old: int, target: CrossBlock, new: int, positions: int) -> None:
    """Copies the first encoder positions of slot `old` in the block `source` to slot `new` in the block `target`."""
    old, new = old - source.first, new - target.first
    target.keys[:, new, ..., :positions] = source.keys[:, old, ..., :positions]
    target.values[:, new, :, :positions] = source.values[:, old, :, :positions]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns zeros. On a CPU they are a mapping of their own, which returns to the system with the tensor."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        memory = mmap.mmap(-1, prod(shape) * dtype.itemsize, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"key-value cache of the shape {shape}: {error}") from error
    if len(memory) >= HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)
