"""Several samples of each chunk at one temperature, of which the most likely one is returned, as openai does.

The samples of a chunk are independent of each other: each draws with a seed of its own, the first one as if it were
alone. The best one has the highest sum of log-probabilities by its number of tokens, the end token not counted, which
is openai's order. A chunk has ended once all its samples have. Nothing waits for the device but `poll` and `results`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.native.branch_table import BranchTable
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.logits_rules import SEED_BITS, RuleState, SamplingState

_SEED_STEP = 0x9E3779B1  # between the seeds of two samples; odd, so that all differ


class SampleState:
    """The samples of each slot: tensors of shape (slots, samples), or (slots,)."""

    def __init__(self, rules: RuleState, branches: BranchTable, num_samples: int, max_tokens: int, eot: int) -> None:
        """Creates slots without texts.

        Args:
            rules: State of the rules, with a row for each sample of each slot.
            branches: Entries of the samples in the self-attention cache.
            num_samples: Samples of each chunk.
            max_tokens: More than the largest number of tokens of a text.
            eot: The end token.
        """
        device, slots = rules.latest.device, len(rules.latest) // num_samples

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=device)

        self.rules, self._branches = rules, branches
        self._eot, self._num_samples = eot, num_samples
        self._prompt_lengths, self._limit, self._seed = zeros(), zeros(), zeros()
        self._temperature, self._no_speech_prob = zeros(dtype=torch.float32), zeros(dtype=torch.float32)
        self._tokens = zeros(num_samples, max_tokens)
        self._logprobs = zeros(num_samples, max_tokens, dtype=torch.float32)
        self._count = zeros(num_samples)  # tokens so far, without the end token
        self._sum_logprob = zeros(num_samples, dtype=torch.float64)
        self._closed = zeros(num_samples, dtype=torch.bool)  # by the end token
        self._ended = torch.ones(slots, num_samples, dtype=torch.bool, device=device)  # by the end token or the limit
        self._samples = torch.arange(num_samples, device=device)

    def start_rows(
        self,
        slots: Tensor,
        prompt_lengths: Tensor,
        no_speech_prob: Tensor,
        limits: Tensor,
        seeds: Tensor,
        temperatures: Tensor,
    ) -> None:
        """Resets `slots`, which start over after their prompts. The tensors have the shape (rows,)."""
        self._prompt_lengths[slots], self._limit[slots], self._seed[slots] = prompt_lengths, limits, seeds
        self._temperature[slots], self._no_speech_prob[slots] = temperatures, no_speech_prob
        for tensor in (self._count, self._sum_logprob, self._closed, self._ended):
            tensor.index_fill_(0, slots, 0)  # an assignment would copy the number to the device, and wait for that
        self._branches.start_rows(slots, prompt_lengths)

    def sampling_state(self, rows: Tensor) -> SamplingState:
        """Returns the temperatures, seeds and step numbers of all samples of `rows`, shape (rows x samples,)."""
        seeds = (self._seed[rows, None] + self._samples * _SEED_STEP) & (2**SEED_BITS - 1)
        temperatures = self._temperature[rows, None].expand(seeds.shape)
        return SamplingState(temperatures.flatten(), seeds.flatten(), self._count[rows].flatten())

    def last_ids(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the last id of each sample of `rows` and its decoder position, (rows, samples)."""
        count = self._count[rows]
        positions = self._prompt_lengths[rows, None] + count - 1
        return self._tokens[rows[:, None], self._samples, count - 1], positions

    def append(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, num_entries: int) -> None:
        """Adds the tokens just drawn for `rows`, of shape (rows, samples).

        `num_entries` bounds the entries of any slot, the new ones included.
        """
        live, count = ~self._ended[rows], self._count[rows]
        grows = live & (tokens != self._eot)
        where = (rows[:, None], self._samples, torch.where(grows, count, -1))  # the last column is of no text
        self._tokens[where], self._logprobs[where] = tokens, logprobs
        self._sum_logprob[rows] += torch.where(live, logprobs, 0.0)
        self._count[rows] = count + grows
        self._closed[rows] |= live & ~grows
        self._ended[rows] |= ~grows | (self._count[rows] >= self._limit[rows, None])
        self._branches.append(rows, self._samples.expand(live.shape), live, num_entries)

    def truncate(self, slot: int, num: int) -> None:
        """Ends all samples of a slot after their first `num` tokens, as if nothing had come after them."""
        self._count[slot] = self._count[slot].clamp(max=num)
        is_kept = torch.arange(self._logprobs.shape[2], device=self._count.device) < self._count[slot, :, None]
        self._sum_logprob[slot] = torch.where(is_kept, self._logprobs[slot], 0.0).sum(dim=1, dtype=torch.float64)
        self._closed[slot].fill_(False)  # as in `start_rows`
        self._ended[slot].fill_(True)

    def move_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies the slots `sources` to the slots `targets`."""
        old, new = copy_async([sources, targets], self._count.device)
        rows = (self._prompt_lengths, self._limit, self._seed, self._temperature, self._no_speech_prob)
        samples = (self._tokens, self._logprobs, self._count, self._sum_logprob, self._closed, self._ended)
        for tensor in (*rows, *samples):
            tensor[new] = tensor[old]
        old_rows, new_rows = ((slots[:, None] * self._num_samples + self._samples).flatten() for slots in (old, new))
        for tensor in self.rules.tensors():
            tensor[new_rows] = tensor[old_rows]
        self._branches.move_rows(old, new)

    def poll(self, num: int) -> tuple[list[bool], list[int], NDArray[np.int64]]:
        """Returns for every slot: whether it has ended, the tokens of its longest sample, and `num` of the first one.

        The host waits here for the device, so everything is one copy.
        """
        ended, count = self._ended.all(dim=1, keepdim=True), self._count.amax(dim=1, keepdim=True)
        copied = torch.cat([ended, count, self._tokens[:, 0, :num]], dim=1).cpu().numpy()
        return list(map(bool, copied[:, 0])), copied[:, 1].tolist(), copied[:, 2:]

    def results(self, slots: Sequence[int]) -> list[DecodingResult]:
        """Returns the best sample of each of `slots`."""
        where, best = self._best(slots)
        counts = self._count[where, best].tolist()
        tokens = self._tokens[where, best, : max(counts)].tolist()
        columns = (self._sum_logprob[where, best], self._no_speech_prob[where], self._closed[where, best])
        values = zip(*(column.tolist() for column in columns), strict=True)
        return [
            DecodingResult(tuple(text[:count]), *value)
            for text, count, value in zip(tokens, counts, values, strict=True)
        ]

    def probabilities(self, slots: Sequence[int]) -> list[list[float]]:
        """Returns the probability of each token of the results."""
        where, best = self._best(slots)
        counts = self._count[where, best].tolist()
        rows = self._logprobs[where, best, : max(counts)].exp().tolist()
        return [row[:count] for row, count in zip(rows, counts, strict=True)]

    def _best(self, slots: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns `slots` and the number of the best sample of each, on the device."""
        where = torch.tensor(slots, device=self._count.device)
        return where, (self._sum_logprob[where] / self._count[where].clamp(min=1)).argmax(dim=1)
