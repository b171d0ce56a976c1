"""The frame of the decoding loops: chunks wait in a queue, are encoded into free slots, decoded in steps, and retired.

Chunks being decoded hold slots of the caches. Once a quarter of the slots is free, waiting chunks are encoded into them
(one at a time would pay the prefill over all weights for each). With none waiting, the last rows are moved into the
gaps and steps get smaller. Retiring each row at once was measured to cost more than the steps that it saves. The tokens
of a chunk depend on nothing but the chunk: its window is its own, padding is masked, and rows never mix. A loop knows
no text and no languages, and no limits but those of a task.

On a GPU the host polls for finished rows only every few steps. Between polls nothing waits for the device, and the host
does its own work (looking for repetition, sending the next chunks, whatever the caller does with a text) while the
device is busy.

`SlotLoop` does all that is the same for one text per chunk (decoding_loop.py) and for several of which one is returned
(hypotheses_loop.py). What the rows hold, and what a step does, is up to those.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.native.alignment import Aligner
from distil_ray.recognition.native.decoder import Decoder
from distil_ray.recognition.native.decoding_task import AlignmentLevel, DecodingResult, DecodingStats, DecodingTask
from distil_ray.recognition.native.device import copy_async
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.group_encoding import GroupEncoding, SideStream, StreamEncoding
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.logits_rules import LogitsRules, RuleState
from distil_ray.recognition.native.prompt_batches import PromptBatch, stack_prompts
from distil_ray.recognition.native.query_record import QueryRecord
from distil_ray.recognition.native.scheduler import (
    SlotTable,
    TaskGroup,
    TaskQueue,
    group_tasks,
    policy_for,
    pop_groups,
)
from distil_ray.types import SAMPLE_RATE, TokenAlignment
from distil_ray.whisper.features import FRAMES_PER_POSITION, LogMel
from distil_ray.whisper.tokenizer import Tokens

REFILL_DIVISOR = 4  # one slot in so many must be free before rows are moved or admitted


@dataclass(frozen=True, slots=True)
class LoopParts:
    """Parts that the loops of one recognizer share.

    Attributes:
        encoder: Of the main model.
        decoder: Of the main model.
        rules: Decoding rules of the checkpoint.
        log_mel: Features.
        tokens: Special tokens of the checkpoint.
        stats: Totals that a loop adds to.
        aligner: Finds the times of tokens.
        alignment_for: Returns how much of a finished text is aligned.
        side_stream: Encodes the next chunks beside the steps of these; None: they are encoded when slots are free.
    """

    encoder: Encoder
    decoder: Decoder
    rules: LogitsRules
    log_mel: LogMel
    tokens: Tokens
    stats: DecodingStats
    aligner: Aligner
    alignment_for: Callable[[DecodingTask, DecodingResult], AlignmentLevel]
    side_stream: SideStream | None = None


@dataclass(frozen=True, slots=True)
class AdmittedRows:
    """Chunks just encoded whose first tokens are to be chosen, on the device: tensors of shape (rows,).

    Attributes:
        logits: float32, shape (rows, vocabulary), before any rule.
        rules: State of the rules after the prompts.
        has_begun: bool, rows whose prompts contain the beginning of their texts; None: no row.
        no_speech: Probability of the no-speech token.
        prompt_lengths: int64.
        limits: Largest number of tokens, int64.
        seeds: Of the sampling noise, int64.
        temperatures: float32.
    """

    logits: Tensor
    rules: RuleState
    has_begun: Tensor | None
    no_speech: Tensor
    prompt_lengths: Tensor
    limits: Tensor
    seeds: Tensor
    temperatures: Tensor


class RowState(Protocol):
    """The state of the rows of a loop, on the device: a row for each slot."""

    def poll(self, num: int) -> tuple[list[bool], list[int], NDArray[np.int64]]:
        """Waits for the device. Returns for every slot whether it has ended, its number of tokens, and their first
        `num`.
        """
        ...

    def truncate(self, slot: int, num: int) -> None:
        """Ends a row after its first `num` tokens, as if nothing had come after them."""
        ...

    def results(self, slots: Sequence[int]) -> list[DecodingResult]:
        """Returns the results of rows."""
        ...

    def probabilities(self, slots: Sequence[int]) -> list[list[float]]:
        """Returns the probability of each token of the results."""
        ...


class SlotLoop(ABC):
    """Turns tasks into results, in the slots of a cache that is allocated once and used by every call."""

    def __init__(self, parts: LoopParts, cache: KVCache) -> None:
        self._decoder, self._rules = parts.decoder, parts.rules
        self._encoding = (
            GroupEncoding(parts.encoder, parts.log_mel)
            if parts.side_stream is None
            else StreamEncoding(parts.encoder, parts.log_mel, parts.side_stream)
        )
        self._aligner, self._alignment_for = parts.aligner, parts.alignment_for
        self._eot, self._no_speech = parts.tokens.eot, parts.tokens.no_speech
        self._stats = parts.stats
        self._cache = cache
        self._slots = SlotTable(cache.slots, parts.encoder.output_positions)
        self._policy = policy_for(parts.decoder.device)
        self._row_numbers = torch.arange(cache.slots, device=parts.decoder.device)
        self._record: QueryRecord | None = None  # of a loop whose steps fill one

    @torch.inference_mode()
    def run(self, queue: TaskQueue) -> Iterator[tuple[int, DecodingResult]]:
        """Yields (task index, result) of all tasks in `queue`, in the order in which they end.

        Tasks that the caller adds to the queue before it asks for the next result are decoded in the same run.
        """
        tasks = queue.take()
        waiting = self._group(tasks)
        self._slots.clear()
        self._begin(tasks, self._slots.windows(tasks))
        done: list[tuple[int, DecodingResult]] = []
        while waiting or len(self._slots) or done:
            if not (waiting or len(self._slots)):
                yield from done
                done = []
                waiting = self._group(queue.take())
                continue
            self._refill_slots(waiting)
            ended = yield from self._advance(waiting, done)
            done = self._retire(ended)
            waiting.extend(self._group(queue.take()))

    @torch.inference_mode()
    def first_logits(self, tasks: Sequence[DecodingTask]) -> Iterator[tuple[int, Tensor]]:
        """Yields (task index, logits after the first token of the prompt), before any rule.

        The logits are float32, shape (vocabulary,).
        """
        self._begin([], self._slots.windows(tasks))
        waiting = self._group(tasks)
        while groups := pop_groups(waiting, self._slots.number):
            batch = [task for group in groups for task in group.tasks]
            slot_numbers = range(len(batch))
            logits = self._prefill(
                groups, slot_numbers, self._row_numbers[: len(batch)], stack_prompts(batch, self._decoder.device)
            )
            yield from zip((task.index for task in batch), logits[:, 0], strict=True)

    @property
    @abstractmethod
    def _rows(self) -> RowState:
        """The state of the rows of this run."""

    def _begin(self, tasks: Sequence[DecodingTask], windows: Sequence[int]) -> None:
        """Prepares a run of windows with these numbers of encoder positions."""
        self._encoding.reset()
        self._cache.lay_out(windows)

    @abstractmethod
    def _admit(self, groups: Sequence[TaskGroup], free: Sequence[int]) -> None:
        """Encodes the chunks of `groups` into free slots and chooses their first tokens."""

    @abstractmethod
    def _compact_slots(self) -> None:
        """Moves the last rows into the free slots before them."""

    @abstractmethod
    def _run_steps(self) -> None:
        """Runs the steps between two polls."""

    def _advance(
        self, waiting: deque[TaskGroup], done: Sequence[tuple[int, DecodingResult]]
    ) -> Generator[tuple[int, DecodingResult], None, list[bool]]:
        """Runs the steps up to the next poll and yields `done` meanwhile.

        Returns for each slot whether it has ended.
        """
        self._run_steps()
        yield from done
        self._work_ahead(waiting)
        return self._poll_finished()

    def _group(self, tasks: Sequence[DecodingTask]) -> deque[TaskGroup]:
        return group_tasks(tasks, self._policy.encode_positions, max(1, self._slots.number // REFILL_DIVISOR))

    def _encode_rows(self, groups: Sequence[TaskGroup], free: Sequence[int]) -> tuple[Tensor, AdmittedRows]:
        """Encodes the chunks of `groups` into the first of the free slots and runs their prompts.

        All data of the host is sent before the encoder starts, so that no copy waits for it. Returns the slots on the
        device, int64, shape (rows,), and the rows.
        """
        tasks = [task for group in groups for task in group.tasks]
        slot_numbers, device = free[: len(tasks)], self._decoder.device
        slots, prompts = copy_async(slot_numbers, device), stack_prompts(tasks, device)
        temperatures = copy_async([task.temperature for task in tasks], device)
        numbers = copy_async([[len(task.prompt), task.max_tokens, task.seed] for task in tasks], device)
        lengths, limits, seeds = numbers.unbind(dim=1)
        num_begun = [task.num_begun for task in tasks]
        started = self._rules.start([task.prompt for task in tasks], num_begun)
        has_begun = copy_async(num_begun, device) > 0 if any(num_begun) else None
        logits = self._prefill(groups, slot_numbers, slots, prompts)
        no_speech = logits[:, 0].softmax(dim=-1)[:, self._no_speech]
        return slots, AdmittedRows(logits[:, 1], started, has_begun, no_speech, lengths, limits, seeds, temperatures)

    def _prefill(
        self, groups: Sequence[TaskGroup], slot_numbers: Sequence[int], slots: Tensor, prompts: Sequence[PromptBatch]
    ) -> Tensor:
        """Encodes `groups` into slots and runs their prompts.

        Args:
            groups: Chunks to encode.
            slot_numbers: A slot for each chunk, on the host.
            slots: The same numbers on the device.
            prompts: The prompts of all chunks.

        Returns:
            float32 logits after `<|startoftranscript|>` and after the last token of each prompt, shape (rows, 2,
                vocabulary), before any rule.
        """
        begin = 0
        for group in groups:
            mine = slots[begin : begin + len(group.tasks)]
            features, encoded = self._encoding.encode(group)
            self._decoder.write_windows(encoded, self._cache, mine, group.num_frames // FRAMES_PER_POSITION)
            self._after_encoding(group, features, encoded, slot_numbers[begin : begin + len(mine)], mine)
            self._encoding.release()
            begin += len(mine)
            self._stats.encoded_s += sum(len(task.pcm) for task in group.tasks) / SAMPLE_RATE
        window = self._slots.longest_window(task for group in groups for task in group.tasks)
        logits: Tensor | None = None
        for batch in prompts:
            mine = slots[batch.rows]
            self._before_prompts(batch, mine, window)
            hidden = self._decoder.prefill(batch.ids, self._cache, mine, window)
            own = self._decoder.logits(hidden[self._row_numbers[: len(mine), None], batch.read_at])
            if len(prompts) == 1:
                return own
            logits = own.new_empty(len(slots), *own.shape[1:]) if logits is None else logits
            logits[batch.rows] = own
        assert logits is not None, "there is at least one task"
        return logits

    def _after_encoding(  # noqa: B027 - a hook: most loops do nothing here
        self, group: TaskGroup, features: Tensor, encoded: Tensor, slot_numbers: Sequence[int], slots: Tensor
    ) -> None:
        """Takes the windows of a group that was just encoded into `slots`."""

    def _before_prompts(self, batch: PromptBatch, slots: Tensor, window: int) -> None:  # noqa: B027 - as above
        """Takes prompts that are about to run in `slots`, whose windows have at most `window` positions."""

    def _refill_slots(self, waiting: deque[TaskGroup]) -> None:
        """Fills free slots with waiting chunks, or closes the gaps, where enough are free to be worth the copies."""
        num_rows, num_occupied = self._slots.num_rows, len(self._slots)
        if waiting:
            free = self._slots.free
            if len(free) * REFILL_DIVISOR >= self._slots.number:
                self._admit(pop_groups(waiting, len(free)), free)
        elif (num_rows - num_occupied) * REFILL_DIVISOR >= num_rows:
            self._compact_slots()

    def _work_ahead(self, waiting: deque[TaskGroup]) -> None:
        """Does the work of the host while the device is busy: ends repetitive rows and prepares the next chunks."""
        if self._policy.runs_ahead:
            self._truncate_repetitions(self._slots.occupied)
            self._encoding.work_ahead(waiting, self._slots.number // REFILL_DIVISOR)

    def _poll_finished(self) -> list[bool]:
        """Waits for the device and returns for each slot whether its row has ended.

        Repetitive rows are ended here, or in `_work_ahead` where the device works ahead.
        """
        ended, counts, tokens = self._rows.poll(self._slots.max_text_tokens)
        self._slots.update(ended, counts, tokens)
        occupied = self._slots.occupied
        for slot in self._truncate_repetitions(
            [slot for slot in occupied if ended[slot]] if self._policy.runs_ahead else occupied
        ):
            ended[slot] = True
        return ended

    def _truncate_repetitions(self, slots: Sequence[int]) -> list[int]:
        """Ends the rows in `slots` that repeat themselves, at the end of the loop. Returns their slots."""
        loops = self._slots.find_repetitions(slots)
        for slot, num in loops.items():
            self._rows.truncate(slot, num)
        return list(loops)

    def _retire(self, ended: Sequence[bool]) -> list[tuple[int, DecodingResult]]:
        """Takes the rows that have ended out of their slots and returns their results."""
        slots = self._slots.ended_slots(ended)
        if not slots:
            return []
        tasks = self._slots.release(slots)
        decoded = self._rows.results(slots)
        self._stats.add(decoded)
        timed = self._align(tasks, decoded, slots)
        return [(task.index, each) for task, each in zip(tasks, timed, strict=True)]

    def _align(
        self, tasks: Sequence[DecodingTask], decoded: Sequence[DecodingResult], slots: Sequence[int]
    ) -> list[DecodingResult]:
        """Returns the results with the times that they need.

        It must run before other chunks are encoded into the slots.
        """
        wanted = [self._alignment_for(task, each) for task, each in zip(tasks, decoded, strict=True)]
        results = list(decoded)
        indices = [index for index, times in enumerate(wanted) if times is not AlignmentLevel.NONE]
        if not indices:
            return results
        mine = [slots[index] for index in indices]
        found = self._aligner.align(
            [tasks[index].prompt for index in indices],
            [decoded[index].tokens for index in indices],
            [len(tasks[index].pcm) for index in indices],
            self._cache,
            mine,
            [wanted[index] is AlignmentLevel.TOKENS for index in indices],
            self._record,
            [decoded[index].ended for index in indices],  # at a limit, the last token has not been read
        )
        for index, times, probabilities in zip(indices, found, self._rows.probabilities(mine), strict=True):
            alignment = None if times.ends is None else TokenAlignment(times.ends, tuple(probabilities))
            results[index] = replace(decoded[index], alignment=alignment, last_position=times.last_position)
        return results
