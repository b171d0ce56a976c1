"""One step of Whisper's decoder for many rows, with Hugging Face's weights.

The projections of query, key and value are one product, and the scale of a query is folded into its weights (exact, as
it is a power of two for Whisper's heads of 64). Attention over the cache is in attention.py. A step may take several
ids of each row (drafts to be verified), for little more time than one: the weights are read once.

The decoder knows no rules, prompts, drafts, or when to stop: ids in, logits out. No call waits for the device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distil_ray.recognition.memory_estimate import bytes_of_slot
from distil_ray.recognition.native.attention import (
    DenseAttention,
    LengthAwareAttention,
    StateAttention,
    StepAttention,
    additive_mask,
    choose_single_query_attention,
    masked_attention,
    merge_heads,
)
from distil_ray.recognition.native.decoder_weights import DecoderLayer, prepare_layer, prepare_vocabulary
from distil_ray.recognition.native.encoder import silence_log_weight
from distil_ray.recognition.native.float8 import Float8Layers
from distil_ray.recognition.native.kv_cache import KVCache, round_up_to_lanes
from distil_ray.recognition.native.linear import (
    Linear,
    Projection,
    row_blocks,
)
from distil_ray.recognition.native.query_record import QueryRecord
from distil_ray.recognition.native.state_attention import StateProjection, attend_to_states, can_read_states
from distil_ray.whisper.processor import Int8Products, has_bfloat16_vectors

# Called with: number of the layer, scaled queries (rows, heads, P, head), a function that returns the transposed keys,
# (rows, heads, head, T), of the heads with these numbers, and the mask.
CrossAttentionHook = Callable[[int, Tensor, Callable[[Tensor], Tensor], Tensor], None]

SPARE_POSITIONS = 16  # of the cache, behind the last position of any text: drafts beyond it are written there


@dataclass(frozen=True, slots=True)
class Branches:
    """Entries of texts that branch: they share those of their common beginning in the self-attention cache.

    Attributes:
        entries: Entry of each id of a step, int64, shape (rows, P).
        visible: Entries that each id attends to, its own included: bool, shape (rows, P, entries of a slot).
    """

    entries: Tensor
    visible: Tensor


class Decoder:
    """Ids in, logits out, over a `KVCache`.

    Attributes:
        single_query_attention: The kernel for the attention of one query per row; None: plain products.
    """

    def __init__(
        self,
        module: Any,
        int8: Int8Products | None = None,
        vocabulary: Tensor | None = None,
        float8: Float8Layers | None = None,
        reads_states: bool = False,
        has_many_rows: bool = False,
    ) -> None:
        """Takes the weights of `module`.

        Args:
            module: A `WhisperForConditionalGeneration` or a `StoredModel`.
            int8: The larger linear layers and the vocabulary compute in 8 bits (linear.py). A layer of (d_model,
                d_model) takes as long in float32 for the few rows of a step. Cross-attention is computed in bfloat16
                where the processor is faster in it (`has_bfloat16_vectors`).
            vocabulary: The only ids that get logits, int64, ascending; None: all.
            float8: Takes what computes in 8 bits on a GPU: the vocabulary, and the keys and values of cross-attention.
                A step is limited by memory, and its other layers are small.
            reads_states: Cross-attention reads hidden states instead of keys and values where that is as fast for one
                query per row (state_attention.py). Steps of several queries per row then take longer.
            has_many_rows: Steps have several queries per row, so that large layers are arranged for some tens of rows.
        """
        decoder = module.model.decoder
        config = module.config
        self.heads: int = config.decoder_attention_heads
        self.head_size: int = config.d_model // self.heads
        self.max_positions: int = config.max_target_positions
        self.max_encoder_positions: int = config.max_source_positions
        self.dtype: torch.dtype = module.dtype
        self.device: torch.device = module.device
        self.single_query_attention, self.warning = choose_single_query_attention(
            self.device, self.dtype, self.head_size
        )
        has_kernel = self.single_query_attention is not None  # for keys and values
        self._reads_states = reads_states and not has_kernel and can_read_states(decoder.embed_positions.weight)
        is_rounded = int8 is not None and self.device.type == "cpu" and has_bfloat16_vectors()
        self._window_dtype = torch.bfloat16 if is_rounded else self.dtype
        self._layers = [
            prepare_layer(layer, int8, float8, self.heads if self._reads_states else None, has_many_rows)
            for layer in decoder.layers
        ]
        self._state_projections = [layer.cross_states for layer in self._layers if layer.cross_states is not None]
        self._norm: nn.LayerNorm = decoder.layer_norm
        self._silence_kv: list[tuple[Tensor, Tensor]] = []  # of each layer, as in the cache
        self._positions: Tensor = decoder.embed_positions.weight
        self._tokens, self._vocabulary = prepare_vocabulary(module, int8, vocabulary, float8, has_many_rows)
        self.cache_positions: int = self.max_positions + SPARE_POSITIONS
        self._columns = torch.arange(max(self.cache_positions, self.max_encoder_positions), device=self.device)

    @property
    def reads_by_length(self) -> bool:
        """A step of one id per row reads the positions of each row alone, whatever bounds it is given."""
        return self.single_query_attention is not None

    def new_cache(self, slots: int, num_texts: int = 1) -> KVCache:
        """Returns a cache for `slots` rows of the longest windows, each with `num_texts` of the longest texts."""
        return KVCache(
            layers=len(self._layers),
            slots=slots,
            heads=self.heads,
            head_size=self.head_size,
            positions=num_texts * self.cache_positions,
            encoder_positions=self.max_encoder_positions,
            dtype=self.dtype,
            device=self.device,
            window_dtype=self._window_dtype,
            keeps_states=self._reads_states,
        )

    def bytes_per_slot(self, num_texts: int = 1) -> int:
        """Returns the bytes of one slot of the cache for `num_texts` texts."""
        return bytes_of_slot(
            self.heads * self.head_size,
            len(self._layers),
            self.max_encoder_positions,
            num_texts * self.cache_positions,
            self._reads_states,
            self.dtype.itemsize,
        )

    @torch.inference_mode()
    def add_silence(self, hidden: Tensor) -> None:
        """Projects the silence behind short windows once, so that `write_windows` copies it.

        Does nothing on a GPU, and where attention reads hidden states. `hidden` is that of a full window of silence,
        shape (positions, d_model), of which each window has the last positions behind it (`Encoder.silence`).
        """
        self._silence_kv = []
        if self.device.type != "cpu":
            return
        for layer in self._layers:
            if layer.cross_kv is None:
                continue
            keys = hidden.new_empty(self.heads, self.head_size, len(hidden), dtype=self._window_dtype)
            values = hidden.new_empty(self.heads, len(hidden), self.head_size, dtype=self._window_dtype)
            _project_row(layer.cross_kv, hidden, keys, values)
            self._silence_kv.append((keys, values))

    def write_windows(self, encoded: Tensor, cache: KVCache, slots: Tensor, window_positions: int) -> None:
        """Writes what the cross-attention reads of windows into `slots`: keys and values, or the states themselves.

        `encoded` are hidden states of the encoder, shape (rows, T, d_model). The first `window_positions` are those of
        the window, the others those of silence behind it (encoder.py).
        """
        length = encoded.shape[1]
        if cache.states is not None:
            cache.states[slots, :length] = encoded.to(cache.states.dtype)
        else:
            self._write_keys_and_values(encoded, cache, slots, window_positions)
        cache.encoder_lengths.index_fill_(0, slots, length)  # without a copy to the device
        mask = cache.cross_mask.new_full((cache.cross_mask.shape[1],), float("-inf"))
        mask[:window_positions] = 0.0
        if length > window_positions:
            mask[window_positions:length] = silence_log_weight(
                window_positions, length - window_positions, self.max_encoder_positions
            )
        cache.cross_mask[slots] = mask

    def _write_keys_and_values(self, encoded: Tensor, cache: KVCache, slots: Tensor, window_positions: int) -> None:
        """Writes the keys and values of windows; arguments as for `write_windows`."""
        rows, length, _ = encoded.shape
        slot_numbers = [] if cache.is_static else slots.tolist()
        known = length - window_positions if self._silence_kv else 0
        for slot in slot_numbers:
            cache.reserve_window(slot, length)
        for index, layer in enumerate(self._layers):
            assert layer.cross_kv is not None, "the cache has no states"
            if cache.is_static:
                projected = layer.cross_kv(encoded).view(rows, length, 2, self.heads, self.head_size)
                keys, values = cache.blocks[0].keys[index], cache.blocks[0].values[index]
                keys[slots, :, :, :length] = projected[:, :, 0].permute(0, 2, 3, 1)
                values[slots, :, :length] = projected[:, :, 1].transpose(1, 2)
                continue
            for row, slot in zip(encoded, slot_numbers, strict=True):
                keys, values = cache.cross_kv(index, slot)
                num = length - known
                _project_row(layer.cross_kv, row[:num], keys[..., :num], values[:, :num])
                if known:
                    silent_keys, silent_values = self._silence_kv[index]
                    keys[..., num:length] = silent_keys[..., -known:]
                    values[:, num:length] = silent_values[:, -known:]

    def prefill(
        self,
        ids: Tensor,
        cache: KVCache,
        slots: Tensor,
        encoder_positions: int,
        hook: CrossAttentionHook | None = None,
    ) -> Tensor:
        """Runs prompts `ids`, shape (rows, P), at the first positions.

        Args:
            ids: int64.
            cache: Takes keys and values.
            slots: Shape (rows,); `write_windows` has been called for them.
            encoder_positions: No slot holds more.
            hook: Called with the cross-attention of every layer.

        Returns:
            Hidden states, shape (rows, P, d_model).
        """
        rows, length = ids.shape
        encoder_positions = round_up_to_lanes(encoder_positions, cache.cross_mask.shape[1])
        cache.reserve_texts(length)
        num_keys = round_up_to_lanes(length, len(self._columns))  # the weights of each row begin at whole lanes
        columns = self._columns[:num_keys]
        causal = additive_mask(columns[None, None, :] <= columns[None, :length, None], self.dtype)
        cross_mask = cache.cross_mask[slots, None, None, :encoder_positions]
        hidden = self._tokens[ids] + self._positions[:length]
        for index, layer in enumerate(self._layers):
            qkv = layer.self_qkv(layer.self_norm(hidden)).view(rows, length, 3, self.heads, self.head_size)
            cache.self_kv[index][:, slots, :, :length] = qkv[:, :, 1:].permute(2, 0, 3, 1, 4)
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            # Copies have one layout for any number of rows.
            keys = functional.pad(key.transpose(2, 3), (0, num_keys - length))
            values = functional.pad(value, (0, 0, 0, num_keys - length))
            hidden = hidden + layer.self_out(merge_heads(masked_attention(query, keys, values, causal)))
            query = layer.cross_query(layer.cross_norm(hidden)).view(rows, length, self.heads, self.head_size)
            query = query.transpose(1, 2)
            if hook is not None:
                hook(index, query, partial(self.keys, cache, index, slots, encoder_positions), cross_mask)
            mixed = self._cross_attention(query, cache, index, slots, cross_mask)
            hidden = _mlp(layer, hidden + layer.cross_out(merge_heads(mixed)))
        return self._norm(hidden)  # type: ignore[no-any-return]

    def _cross_attention(self, query: Tensor, cache: KVCache, index: int, slots: Tensor, cross_mask: Tensor) -> Tensor:
        """Returns the cross-attention of a layer for several queries per row, shape (rows, heads, P, head), in `slots`.

        `cross_mask` is their part of the mask of the cache, shape (rows, 1, 1, T). On a CPU it computes row by row:
        sums over masked positions behind a row's own would round by how many there are, which depends on the neighbors;
        and no rows need to be gathered.
        """
        if cache.is_static:
            keys, values, longest = cache.blocks[0].keys[index], cache.blocks[0].values[index], cross_mask.shape[-1]
            return masked_attention(query, keys[slots, :, :, :longest], values[slots, :, :longest], cross_mask)
        if cache.states is not None:
            return self._attend_to_states(query, cache, cache.states, self._state_projections[index], slots)
        mixed, mask = torch.empty_like(query), cache.cross_mask
        for row, (slot, length) in enumerate(zip(slots.tolist(), cache.encoder_lengths[slots].tolist(), strict=True)):
            own = round_up_to_lanes(length, mask.shape[1])
            keys, values = cache.cross_kv(index, slot)
            own_mask = mask[slot, None, None, None, :own]
            mixed[row] = masked_attention(query[row, None], keys[None, :, :, :own], values[None, :, :own], own_mask)[0]
        return mixed

    def _attend_to_states(
        self, query: Tensor, cache: KVCache, states: Tensor, projection: StateProjection, slots: Tensor
    ) -> Tensor:
        """Returns what `_cross_attention` does, row by row, over hidden states.

        From as many queries on as a head has numbers, keys and values for the moment take fewer operations.
        """
        _, heads, num, _ = query.shape
        lengths, mask = cache.encoder_lengths[slots].tolist(), cache.cross_mask
        mixed = torch.empty_like(query)
        queries = projection.project_queries(query.transpose(1, 2)) if num < self.head_size else None
        for row, (slot, length) in enumerate(zip(slots.tolist(), lengths, strict=True)):
            own, own_mask = states[slot, :length], mask[slot, None, None, None, :length]
            if queries is None:
                keys, values = projection.keys_and_values(own)
                mixed[row] = masked_attention(query[row, None], keys[None], values[None], own_mask)[0]
                continue
            sums = attend_to_states(queries[row, None], own[None], own_mask)
            mixed[row] = projection.project_sums(sums).view(num, heads, -1).transpose(0, 1)
        return mixed

    def keys(self, cache: KVCache, layer: int, slots: Tensor, encoder_positions: int, heads: Tensor) -> Tensor:
        """Returns cross-attention keys of some heads in several slots, shape (rows, heads, head, encoder_positions).

        No slot holds more positions. Those behind a row's own are zeros or older values.
        """
        if cache.states is None:
            return cache.gather_keys(layer, slots, encoder_positions, heads).to(self.dtype)
        return self._state_projections[layer].keys(cache.states[slots, :encoder_positions], heads)

    def cross_products(self, cache: KVCache, slot: int, layer: int, heads: Tensor, query: Tensor) -> Tensor:
        """Returns the products of queries with the cross-attention keys of a slot, float32, shape (heads, queries, T).

        Args:
            cache: On a CPU.
            slot: With T encoder positions.
            layer: Number of the layer.
            heads: Numbers of the heads, int64.
            query: Scaled, float32, shape (heads, queries, head).
        """
        length = int(cache.encoder_lengths[slot])
        if cache.states is not None:
            return self._state_projections[layer].products(query, heads, cache.states[slot, :length])
        return torch.matmul(query, cache.cross_kv(layer, slot)[0][heads, :, :length].float())

    def step(
        self,
        ids: Tensor,
        positions: Tensor,
        cache: KVCache,
        num_positions: int,
        encoder_positions: int,
        is_ragged: bool,
        branches: Branches | None = None,
        record: QueryRecord | None = None,
    ) -> Tensor:
        """Runs P more ids in each of the first slots.

        Args:
            ids: int64, shape (rows, P).
            positions: Of these ids, int64, shape (rows, P), below `cache_positions`; they differ by row.
            cache: Takes keys and values.
            num_positions: Bound on the entries of the self-attention cache that any row uses, the new ones included.
            encoder_positions: Bound on the encoder positions of any row.
            is_ragged: Some window is shorter than 30 s, so that its mask is needed.
            branches: Where the ids of a row continue different texts. None: they follow each other, and each id has the
                entry of its position.
            record: Takes the queries of the cross-attention, where ids have the entries of their positions.

        Returns:
            Hidden states, shape (rows, P, d_model).
        """
        rows, length = ids.shape
        entries = positions if branches is None else branches.entries
        num_entries = round_up_to_lanes(num_positions, cache.max_positions)
        cache.reserve_texts(num_entries)
        if not cache.is_static:
            cache.reserve_window(rows - 1, 1)  # of rows that pad a step
            # What a row writes that has ended may lie behind all texts, and does not matter.
            entries = entries.clamp(max=cache.self_kv[0].shape[3] - 1)
        attention: StepAttention
        if length == 1 and branches is None and self.single_query_attention is not None:
            attention = LengthAwareAttention(self.single_query_attention, positions, cache)
        else:
            if branches is None:
                visible = self._columns[:num_entries] <= positions[:, :, None]
            else:
                visible = branches.visible[:, :, :num_entries]
            if cache.states is None:
                attention = DenseAttention(visible, cache, encoder_positions, is_ragged)
            else:
                attention = StateAttention(visible, cache, cache.states, self._state_projections, is_ragged)
        rows_column = self._columns[:rows, None]
        hidden = self._tokens[ids] + self._positions[positions.clamp(max=self.max_positions - 1)]
        for index, layer in enumerate(self._layers):
            qkv = layer.self_qkv(layer.self_norm(hidden)).view(rows, length, 3, self.heads, self.head_size)
            self_kv = cache.self_kv[index]
            self_kv[:, rows_column, :, entries] = qkv[:, :, 1:]
            hidden = hidden + layer.self_out(attention.self_attention(qkv[:, :, 0], self_kv))
            query = layer.cross_query(layer.cross_norm(hidden)).view(rows, length, self.heads, self.head_size)
            if record is not None:
                record.add(index, query, entries)
            mixed = attention.cross_attention(query, index)
            hidden = _mlp(layer, hidden + layer.cross_out(mixed))
        return self._norm(hidden)  # type: ignore[no-any-return]

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns float32 logits, shape (..., vocabulary), of hidden states, shape (..., d_model)."""
        return self.raw_logits(hidden).float()

    def raw_logits(self, hidden: Tensor) -> Tensor:
        """Returns what `logits` does in the number type of the hidden states."""
        return self._vocabulary(hidden)


def _project_row(cross_kv: Projection, hidden: Tensor, keys: Tensor, values: Tensor) -> None:
    """Writes the keys and values of one window into a slot of the cache.

    In float32 the product with the weights of the keys has the layout of the cache. Transposing the keys afterwards
    took a quarter of the time of the products.

    Args:
        cross_kv: The layer.
        hidden: Output of the encoder, shape (T, d_model).
        keys: Shape (heads, head, T); whole rows of a larger tensor.
        values: Shape (heads, T, head).
    """
    length, (heads, head_size, _) = len(hidden), keys.shape
    if isinstance(cross_kv, Linear) and cross_kv.bias is not None and hidden.dtype == torch.float32:
        size = heads * head_size  # keys have no bias
        torch.mm(cross_kv.weight[:size], hidden.T, out=keys.flatten(0, 1))
        projected = functional.linear(hidden, cross_kv.weight[size:], cross_kv.bias[size:])
        values.copy_(projected.view(length, heads, head_size).transpose(0, 1))
        return
    for part in row_blocks(length):
        both = cross_kv(hidden[part]).view(-1, 2, heads, head_size)
        keys[..., part] = both[:, 0].permute(1, 2, 0)
        values[:, part] = both[:, 1].transpose(0, 1)


def _mlp(layer: DecoderLayer, hidden: Tensor) -> Tensor:
    return hidden + layer.fc2(functional.gelu(layer.fc1(layer.mlp_norm(hidden))))
