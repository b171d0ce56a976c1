"""The state of each row while it is decoded: its tokens, their log-probabilities, and whether it has ended.

All of it is on the device, so that a step needs nothing from the host. A row that has ended may take part in further
steps for a while; they change nothing here. Where a step verifies drafts, a row takes the accepted ones, up to an end
token or its limit, exactly as if they had come one by one.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.logits_rules import RuleState, SamplingState

PROMPT_TAIL = 3  # last ids of the prompt that are kept: an assistant may have to read as many again


class BatchState:
    """Tensors of shape (slots,), and `tokens` of shape (slots, max_tokens). The slots in use are the first ones."""

    def __init__(self, rules: RuleState, slots: int, max_tokens: int, eot: int, device: torch.device) -> None:
        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.rules = rules
        self.tokens = zeros(slots, max_tokens)
        self._logprobs = zeros(slots, max_tokens, dtype=torch.float32)
        self._prompt_lengths = zeros(slots)
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
        self,
        slots: Tensor,
        prompt_lengths: Tensor,
        prompt_ends: Tensor,
        no_speech_prob: Tensor,
        limit: Tensor,
        sampling: SamplingState,
    ) -> None:
        """Resets the rows `slots`, which start over after their prompts.

        `prompt_ends` are the last ids of the prompts, shape (rows, PROMPT_TAIL). The other tensors, and those in
        `sampling`, have the shape (rows,).
        """
        self._prompt_lengths[slots] = prompt_lengths
        self._prompt_ends[slots] = prompt_ends
        self._temperature[slots] = sampling.temperatures
        self._seed[slots] = sampling.seeds
        self.limit[slots] = limit
        self._no_speech_prob[slots] = no_speech_prob
        for tensor in (self.ended, self._closed, self.count, self._sum_logprob, self._proposed, self._accepted):
            tensor.index_fill_(0, slots, 0)  # an assignment would copy the number to the device, and wait for that

    def sampling_state(self, rows: Tensor) -> SamplingState:
        """Returns the temperatures, seeds and step numbers of `rows` for their next tokens."""
        return SamplingState(self._temperature[rows], self._seed[rows], self.count[rows])

    def last_ids(self, rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
        """Returns the last `num` ids of `rows` and their decoder positions, shape (rows, num).

        `num` is at most `PROMPT_TAIL`. The ids of a row that has ended may be anything.
        """
        indices = self.count[rows, None] + self._columns[PROMPT_TAIL - num : PROMPT_TAIL]
        tokens = self.tokens[rows[:, None], indices]
        if num > 1:  # otherwise every row has a token
            tokens = torch.where(indices < 0, self._prompt_ends[rows[:, None], indices.clamp(max=-1)], tokens)
        return tokens, (indices + self._prompt_lengths[rows, None]).clamp_(min=0)

    def append(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, num_accepted: Tensor | None = None) -> None:
        """Adds the tokens just chosen for `rows`, of shape (rows, P).

        A row takes the first `num_accepted` of them, shape (rows,), which equal its drafts, and the token chosen after
        them. None: there were no drafts, and P is 1.
        """
        live = ~self.ended[rows, None]
        count = self.count[rows]
        indices = count[:, None] + self._columns[PROMPT_TAIL : PROMPT_TAIL + tokens.shape[1]]
        is_end = tokens == self._eot
        taken = live
        if num_accepted is not None:
            is_before_end = is_end.cumsum(dim=1) <= is_end
            taken = (
                live & is_before_end & (indices <= (count + num_accepted)[:, None]) & (indices < self.limit[rows, None])
            )
            self._count_drafts(rows, taken, num_accepted)
        grows = taken & ~is_end
        where = (rows[:, None], torch.where(grows, indices, -1))  # the last column is never part of a text
        self.tokens[where] = tokens
        self._logprobs[where] = logprobs
        self.count[rows] = count + grows.sum(dim=1)
        self._sum_logprob[rows] += torch.where(taken, logprobs, 0.0).sum(dim=1, dtype=torch.float64)
        is_closed = (taken & is_end).any(dim=1)
        self._closed[rows] |= is_closed
        self.ended[rows] |= is_closed | (self.count[rows] >= self.limit[rows])

    def _count_drafts(self, rows: Tensor, taken: Tensor, num_accepted: Tensor) -> None:
        """Counts the drafts, one fewer than the columns of `taken`, that were accepted, and the rejected one."""
        num_taken = taken.sum(dim=1)
        accepted = torch.minimum(num_accepted, num_taken)
        is_corrected = (num_accepted < taken.shape[1] - 1) & (num_taken > num_accepted)
        self._accepted[rows] += accepted
        self._proposed[rows] += accepted + is_corrected

    def truncate(self, slot: int, num: int) -> None:
        """Ends a row after its first `num` tokens, as if nothing had come after them."""
        self.count[slot].fill_(num)  # as in `start_rows`
        self._sum_logprob[slot] = self._logprobs[slot, :num].sum(dtype=torch.float64)
        self._closed[slot].fill_(False)
        self.ended[slot].fill_(True)

    def move_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies whole rows from the slots `sources` to the slots `targets`."""
        prompts = (self._prompt_lengths, self._prompt_ends)
        rows = (self.tokens, self._logprobs, self.count, self.limit, self._temperature, self._seed)
        scores = (self.ended, self._closed, self._sum_logprob, self._no_speech_prob, self._proposed, self._accepted)
        old, new = copy_async([sources, targets], self.count.device)
        for tensor in (*self.rules.tensors(), *prompts, *rows, *scores):
            tensor[new] = tensor[old]

    def poll(self, num: int) -> tuple[list[bool], list[int], NDArray[np.int64]]:
        """Returns for every slot: whether its row has ended, the number of its tokens, and the first `num` of them.

        The host waits here for the device, so everything is one copy.
        """
        copied = torch.cat([self.ended[:, None], self.count[:, None], self.tokens[:, :num]], dim=1).cpu().numpy()
        return list(map(bool, copied[:, 0])), copied[:, 1].tolist(), copied[:, 2:]

    def tokens_by_row(self, slots: Sequence[int]) -> list[list[int]]:
        """Returns the tokens of the rows in `slots` so far."""
        where = copy_async(slots, self.count.device)
        return self._texts(where, self.count[where].tolist())

    def _texts(self, where: Tensor, counts: Sequence[int]) -> list[list[int]]:
        tokens = self.tokens[where, : max(counts)].tolist()
        return [row[:count] for row, count in zip(tokens, counts, strict=True)]

    def probabilities(self, slots: Sequence[int]) -> list[list[float]]:
        """Returns the probability of each of these tokens."""
        where = copy_async(slots, self.count.device)
        counts = self.count[where].tolist()
        probabilities = self._logprobs[where, : max(counts)].exp().tolist()
        return [row[:count] for row, count in zip(probabilities, counts, strict=True)]

    def results(self, slots: Sequence[int]) -> list[DecodingResult]:
        """Returns the results of the rows in `slots`. The host waits for two copies, however many columns there are."""
        where = copy_async(slots, self.count.device)
        columns = (self.count, self._sum_logprob, self._no_speech_prob, self._closed, self._proposed, self._accepted)
        # float64 holds all of them exactly
        values = torch.stack([column[where].double() for column in columns], dim=1).tolist()
        texts = self._texts(where, [int(row[0]) for row in values])
        return [
            DecodingResult(tuple(text), sum_logprob, no_speech_prob, bool(closed), int(proposed), int(accepted))
            for text, (_, sum_logprob, no_speech_prob, closed, proposed, accepted) in zip(texts, values, strict=True)
        ]
