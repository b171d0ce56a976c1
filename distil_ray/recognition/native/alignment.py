"""When each token was spoken: from the cross-attention of a checkpoint's alignment heads, as transformers finds it.

Once a row's text has ended, it passes the decoder a second time, all tokens at once; the heads' weights over the
chunk's own audio are brought to one scale, smoothed, averaged, and the cheapest way through them that never turns back
tells where each token ends. Cross keys still lie in the row's slot of the cache. A pass costs a few hundredths of
what decoding the row did. It depends on nothing but the row: transformers' own lets the padding of a batch into the
scale, so that a row is aligned as there only when it is alone. Knows tokens by number only.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.whisper.features import HOP, SAMPLES_PER_POSITION

LAST_TOKENS = 3  # whose attention tells where a text ends
ROWS_AT_ONCE = 8  # weights of large checkpoints take 50 MB a row

Head = tuple[int, int]  # decoder layer, head


@dataclass(frozen=True, slots=True)
class TextAlignment:
    """When a text was spoken, in encoder positions (20 ms) from the chunk's first sample.

    ``ends``: of each token, never falling, below `num_positions`; the token before's end is a token's start, the first
    one's is 0. They suppose that the text lasts as long as the chunk. None where they were not asked for.
    ``last``: where the model looks for the last words, which supposes nothing; 0 where there are none.
    """

    ends: tuple[int, ...] | None
    last_position: int


class Aligner:
    """Aligns rows that have ended and still hold their slots."""

    def __init__(self, decoder: Decoder, heads: Sequence[Head], median_width: int, eot: int) -> None:
        """`heads` from `alignment_heads`; `median_width`: positions of the median filter, odd; text is below `eot`."""
        self._decoder = decoder
        self._eot = eot
        listed: dict[int, list[int]] = defaultdict(list)
        for layer, head in heads:
            listed[layer].append(head)
        self._heads = {layer: torch.tensor(those, device=decoder.device) for layer, those in listed.items()}
        self._median_width = median_width

    def align(
        self,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Sequence[int]],
        samples: Sequence[int],
        cache: KVCache,
        slots: Sequence[int],
        is_timed: Sequence[bool],
    ) -> list[TextAlignment]:
        """When the tokens of each text were spoken; all tokens only where `is_timed` says so, else the last ones.

        Row by row: the prompt (all of one length), the tokens after it, the samples of the chunk, its slot.
        """
        ends: list[tuple[int, ...] | None] = []
        last: list[Tensor] = []
        for begin in range(0, len(slots), ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            weights = self._weights(prompts[rows], texts[rows], cache, slots[rows])
            for row, (text, num_samples, timed) in enumerate(
                zip(texts[rows], samples[rows], is_timed[rows], strict=True)
            ):
                own = weights[row, :, : len(text), : num_audio_positions(num_samples)]
                ends.append((token_ends(own, self._median_width) if text else ()) if timed else None)
                last.append(last_position(own, text, self._eot, self._median_width))
        return [TextAlignment(*each) for each in zip(ends, torch.stack(last).tolist(), strict=True)]

    def _weights(
        self, prompts: Sequence[Sequence[int]], texts: Sequence[Sequence[int]], cache: KVCache, slots: Sequence[int]
    ) -> Tensor:
        """float32, shape (rows, heads, tokens of the longest text, positions of the longest window)."""
        length = max(len(text) for text in texts)
        ids = [[*prompt, *text, *[0] * (length - len(text))] for prompt, text in zip(prompts, texts, strict=True)]
        collector = _WeightCollector(self._heads)
        where = torch.tensor(slots, device=self._decoder.device)
        encoder_positions = int(cache.encoder_lengths[where].max())
        self._decoder.prefill(
            torch.tensor(ids, device=self._decoder.device), cache, where, encoder_positions, collector
        )
        return torch.cat(collector.weights, dim=1)[:, :, len(prompts[0]) :]


class _WeightCollector:
    """Sees each layer's cross-attention while a text passes, and keeps the weights of the alignment heads."""

    def __init__(self, heads: dict[int, Tensor]) -> None:
        self._heads = heads
        self.weights: list[Tensor] = []  # of shape (rows, heads of the layer, tokens, positions)

    def __call__(self, layer: int, query: Tensor, keys: Tensor, mask: Tensor) -> None:
        """Scaled queries, shape (rows, heads, tokens, head), and turned keys, shape (rows, heads, head, positions)."""
        if (heads := self._heads.get(layer)) is not None:
            weights = torch.matmul(query[:, heads], keys[:, heads]) + mask
            self.weights.append(weights.float().softmax(dim=-1))


def choose_alignment_heads(
    named: Sequence[Sequence[int]] | None, layers: int, heads: int
) -> tuple[list[Head], str | None]:
    """The heads that follow the speech, and a note where the checkpoint does not name its own.

    `named`: the generation config's `alignment_heads`. Checkpoints with fewer layers than their teacher may have taken
    over its list, which then names layers that they have not. Without a list of its own a checkpoint gets openai's
    default, every head of the upper half of the layers.
    """
    default = [(layer, head) for layer in range(layers // 2, layers) for head in range(heads)]
    if not named:
        return (
            default,
            "decoding.timestamps=word: all heads of the upper layers, as the checkpoint names none of its own",
        )
    found = [(int(layer), int(head)) for layer, head in named]
    if all(layer < layers and head < heads for layer, head in found):
        return found, None
    return default, "decoding.timestamps=word: all heads of the upper layers; the checkpoint names heads it has not"


def num_audio_positions(num_samples: int) -> int:
    """Encoder positions that hold a chunk's own audio; counted as transformers counts them, but never none."""
    return max(1, -(-num_samples // HOP) * HOP // SAMPLES_PER_POSITION)


def token_ends(weights: Tensor, median_width: int) -> tuple[int, ...]:
    """The position at which each token ends, from attention weights, float32, shape (heads, tokens, positions)."""
    return tuple(dtw_columns(-_smooth(weights, slice(None), median_width).double().cpu().numpy()).tolist())


def last_position(weights: Tensor, text: Sequence[int], eot: int, median_width: int) -> Tensor:
    """The position at which the model looks while it writes the last words, int64, shape (); 0 without words.

    `weights`: float32, shape (heads, tokens, positions), of the tokens of `text`. Of the last `LAST_TOKENS` tokens
    that are text (ids below `eot`) the median: one alone may look anywhere. Unlike `token_ends` it also holds where
    speech follows after the end of the text, over which the cheapest way would stretch the last word.
    """
    spoken = [place for place, token in enumerate(text) if token < eot][-LAST_TOKENS:]
    if not spoken:
        return torch.zeros((), dtype=torch.long, device=weights.device)
    return _smooth(weights, slice(spoken[0], spoken[-1] + 1), median_width).argmax(dim=-1).median()


def _smooth(weights: Tensor, rows: slice, median_width: int) -> Tensor:
    """Attention weights, shape (heads, tokens, positions), on one scale, smoothed and averaged: (rows, positions)."""
    spread = weights.std(dim=-2, keepdim=True, unbiased=False).clamp_(min=torch.finfo(weights.dtype).tiny)
    scaled = (weights[:, rows] - weights.mean(dim=-2, keepdim=True)) / spread
    return torch.stack([median_filter(head, median_width) for head in scaled]).mean(dim=0)


def median_filter(values: Tensor, width: int) -> Tensor:
    """Running median over `width` neighbors of the last axis of (tokens, positions), mirrored at both ends.

    The upper half of the neighbors is sifted out, largest first: a third of the time of sorting them.
    """
    half = width // 2
    length = values.shape[-1]
    if length <= half:
        return values
    padded = functional.pad(values, (half, half), mode="reflect")
    near = [padded[:, shift : shift + length] for shift in range(width)]
    for last in range(width - 1, half - 1, -1):
        for i in range(last):
            near[i], near[i + 1] = torch.minimum(near[i], near[i + 1]), torch.maximum(near[i], near[i + 1])
    return near[half]


def dtw_columns(cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """Dynamic time warping: for each row of `cost`, shape (rows, columns), the first column of the cheapest way in it.

    The way leads from the first cell to the last by steps of one row, one column, or both. A row is found at once:
    less the row's running sum, staying in it is free, and the best cell to have entered it by is a running minimum.
    O(rows x columns), in a few calls of numpy a row.
    """
    rows, columns = cost.shape
    entered = np.full((rows, columns), np.inf)  # the way's cost before it enters a row at a column, less the sum
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
