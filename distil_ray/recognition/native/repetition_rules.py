"""Repetition penalty and blocking of repeated n-grams, for the logits of many rows at once.

The rules are those of `RepetitionPenaltyLogitsProcessor` and `NoRepeatNGramLogitsProcessor` of transformers. They see
all ids of a row: its prompt with the previous text, the start tokens, the text, and timestamp tokens. The ids are kept
on the device, and nothing waits for it. A history is never changed in place, so that the states along a draft, or of
the beams of a chunk, are independent of each other.
"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from distil_ray.recognition.native.device import copy_async


@dataclass(frozen=True, slots=True)
class TokenHistory:
    """The ids of rows so far.

    Attributes:
        ids: int64, shape (rows, capacity), padded.
        lengths: int64, shape (rows,): the number of ids without padding. It may exceed the capacity in rows that have
            ended.
    """

    ids: Tensor
    lengths: Tensor

    def append(self, tokens: Tensor) -> Self:
        """Returns the history with one more id per row, `tokens` of shape (rows,)."""
        at = self.lengths.clamp(max=self.ids.shape[1] - 1)
        return type(self)(self.ids.scatter(1, at[:, None], tokens[:, None]), self.lengths + 1)


class RepetitionRules:
    """The rules for one vocabulary."""

    def __init__(
        self, penalty: float, ngram_size: int, vocab_size: int, capacity: int, padding: int, device: torch.device
    ) -> None:
        """Creates the rules.

        Args:
            penalty: Divides positive logits of ids that a row has, and multiplies negative ones; 1 does nothing.
            ngram_size: No sequence of so many ids may occur twice in a row; 0 does nothing.
            vocab_size: Number of ids.
            capacity: Largest number of ids of a row.
            padding: An id that is never chosen, to which the rules may do anything.
            device: Of the logits.
        """
        self._penalty, self._ngram_size = penalty, ngram_size
        self._vocab_size, self._capacity, self._padding = vocab_size, capacity, padding
        self._device = device
        self._columns: Tensor | None = None  # the column of each id in the logits; None: the id itself

    def for_vocabulary(self, vocabulary: Tensor) -> Self:
        """Returns the same rules for the logits of some ids only, int64, which include the padding."""
        rules = copy(self)
        indices = torch.arange(len(vocabulary), device=self._device)
        rules._columns = indices[vocabulary == self._padding].repeat(self._vocab_size)
        rules._columns[vocabulary] = indices
        return rules

    def new_history(self, rows: int) -> TokenHistory:
        """Returns the history of rows without any id."""
        ids = torch.full((rows, self._capacity), self._padding, device=self._device)
        return TokenHistory(ids, torch.zeros(rows, dtype=torch.long, device=self._device))

    def start(self, prompts: Sequence[Sequence[int]]) -> TokenHistory:
        """Returns the history of rows that have their prompts."""
        ids = [[*prompt, *[self._padding] * (self._capacity - len(prompt))] for prompt in prompts]
        return TokenHistory(copy_async(ids, self._device), copy_async(list(map(len, prompts)), self._device))

    def apply(self, logits: Tensor, history: TokenHistory) -> None:
        """Applies the rules to logits, shape (rows, vocabulary), in place: the penalty, then the n-grams."""
        columns = history.ids if self._columns is None else self._columns[history.ids]
        if self._penalty != 1.0:  # an id that occurs more than once is written more than once, with the same value
            scores = logits.gather(1, columns)
            logits.scatter_(1, columns, torch.where(scores < 0, scores * self._penalty, scores / self._penalty))
        if self._ngram_size:
            # `amin`, as an id may end one n-gram that is blocked and another that is not
            blocked = torch.where(self._ends_repeated_ngram(history), float("-inf"), float("inf")).to(logits.dtype)
            logits.scatter_reduce_(1, columns[:, self._ngram_size - 1 :], blocked, "amin")

    def _ends_repeated_ngram(self, history: TokenHistory) -> Tensor:
        """Returns for each n-gram of a row whether it begins with the last n - 1 ids of the row.

        The result is bool, shape (rows, capacity - n + 1), by the first id of the n-gram.
        """
        size, ids = self._ngram_size, history.ids
        offsets = torch.arange(size - 1, device=self._device)
        last = ids.gather(1, (history.lengths[:, None] - (size - 1) + offsets).clamp(0, ids.shape[1] - 1))
        starts = torch.arange(ids.shape[1] - size + 1, device=self._device)
        is_complete = starts + size <= history.lengths[:, None]
        return (ids.unfold(1, size, 1)[..., :-1] == last[:, None]).all(dim=-1) & is_complete
