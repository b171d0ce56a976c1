"""Beam search as transformers does it: several texts of each chunk grow together, and one is returned.

In each step every running beam is continued by every token. Of all continuations the best 2 N count, for N beams: those
among the first N that end, by the end token or by the limit of tokens, compete for the N places of finished texts; the
best N that do not end run on. A chunk has ended once N texts are finished and the best running beam, its score divided
as if it ended now, is not better than the worst of them, or at the limit. That is `early_stopping=False`.

The score of a running beam is the sum of its log-probabilities; that of a finished text is divided by its number of
tokens, the end token included, to the power of the length penalty. The finished text with the best score is returned,
or that with the fewest expected errors (`minimum_bayes_risk.py`). As in transformers, these log-probabilities are
those of the distribution before the decoding rules, which only exclude tokens. `DecodingResult.sum_logprob`, which
thresholds are made for, is the one after the rules, as in greedy decoding; both are kept. All of it is float32, in the
order of operations of transformers. Nothing waits for the device but `poll` and `results`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.native.branch_table import BranchTable
from distil_ray.recognition.native.decoding_task import DecodingResult
from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.logits_rules import RuleState
from distil_ray.recognition.native.minimum_bayes_risk import least_risk

EXCLUDED = -1e9  # added to a score that must not be chosen; transformers' number
NUM_GROUPS = 1024  # of the vocabulary, about, in the search for the best tokens


@dataclass(frozen=True, slots=True)
class Continuations:
    """The best next tokens of each beam: tensors of shape (rows, beams, K), in any order.

    Attributes:
        tokens: int64.
        scores: Log-probabilities before the rules; minus infinity where a token is excluded. float32.
        logprobs: Log-probabilities after the rules. float32.
    """

    tokens: Tensor
    scores: Tensor
    logprobs: Tensor

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Returns the continuations of the rows of `parts`, in this order."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.scores for part in parts]),
            torch.cat([part.logprobs for part in parts]),
        )

    def repeat(self, num_beams: int) -> Self:
        """Returns the continuations of a single beam as those of `num_beams` beams that are alike."""
        parts = (self.tokens, self.scores, self.logprobs)
        return type(self)(*(each.expand(-1, num_beams, -1) for each in parts))


def best_continuations(scores: Tensor, num_beams: int, num_tokens: int) -> Continuations:
    """Returns the best `num_tokens` tokens of each beam.

    `scores` are log-probabilities before the rules, with minus infinity where a token is excluded, float32, shape (rows
    x num_beams, vocabulary).
    """
    best, tokens = top_values(scores, num_tokens)
    shape = (-1, num_beams, best.shape[1])
    largest = best[:, :1]  # a logsumexp that does not look for it
    logprobs = best - largest - (scores - largest).exp_().sum(dim=-1, keepdim=True).log()
    return Continuations(tokens.view(shape), best.view(shape), logprobs.view(shape))


def top_values(values: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Returns the `num` largest values of each row of (rows, columns), sorted, and their columns.

    The columns are divided into groups whose largest values are found first: the best values are in as many groups with
    the largest of these. One pass over the values, where topk needs several.
    """
    rows, columns = values.shape
    size = columns // NUM_GROUPS
    if size < 2 or num >= NUM_GROUPS:
        return values.topk(min(num, columns), dim=1)
    stride = columns // size  # group g: the columns g, g + stride, g + 2 stride …; and the last few columns
    whole = size * stride
    groups = values[:, :whole].view(rows, size, stride).amax(dim=1).topk(num, dim=1).indices
    steps = torch.arange(0, whole, stride, device=values.device)
    rest = torch.arange(whole, columns, device=values.device)
    candidates = torch.cat([(groups[:, :, None] + steps).flatten(1), rest.expand(rows, -1)], dim=1)
    best, where = values.gather(1, candidates).topk(num, dim=1)
    return best, candidates.gather(1, where)


class BeamState:
    """The beams and the finished texts of each slot: tensors of shape (slots, beams), or (slots,)."""

    def __init__(
        self,
        rules: RuleState,
        branches: BranchTable,
        num_beams: int,
        length_penalty: float,
        max_tokens: int,
        eot: int,
        selection: str = "score",
    ) -> None:
        """Creates slots without texts.

        Args:
            rules: State of the rules, with a row for each beam of each slot.
            branches: Entries of the beams in the self-attention cache.
            num_beams: Beams of each chunk.
            length_penalty: Exponent of the length by which scores of finished texts are divided.
            max_tokens: Largest number of tokens of a text, the end token included.
            eot: The end token.
            selection: Which finished text is returned: "score" or "minimum_bayes_risk".
        """
        device, slots = rules.latest.device, len(rules.latest) // num_beams

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(slots, *shape, dtype=dtype, device=device)

        self.rules, self._branches, self._num_beams = rules, branches, num_beams
        self._length_penalty, self._selection, self._eot = length_penalty, selection, eot
        self._prompt_lengths, self._count, self._limit = zeros(), zeros(), zeros()  # tokens of running beams; all alike
        self._no_speech_prob = zeros(dtype=torch.float32)
        self._ended = torch.ones(slots, dtype=torch.bool, device=device)
        self._tokens, self._logprobs = zeros(num_beams, max_tokens), zeros(num_beams, max_tokens, dtype=torch.float32)
        self._scores = zeros(num_beams, dtype=torch.float32)
        # Finished texts, the best one first. The length counts the end token.
        self._finished_tokens, self._finished_logprobs = self._tokens.clone(), self._logprobs.clone()
        self._finished_scores = zeros(num_beams, dtype=torch.float32)
        self._finished_lengths = zeros(num_beams)
        self._is_finished = zeros(num_beams, dtype=torch.bool)
        self._beams = torch.arange(num_beams, device=device)

    def start_rows(self, slots: Tensor, prompt_lengths: Tensor, no_speech_prob: Tensor, limits: Tensor) -> None:
        """Resets `slots`, which start over after their prompts. The tensors have the shape (rows,)."""
        self._prompt_lengths[slots], self._limit[slots] = prompt_lengths, limits
        self._no_speech_prob[slots] = no_speech_prob
        # An assignment of a number would copy it to the device, and wait for that.
        for tensor in (self._count, self._ended, self._is_finished):
            tensor.index_fill_(0, slots, 0)
        self._finished_scores.index_fill_(0, slots, EXCLUDED)
        # All beams are alike at the beginning, and only the first one is continued.
        self._scores[slots] = torch.where(self._beams == 0, 0.0, EXCLUDED)
        self._branches.start_rows(slots, prompt_lengths)

    def last_ids(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the last id of each beam of `rows` and its decoder position, (rows, beams)."""
        count = self._count[rows]
        ids = self._tokens[rows[:, None], self._beams, count[:, None] - 1]
        return ids, (self._prompt_lengths[rows] + count - 1)[:, None].expand(ids.shape)

    def append(self, rows: Tensor, found: Continuations, num_tokens: int, num_entries: int) -> tuple[Tensor, Tensor]:
        """Chooses the next token of each beam.

        Args:
            rows: int64, shape (rows,).
            found: At least the best 2 `num_beams` continuations of each beam, where there are as many.
            num_tokens: Bound on the tokens of any text, the new one included.
            num_entries: Bound on the entries of any slot, the new ones included.

        Returns:
            The beams that were continued, and by which tokens, each of shape (rows, beams).
        """
        num_beams, live = self._num_beams, ~self._ended[rows]
        count = self._count[rows] + 1
        is_last = count >= self._limit[rows]
        totals = (self._scores[rows][:, :, None] + found.scores).flatten(1)
        best, where = totals.topk(2 * num_beams, dim=1)
        parents = where // found.scores.shape[2]
        tokens, logprobs = found.tokens.flatten(1).gather(1, where), found.logprobs.flatten(1).gather(1, where)
        ends = (tokens == self._eot) | is_last[:, None]
        running, chosen = (best + ends * EXCLUDED).topk(num_beams, dim=1)

        texts, text_logprobs = self._tokens[rows, :, :num_tokens], self._logprobs[rows, :, :num_tokens]
        texts, text_logprobs = _select(texts, parents), _select(text_logprobs, parents)
        # A row that has ended may have more tokens than any that has not.
        at = (count - 1).clamp(max=num_tokens - 1)[:, None, None].expand(-1, 2 * num_beams, 1)
        texts.scatter_(2, at, tokens[:, :, None])
        text_logprobs.scatter_(2, at, logprobs[:, :, None])

        divisor = count.double().pow(self._length_penalty).float()[:, None]
        is_new = ends & (torch.arange(2 * num_beams, device=ends.device) < num_beams)
        self._merge_finished(rows, live, best / divisor + ~is_new * EXCLUDED, is_new, texts, text_logprobs, count)
        worst = self._finished_scores[rows].amin(dim=1, keepdim=True)
        worst = torch.where(self._is_finished[rows], worst, EXCLUDED)
        is_open = (running[:, :1] / divisor > worst).any(dim=1)

        parents, tokens = parents.gather(1, chosen), tokens.gather(1, chosen)
        self._tokens[rows, :, :num_tokens] = _select(texts, chosen)
        self._logprobs[rows, :, :num_tokens] = _select(text_logprobs, chosen)
        self._scores[rows] = running
        self._count[rows] += live
        self._ended[rows] = ~live | ~is_open | is_last
        self._branches.append(rows, parents, live[:, None].expand(-1, num_beams), num_entries)
        return parents, tokens

    def _merge_finished(
        self, rows: Tensor, live: Tensor, scores: Tensor, is_new: Tensor, texts: Tensor, logprobs: Tensor, count: Tensor
    ) -> None:
        """Lets new texts compete with the finished ones of their rows, of which the best are kept."""
        old = self._finished_scores[rows]
        # Rows that have ended keep what they have, in its order.
        merged = torch.cat([old, torch.where(live[:, None], scores, float("-inf"))], dim=1)
        best, kept = merged.topk(self._num_beams, dim=1)
        kept = torch.where(live[:, None], kept, self._beams)
        self._finished_scores[rows] = torch.where(live[:, None], best, old)
        num_tokens = texts.shape[2]
        for own, new in ((self._finished_tokens, texts), (self._finished_logprobs, logprobs)):
            own[rows, :, :num_tokens] = _select(torch.cat([own[rows, :, :num_tokens], new], dim=1), kept)
        lengths = torch.cat([self._finished_lengths[rows], count[:, None].expand(is_new.shape)], dim=1)
        self._finished_lengths[rows] = lengths.gather(1, kept)
        self._is_finished[rows] = torch.cat([self._is_finished[rows], is_new], dim=1).gather(1, kept)

    def truncate(self, slot: int, num: int) -> None:
        """Ends a slot with the first `num` tokens of its best running beam as its text, unless it has ended."""
        ended = self._ended[slot]
        pairs = ((self._finished_tokens, self._tokens), (self._finished_logprobs, self._logprobs))
        for finished, running in pairs:
            finished[slot, 0] = torch.where(ended, finished[slot, 0], running[slot, 0])
        self._finished_lengths[slot, 0] = torch.where(ended, self._finished_lengths[slot, 0], num)
        self._is_finished[slot] &= ended  # of a slot that is truncated, only the first text counts
        self._ended[slot].fill_(True)  # as in `start_rows`

    def move_rows(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies the slots `sources` to the slots `targets`."""
        old, new = copy_async([sources, targets], self._count.device)
        running = (self._prompt_lengths, self._count, self._limit, self._no_speech_prob, self._ended)
        beams = (self._tokens, self._logprobs, self._scores, self._finished_tokens, self._finished_logprobs)
        for tensor in (*running, *beams, self._finished_scores, self._finished_lengths, self._is_finished):
            tensor[new] = tensor[old]
        old_rows, new_rows = ((slots[:, None] * self._num_beams + self._beams).flatten() for slots in (old, new))
        for tensor in self.rules.tensors():
            tensor[new_rows] = tensor[old_rows]
        self._branches.move_rows(old, new)

    def poll(self, num: int) -> tuple[list[bool], list[int], NDArray[np.int64]]:
        """Returns for every slot: whether it has ended, its number of tokens, and the first `num` of its best beam.

        The host waits here for the device, so everything is one copy.
        """
        parts = [self._ended[:, None], self._count[:, None], self._tokens[:, 0, :num]]
        copied = torch.cat(parts, dim=1).cpu().numpy()
        return list(map(bool, copied[:, 0])), copied[:, 1].tolist(), copied[:, 2:]

    def results(self, slots: Sequence[int]) -> list[DecodingResult]:
        """Returns the chosen text of each of `slots`."""
        no_speech = self._no_speech_prob[torch.tensor(slots, device=self._count.device)].tolist()
        found = []
        for (tokens, logprobs), probability in zip(self._chosen(slots), no_speech, strict=True):
            ended = tokens[-1] == self._eot
            written = tuple(tokens[:-1] if ended else tokens)
            found.append(DecodingResult(written, float(logprobs.sum()), probability, ended))
        return found

    def probabilities(self, slots: Sequence[int]) -> list[list[float]]:
        """Returns the probability of each token of the results."""
        return [
            logprobs.float().exp()[: len(tokens) - (tokens[-1] == self._eot)].tolist()
            for tokens, logprobs in self._chosen(slots)
        ]

    def _chosen(self, slots: Sequence[int]) -> list[tuple[list[int], Tensor]]:
        """Returns the chosen text of each slot: tokens with the end token, and their log-probabilities (float64)."""
        where = torch.tensor(slots, device=self._count.device)
        num_texts = 1 if self._selection == "score" else self._num_beams
        lengths = self._finished_lengths[where, :num_texts].tolist()
        num_tokens = max(map(max, lengths))
        tokens = self._finished_tokens[where, :num_texts, :num_tokens].tolist()
        logprobs = self._finished_logprobs[where, :num_texts, :num_tokens].cpu().double()
        is_finished = self._is_finished[where, :num_texts].tolist()
        chosen = []
        for row, ends in enumerate(lengths):
            texts = [text[:end] for text, end in zip(tokens[row], ends, strict=True)]
            best = 0 if num_texts == 1 else _least_risk_text(texts, logprobs[row], is_finished[row], self._eot)
            chosen.append((texts[best], logprobs[row, best, : ends[best]]))
        return chosen


def _least_risk_text(texts: Sequence[list[int]], logprobs: Tensor, is_finished: Sequence[bool], eot: int) -> int:
    """Returns the number of the finished text with the fewest expected errors; 0, that of the best score, if alone.

    `logprobs`: of each token of each text, shape (texts, tokens).
    """
    # Beams are alike until there are as many continuations, and so may be finished texts: each counts once.
    first = {tuple(text): number for number, text in reversed(list(enumerate(texts))) if is_finished[number]}
    numbers = sorted(first.values())
    if len(numbers) < 2:
        return 0
    words = [[token for token in texts[number] if token < eot] for number in numbers]  # without times
    return numbers[least_risk(words, [float(logprobs[number, : len(texts[number])].sum()) for number in numbers])]


def _select(texts: Tensor, indices: Tensor) -> Tensor:
    """Returns some of the texts, shape (rows, texts, tokens), by `indices`, shape (rows, number)."""
    return texts.gather(1, indices[:, :, None].expand(-1, -1, texts.shape[2]))
