"""Tokens drawn at a temperature, so that the same chunk draws the same tokens for ever.

The noise of a row is a hash of its seed, the number of its step and the token: nothing is drawn in turn from a common
source, so neither the rows beside it, nor their order, nor process or device change it, and nothing waits for the
device. The likeliest token after Gumbel noise of a temperature's height is a sample of the softmax at that
temperature; at temperature 0 it is the greedy choice. It costs a dozen passes over the vocabulary, which only rows
that are sampled pay. Noise has 23 bits: a token less likely than about one in eight million is never drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF  # hashes have 32 bits, in tensors of 64
_GOLDEN = 0x9E3779B1  # odd, so that what is multiplied by it keeps apart
_BITS = 23  # of noise: as many, and a half, are exact in float32
SEED_BITS = 32


@dataclass(frozen=True, slots=True)
class Draw:
    """What the noise of each row follows from; tensors of shape (rows,).

    ``temperatures`` is float32; ``seeds`` (of `SEED_BITS` bits) and ``steps``, the number of tokens so far, are int64.
    """

    temperatures: Tensor
    seeds: Tensor
    steps: Tensor

    def disturbed(self, logits: Tensor) -> Tensor:
        """float32 logits, shape (rows, vocabulary), plus noise; the largest of a row is that row's sample."""
        return logits + self.temperatures[:, None] * gumbel(self.seeds, self.steps, logits.shape[1])


def gumbel(seeds: Tensor, steps: Tensor, size: int) -> Tensor:
    """Standard Gumbel noise, float32, shape (rows, size), of int64 `seeds` and `steps`, shape (rows,)."""
    ids = torch.arange(size, device=seeds.device) * _GOLDEN & _WORD
    rows = _scramble(seeds ^ _scramble(steps * _GOLDEN & _WORD))
    bits = _scramble(rows[:, None] ^ ids) >> (SEED_BITS - _BITS)
    uniform = (bits + 0.5) / 2.0**_BITS  # never 0, never 1
    return -torch.log(-torch.log(uniform))


def _scramble(words: Tensor) -> Tensor:
    """MurmurHash3's last step, which maps 32 bits one to one onto 32 bits without a trace of their order."""
    words = (words ^ (words >> 16)) * 0x85EBCA6B & _WORD
    words = (words ^ (words >> 13)) * 0xC2B2AE35 & _WORD
    return words ^ (words >> 16)
