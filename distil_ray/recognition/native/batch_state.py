"""What is known of each row while it is decoded: its tokens, their log-probability, whether it has ended.

All of it lives on the device, so that a pass needs no word from the host. A row that has ended may be passed on for
a while; it then changes nothing here. Where a pass brings several tokens, a row takes those that were agreed on, up to
an end token or its limit, exactly as if they had come one by one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.logits_rules import SamplingState, TimestampState

PROMPT_TAIL = 3  # ids of the prompt that are remembered: an assistant may have to hear as many again


class BatchState:
    """Tensors of shape (slots,), `tokens` of shape (slots, max_tokens); the slots in use are the first ones."""

    def __init__(self, timestamps: TimestampState, slots: int, max_tokens: int, eot: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.timestamps = timestamps
        self.tokens = zeros(slots, max_tokens)
        self._logprobs = zeros(slots, max_tokens, dtype=torch.float32)
        self._prompt_ends = zeros(slots, PROMPT_TAIL)
        self.count = zeros(slots)  # tokens so far, without the end token
        self.limit = zeros(slots)
        self._temperature = zeros(slots, dtype=torch.float32)
        self._seed = zeros(slots)
        self.ended = torch.ones(slots, dtype=torch.bool, device=device)  # by the end token, a limit or repetition
        self._closed = zeros(slots, dtype=torch.bool)  # by the end token
        self._sum_logprob = zeros(slots, dtype=torch.float64)
        self._no_speech_prob = zeros(slots, dtype=torch.float32)
        self._proposed, self._accepted = zeros(slots), zeros(slots)
        self._eot = eot
        self._columns = torch.arange(-PROMPT_TAIL, max_tokens, device=device)

    def start_rows(
        self, slots: Tensor, prompts: Tensor, no_speech_prob: Tensor, limit: Tensor, sampling: SamplingState
    ) -> None:
        """Rows `slots` start over, after `prompts`, shape (rows, P); the others have the shape (rows,)."""
        last = prompts.shape[1] + self._columns[:PROMPT_TAIL]
        self._prompt_ends[slots] = prompts[:, last.clamp(min=0)]
        self._temperature[slots] = sampling.temperatures
        self._seed[slots] = sampling.seeds
        self.limit[slots] = limit
        self.ended[slots] = False
        self._closed[slots] = False
        self._no_speech_prob[slots] = no_speech_prob
        for tensor in (self.count, self._sum_logprob, self._proposed, self._accepted):
            tensor[slots] = 0

    def sampling_state(self, rows: Tensor) -> SamplingState:
        """What the next tokens of `rows` are drawn by."""
        return SamplingState(self._temperature[rows], self._seed[rows], self.count[rows])

    def last_ids(self, rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """The last `num` ids of `rows`, and their places in the text (below 0: in the prompt), of shape (rows, num).

        `num`: at most `PROMPT_END`. Of a row that has ended they may be anything.
        """
        places = self.count[rows, None] + self._columns[PROMPT_TAIL - num : PROMPT_TAIL]
        tokens = self.tokens[rows[:, None], places]
        if num == 1:  # every row has a token
            return tokens, places
        return torch.where(places < 0, self._prompt_ends[rows[:, None], places.clamp(max=-1)], tokens), places

    def append(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, num_accepted: Tensor | None = None) -> None:
        """Takes what was just chosen for `rows`, of shape (rows, P).

        A row takes the first `num_accepted`, shape (rows,), drafts that were chosen too, and what was chosen behind
        them; None: there were no drafts, and P is 1.
        """
        live = ~self.ended[rows, None]
        count = self.count[rows]
        places = count[:, None] + self._columns[PROMPT_TAIL : PROMPT_TAIL + tokens.shape[1]]
        is_end = tokens == self._eot
        taken = live
        if num_accepted is not None:
            is_before_end = is_end.cumsum(dim=1) <= is_end
            taken = (
                live & is_before_end & (places <= (count + num_accepted)[:, None]) & (places < self.limit[rows, None])
            )
            self._count_drafts(rows, taken, num_accepted)
        grows = taken & ~is_end
        where = (rows[:, None], torch.where(grows, places, -1))  # the last one is never part of a text
        self.tokens[where] = tokens
        self._logprobs[where] = logprobs
        self.count[rows] = count + grows.sum(dim=1)
        self._sum_logprob[rows] += torch.where(taken, logprobs, 0.0).sum(dim=1, dtype=torch.float64)
        is_closed = (taken & is_end).any(dim=1)
        self._closed[rows] |= is_closed
        self.ended[rows] |= is_closed | (self.count[rows] >= self.limit[rows])

    def _count_drafts(self, rows: Tensor, taken: Tensor, num_accepted: Tensor) -> None:
        """Counts drafts, one fewer than the columns of `taken`, that were kept, and the one that was corrected."""
        num_taken = taken.sum(dim=1)
        kept = torch.minimum(num_accepted, num_taken)
        is_corrected = (num_accepted < taken.shape[1] - 1) & (num_taken > num_accepted)
        self._accepted[rows] += kept
        self._proposed[rows] += kept + is_corrected

    def truncate(self, slot: int, num: int) -> None:
        """Ends a row after its first `num` tokens, as if nothing had come behind them."""
        self.count[slot] = num
        self._sum_logprob[slot] = self._logprobs[slot, :num].sum(dtype=torch.float64)
        self._closed[slot] = False
        self.ended[slot] = True

    def move_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies whole rows."""
        own = (self.tokens, self._logprobs, self._prompt_ends, self.count, self.limit, self._temperature, self._seed)
        ends = (self.ended, self._closed, self._sum_logprob, self._no_speech_prob, self._proposed, self._accepted)
        old, new = copy_async([sources, targets], self.count.device)
        for tensor in (*self.timestamps.tensors(), *own, *ends):
            tensor[new] = tensor[old]

    def poll(self, num: int) -> tuple[list[bool], list[int], NDArray[np.int64]]:
        """Of every slot: whether its row has ended, the number of its tokens, the first `num` of them.

        This is what the host waits for, so it is one copy.
        """
        seen = torch.cat([self.ended[:, None], self.count[:, None], self.tokens[:, :num]], dim=1).cpu().numpy()
        return list(map(bool, seen[:, 0])), seen[:, 1].tolist(), seen[:, 2:]

    def tokens_by_row(self, slots: Sequence[int]) -> list[list[int]]:
        """The tokens of some rows so far."""
        where = torch.tensor(slots, device=self.count.device)
        counts = self.count[where].tolist()
        tokens = self.tokens[where, : max(counts)].tolist()
        return [row[:count] for row, count in zip(tokens, counts, strict=True)]

    def probabilities(self, slots: Sequence[int]) -> list[list[float]]:
        """The probability of each of these tokens."""
        where = torch.tensor(slots, device=self.count.device)
        counts = self.count[where].tolist()
        probabilities = self._logprobs[where, : max(counts)].exp().tolist()
        return [row[:count] for row, count in zip(probabilities, counts, strict=True)]

    def results(self, slots: Sequence[int]) -> list[DecodingResult]:
        """Some rows as they stand."""
        where = torch.tensor(slots, device=self.count.device)
        signs = (self._sum_logprob, self._no_speech_prob, self._closed, self._proposed, self._accepted)
        outcomes = zip(*(sign[where].tolist() for sign in signs), strict=True)
        return [
            DecodingResult(tuple(text), *outcome)
            for text, outcome in zip(self.tokens_by_row(slots), outcomes, strict=True)
        ]
