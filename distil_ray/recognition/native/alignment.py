"""Token times from the cross-attention of a checkpoint's alignment heads, with the method of transformers.

Once the text of a row has ended, the weights of the heads over the chunk's own audio are normalized, smoothed and
averaged, and dynamic time warping finds where each token ends. The cross-attention keys are still in the row's slot of
the cache. The queries were recorded with the steps of the decoder (query_record.py); where they were not (on a GPU, for
several texts per chunk, and if the last token has not been read), the text runs through the decoder a second time, all
tokens at once. The result depends on the row alone: transformers includes the padding of a batch in the normalization,
so that a row is aligned as there only if it is alone. The module knows tokens by their ids only.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.query_record import QueryRecord
from distil_ray.whisper.features import HOP, SAMPLES_PER_POSITION
from distil_ray.whisper.formats.model_files import upper_layer_heads

LAST_TOKENS = 3  # of a text, whose attention gives its end
ROWS_AT_ONCE = 8  # on a GPU; the weights of large checkpoints take 50 MB per row
FILTERED_AT_ONCE = 2**24  # attention weights on a GPU: the filter needs some ten times their 64 MB

Head = tuple[int, int]  # decoder layer, head


@dataclass(frozen=True, slots=True)
class TextAlignment:
    """Times of a text, in encoder positions (20 ms) from the first sample of the task.

    Attributes:
        ends: Of each token, never decreasing, below `num_audio_positions`; a token starts where the one before it ends,
            the first one at 0. They assume that the text lasts as long as the audio. None if they were not
            requested.
        last_position: Where the last words attend to, without that assumption; 0 without words.
    """

    ends: tuple[int, ...] | None
    last_position: int


class Aligner:
    """Aligns rows that have ended and still hold their slots."""

    def __init__(self, decoder: Decoder, heads: Sequence[Head], median_width: int, eot: int) -> None:
        """Creates an aligner.

        Args:
            decoder: Of the main model.
            heads: From `choose_alignment_heads`.
            median_width: Positions of the median filter, odd.
            eot: The end token; ids below it are text.
        """
        self._decoder = decoder
        self._eot = eot
        listed: dict[int, list[int]] = defaultdict(list)
        for layer, head in heads:
            listed[layer].append(head)
        self._heads = {layer: torch.tensor(those, device=decoder.device) for layer, those in listed.items()}
        self._median_width = median_width

    def new_record(self, cache: KVCache) -> QueryRecord | None:
        """Returns what keeps the queries of texts in the slots of `cache`; None on a GPU."""
        if cache.is_static:
            return None
        decoder = self._decoder
        return QueryRecord(self._heads, cache.slots, cache.max_positions, decoder.head_size, decoder.dtype)

    def align(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Sequence[int]],
        samples: Sequence[int],
        cache: KVCache,
        slots: Sequence[int],
        is_timed: Sequence[bool],
        record: QueryRecord | None = None,
        is_recorded: Sequence[bool] = (),
    ) -> list[TextAlignment]:
        """Returns the times of texts.

        Args:
            prompts: Of each row.
            texts: The tokens of each row after the prompt.
            samples: Of the audio of each row.
            cache: Holds the cross-attention keys.
            slots: Of each row.
            is_timed: For each row, whether the times of all tokens are needed or only `last_position`.
            record: The queries of the rows, if there are any.
            is_recorded: For each row, whether it has those of all tokens.
        """
        recorded = [row for row, known in enumerate(is_recorded) if known and record is not None]
        others = [row for row in range(len(slots)) if row not in recorded]
        ends: dict[int, tuple[int, ...] | None] = {}
        last: dict[int, Tensor] = {}

        def add(row: int, weights: Tensor) -> None:
            text = texts[row]
            own = weights[:, :, : num_audio_positions(samples[row])]
            ends[row] = (token_ends(own, self._median_width) if text else ()) if is_timed[row] else None
            last[row] = last_position(own, text, self._eot, self._median_width)

        for row in recorded:
            assert record is not None
            add(row, self._recorded_weights(record, cache, slots[row], len(prompts[row]), len(texts[row])))
        # On a CPU texts that are padded to the longest of them would round by its length.
        num_at_once = 1 if self._decoder.device.type == "cpu" else ROWS_AT_ONCE
        for begin in range(0, len(others), num_at_once):
            rows = others[begin : begin + num_at_once]
            weights = self._weights(
                [prompts[row] for row in rows], [texts[row] for row in rows], cache, [slots[row] for row in rows]
            )
            for row, own in zip(rows, weights, strict=True):
                add(row, own[:, len(prompts[row]) : len(prompts[row]) + len(texts[row])])
        positions = torch.stack([last[row] for row in range(len(slots))]).tolist()
        return [TextAlignment(ends[row], position) for row, position in enumerate(positions)]

    def _recorded_weights(self, record: QueryRecord, cache: KVCache, slot: int, first: int, num: int) -> Tensor:
        """Returns float32 weights of `num` tokens from position `first` on, shape (heads, num, encoder positions)."""
        mask = cache.cross_mask[slot, : int(cache.encoder_lengths[slot])]
        return record.attention_weights(slot, first, num, mask, partial(self._decoder.cross_products, cache, slot))

    def _weights(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], cache: KVCache, slots: Sequence[int]
    ) -> Tensor:
        """Returns float32 weights, shape (rows, heads, tokens of the longest row, positions of the longest window)."""
        rows = [[*prompt, *text] for prompt, text in zip(prompts, texts, strict=True)]
        length = max(map(len, rows))
        ids = [[*row, *[0] * (length - len(row))] for row in rows]
        collector = _WeightCollector(self._heads)
        where = torch.tensor(slots, device=self._decoder.device)
        encoder_positions = int(cache.encoder_lengths[where].max())
        self._decoder.prefill(
            torch.tensor(ids, device=self._decoder.device), cache, where, encoder_positions, collector
        )
        return torch.cat(collector.weights, dim=1)


class _WeightCollector:
    """A hook for `Decoder.prefill` that collects the attention weights of the alignment heads."""

    def __init__(self, heads: dict[int, Tensor]) -> None:
        self._heads = heads
        self.weights: list[Tensor] = []  # of shape (rows, heads of the layer, tokens, positions)

    def __call__(self, layer: int, query: Tensor, keys_of: Callable[[Tensor], Tensor], mask: Tensor) -> None:
        """Takes scaled queries, shape (rows, heads, tokens, head), and the transposed keys, (rows, heads, head, T)."""
        if (heads := self._heads.get(layer)) is not None:
            weights = torch.matmul(query[:, heads], keys_of(heads)) + mask
            self.weights.append(weights.float().softmax(dim=-1))


def create_aligner(module: Any, decoder: Decoder, eot: int) -> tuple[Aligner, str | None]:
    """Returns the aligner of a checkpoint, and a message where the checkpoint does not name its alignment heads."""
    config = module.config
    named = getattr(module.generation_config, "alignment_heads", None)
    heads, warning = choose_alignment_heads(named, config.decoder_layers, config.decoder_attention_heads)
    return Aligner(decoder, heads, config.median_filter_width, eot), warning


def choose_alignment_heads(
    named: Sequence[Sequence[int]] | None, layers: int, heads: int
) -> tuple[list[Head], str | None]:
    """Returns the heads that follow the speech, and a message where the checkpoint does not name its own.

    `named` is `alignment_heads` of the generation config. A checkpoint with fewer layers than its teacher may have kept
    the teacher's list, which then names layers that do not exist. Without a usable list a checkpoint gets openai's
    default: every head of the upper half of the layers.
    """
    default = upper_layer_heads(layers, heads)
    if not named:
        return (
            default,
            "decoding.timestamps=word: all heads of the upper layers, as the checkpoint names no alignment heads",
        )
    found = [(int(layer), int(head)) for layer, head in named]
    if all(layer < layers and head < heads for layer, head in found):
        return found, None
    return (
        default,
        "decoding.timestamps=word: all heads of the upper layers, as the checkpoint names heads that it does not have",
    )


def num_audio_positions(num_samples: int) -> int:
    """Returns the encoder positions of a chunk's own audio, counted as transformers does, but at least one."""
    return max(1, -(-num_samples // HOP) * HOP // SAMPLES_PER_POSITION)


def token_ends(weights: Tensor, median_width: int) -> tuple[int, ...]:
    """Returns the position at which each token ends, from float32 attention weights (heads, tokens, positions)."""
    return tuple(dtw_columns(-_smooth(weights, slice(None), median_width).double().cpu().numpy()).tolist())


def last_position(weights: Tensor, text: Sequence[int], eot: int, median_width: int) -> Tensor:
    """Returns the position that the last words of a text attend to, int64, shape (); 0 without words.

    `weights` are float32, shape (heads, tokens, positions), of the tokens of `text`. The result is the median of the
    last `LAST_TOKENS` tokens that are text (ids below `eot`): a single one may attend anywhere. Unlike `token_ends` it
    also holds where speech follows after the end of the text, over which dynamic time warping would stretch the last
    word.
    """
    words = [index for index, token in enumerate(text) if token < eot][-LAST_TOKENS:]
    if not words:
        return torch.zeros((), dtype=torch.long, device=weights.device)
    return _smooth(weights, slice(words[0], words[-1] + 1), median_width).argmax(dim=-1).median()


def _smooth(weights: Tensor, rows: slice, median_width: int) -> Tensor:
    """Returns attention weights normalized, smoothed and averaged, shape (rows, positions).

    `weights` has the shape (heads, tokens, positions); `rows` selects tokens.
    """
    spread = weights.std(dim=-2, keepdim=True, unbiased=False).clamp_(min=torch.finfo(weights.dtype).tiny)
    scaled = (weights[:, rows] - weights.mean(dim=-2, keepdim=True)) / spread
    parts = torch.split(scaled, _heads_at_once(scaled))
    return torch.cat([median_filter(part, median_width) for part in parts]).mean(dim=0)


def _heads_at_once(weights: Tensor) -> int:
    """Returns how many heads of weights, shape (heads, tokens, positions), are filtered together.

    On a CPU a head at a time stays in the cache. On a GPU each operation has the cost of a launch.
    """
    return 1 if weights.device.type == "cpu" else max(1, FILTERED_AT_ONCE // max(1, weights[0].numel()))


def median_filter(values: Tensor, width: int) -> Tensor:
    """Returns the running median over `width` neighbors of the last axis, mirrored at both ends.

    `values` has the shape (heads, tokens, positions).

    A partial bubble sort finds the upper half of the neighbors: a third of the time of sorting them.
    """
    half = width // 2
    length = values.shape[-1]
    if length <= half:
        return values
    padded = functional.pad(values, (half, half), mode="reflect")
    neighbors = [padded[..., shift : shift + length] for shift in range(width)]
    for last in range(width - 1, half - 1, -1):
        for i in range(last):
            neighbors[i], neighbors[i + 1] = (
                torch.minimum(neighbors[i], neighbors[i + 1]),
                torch.maximum(neighbors[i], neighbors[i + 1]),
            )
    return neighbors[half]


def dtw_columns(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns, by dynamic time warping, the first column of the cheapest path in each row of `cost`, (rows, columns).

    The path leads from the first cell to the last by steps of one row, one column, or both. A whole row is computed at
    once: with the running sum of the row subtracted, moving along it is free, and the best cell to enter it by is a
    running minimum. O(rows x columns), in a few calls of numpy per row.
    """
    rows, columns = cost.shape
    entered = np.full(
        (rows, columns), np.inf
    )  # cost of the path before it enters a row at a column, less the running sum
    totals = np.empty((rows, columns))
    entered[0, 0] = 0.0
    for row in range(rows):
        sums = np.cumsum(cost[row])
        if row:
            entered[row] = totals[row - 1]
            entered[row, 1:] = np.minimum(entered[row, 1:], totals[row - 1, :-1])
            entered[row, 1:] -= sums[:-1]
        totals[row] = np.minimum.accumulate(entered[row]) + sums
    firsts = np.empty(rows, np.int64)
    column = columns - 1
    for row in range(rows - 1, -1, -1):
        column = firsts[row] = entered[row, : column + 1].argmin()
        if row and column and totals[row - 1, column - 1] <= totals[row - 1, column]:
            column -= 1
    return firsts
