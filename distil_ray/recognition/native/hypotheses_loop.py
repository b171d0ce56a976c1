"""The decoding loops of several texts per chunk, of which the best one is returned: beams, or samples.

Queue, slots and retirement are those of slot_loop.py; a slot holds one chunk with all its texts. A chunk is encoded and
its prompt is run once. In a step the texts of a chunk are several queries of one row: the cross-attention reads keys
and values of the chunk once for all of them, and so does the self-attention, whose cache holds their common beginning
once (branch_table.py). Nothing waits for the device between polls. Steps are not recorded as CUDA graphs.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from distil_ray.recognition.base import RecognizerOptions
from distil_ray.recognition.native.beam_search import BeamState, Continuations, best_continuations
from distil_ray.recognition.native.best_of import SampleState
from distil_ray.recognition.native.branch_table import BranchTable
from distil_ray.recognition.native.decoding_task import DecodingTask
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.logits_rules import RuleState
from distil_ray.recognition.native.scheduler import TaskGroup
from distil_ray.recognition.native.slot_loop import AdmittedRows, LoopParts, SlotLoop

BLOCK_ROWS = 16  # of logits that the search for the best tokens takes at once on a CPU: 3 MB for Whisper's vocabulary


class HypothesesLoop(SlotLoop):
    """A loop whose slots hold several texts each."""

    def __init__(self, parts: LoopParts, cache: KVCache, num_texts: int) -> None:
        """Allocates what the rows need beside the cache.

        Args:
            parts: Of the recognizer.
            cache: Of the main model, with a slot for each chunk that is decoded at once and room for `num_texts` texts.
            num_texts: Texts of each chunk.
        """
        super().__init__(parts, cache)
        self._num_texts = num_texts
        self._text_numbers = torch.arange(num_texts, device=parts.decoder.device)
        self._capacity = cache.max_positions
        self._max_tokens = parts.decoder.max_positions + 1
        self._branches = BranchTable(cache.slots, num_texts, self._capacity, parts.decoder.device)
        self._num_entries = 0  # bound on the entries of the self-attention cache that any slot uses

    @property
    @abstractmethod
    def _rows(self) -> BeamState | SampleState: ...

    @abstractmethod
    def _choose_first(self, slots: Tensor, admitted: AdmittedRows) -> Tensor:
        """Starts the rows `slots`, int64, shape (rows,). Returns the first token of each text, shape (rows, texts)."""

    @abstractmethod
    def _choose_next(self, rows: Tensor, logits: Tensor, rules: RuleState) -> tuple[Tensor, Tensor]:
        """Chooses the next token of each text of `rows`.

        `logits`, shape (rows x texts, vocabulary), those of `Decoder.raw_logits`, may be overwritten; `rules` are the
        states before these tokens.
        Returns the texts that were continued and the tokens, each of shape (rows, texts).
        """

    def _begin(self, tasks: Sequence[DecodingTask], windows: Sequence[int]) -> None:
        super()._begin(tasks, windows)
        self._num_entries = 0

    def _admit(self, groups: Sequence[TaskGroup], free: Sequence[int]) -> None:
        tasks = [task for group in groups for task in group.tasks]
        slots, admitted = self._encode_rows(groups, free)
        self._num_entries = max(self._num_entries, max(len(task.prompt) for task in tasks) + self._num_texts)
        tokens = self._choose_first(slots, admitted)
        repeated = self._row_numbers[: len(tasks), None].expand(tokens.shape).flatten()
        started = admitted.rules.select(repeated)
        self._rules.start_rows(self._rows.rules, self._texts_of(slots), started, tokens.flatten())
        self._slots.assign(free[: len(tasks)], tasks)

    def _compact_slots(self) -> None:
        encoder_positions = self._slots.extent().encoder_positions
        sources, targets = self._slots.compact()
        self._cache.move_rows(sources, targets, self._num_entries, encoder_positions)
        self._rows.move_rows(sources, targets)

    def _run_steps(self) -> None:
        for _ in range(self._policy.steps_per_poll):
            self._step()
        self._stats.steps += self._policy.steps_per_poll
        self._stats.row_tokens += self._policy.steps_per_poll * len(self._slots)

    def _step(self) -> None:
        """Adds one token to each text of the first rows."""
        rows, state, extent = self._row_numbers[: self._slots.num_rows], self._rows, self._slots.extent()
        ids, positions = state.last_ids(rows)
        hidden = self._decoder.step(
            ids,
            positions,
            self._cache,
            self._num_entries,
            extent.encoder_positions,
            extent.is_ragged,
            self._branches.branches(rows),
        )
        texts = self._texts_of(rows)
        before = state.rules.select(texts)
        self._num_entries = min(self._num_entries + self._num_texts, self._capacity)
        self._slots.add_tokens(1)
        parents, tokens = self._choose_next(rows, self._decoder.raw_logits(hidden).flatten(0, 1), before)
        continued = (rows[:, None] * self._num_texts + parents).flatten()
        self._rules.advance(state.rules, texts, before, continued, tokens.flatten())

    def _poll_finished(self) -> list[bool]:
        ended = super()._poll_finished()
        self._num_entries = self._branches.num_entries(self._slots.occupied)
        return ended

    def _texts_of(self, slots: Tensor) -> Tensor:
        """Returns the rows of the rules' state that belong to the texts of `slots`."""
        return (slots[:, None] * self._num_texts + self._text_numbers).flatten()


class BeamLoop(HypothesesLoop):
    """Beam search for each chunk."""

    def __init__(self, parts: LoopParts, cache: KVCache, options: RecognizerOptions) -> None:
        num_beams, penalty = options.num_beams, options.length_penalty
        super().__init__(parts, cache, num_beams)
        rules = parts.rules.new_state(cache.slots * num_beams)
        limits = (self._max_tokens, self._eot)
        self._state = BeamState(rules, self._branches, num_beams, penalty, *limits, options.beam_selection)

    @property
    def _rows(self) -> BeamState:
        return self._state

    def _choose_first(self, slots: Tensor, admitted: AdmittedRows) -> Tensor:
        scores = admitted.logits.log_softmax(dim=-1)
        scores = self._rules.apply_first(scores, admitted.rules, admitted.has_begun)
        found = best_continuations(scores, 1, 2 * self._num_texts).repeat(self._num_texts)
        self._state.start_rows(slots, admitted.prompt_lengths, admitted.no_speech, admitted.limits)
        return self._state.append(slots, found, 1, self._num_entries)[1]

    def _choose_next(self, rows: Tensor, logits: Tensor, rules: RuleState) -> tuple[Tensor, Tensor]:
        found = Continuations.concatenate(
            [self._find_continuations(logits[part], rules.select(part)) for part in self._row_blocks(len(logits))]
        )
        num_tokens = min(self._slots.max_text_tokens, self._max_tokens)
        return self._state.append(rows, found, num_tokens, self._num_entries)

    def _find_continuations(self, logits: Tensor, rules: RuleState) -> Continuations:
        scores = logits.log_softmax(dim=-1, dtype=torch.float32)
        self._rules.apply(scores, rules)
        return best_continuations(scores, self._num_texts, 2 * self._num_texts)

    def _row_blocks(self, num_rows: int) -> Iterator[slice]:
        """Yields parts of the rows of logits, each with all texts of some slots.

        The rules and the search pass over the vocabulary several times. On a CPU, few rows at a time stay in its cache.
        """
        size = num_rows
        if self._decoder.device.type == "cpu":
            size = max(1, BLOCK_ROWS // self._num_texts) * self._num_texts
        for first in range(0, num_rows, size):
            yield slice(first, first + size)


class BestOfLoop(HypothesesLoop):
    """Several samples of each chunk at its temperature."""

    def __init__(self, parts: LoopParts, cache: KVCache, num_samples: int) -> None:
        super().__init__(parts, cache, num_samples)
        rules = parts.rules.new_state(cache.slots * num_samples)
        self._state = SampleState(rules, self._branches, num_samples, self._max_tokens, self._eot)

    @property
    def _rows(self) -> SampleState:
        return self._state

    def _choose_first(self, slots: Tensor, admitted: AdmittedRows) -> Tensor:
        numbers = (admitted.prompt_lengths, admitted.no_speech, admitted.limits, admitted.seeds)
        self._state.start_rows(slots, *numbers, admitted.temperatures)
        rows = self._row_numbers[: len(slots)].repeat_interleave(self._num_texts)
        chosen, logprobs = self._rules.choose_first(
            admitted.logits[rows],
            admitted.rules.select(rows),
            self._state.sampling_state(slots),
            None if admitted.has_begun is None else admitted.has_begun[rows],
        )
        tokens = chosen.view(len(slots), -1)
        self._state.append(slots, tokens, logprobs.view_as(tokens), self._num_entries)
        return tokens

    def _choose_next(self, rows: Tensor, logits: Tensor, rules: RuleState) -> tuple[Tensor, Tensor]:
        chosen, logprobs = self._rules.choose(logits.float(), rules, self._state.sampling_state(rows))
        tokens = chosen.view(len(rows), -1)
        self._state.append(rows, tokens, logprobs.view_as(tokens), self._num_entries)
        return self._text_numbers.expand(tokens.shape), tokens
