"""The decoding loop: many chunks at once, each leaving the batch as soon as its text has ended.

Chunks wait in a queue; those being decoded hold slots of the caches. Once a quarter of the slots is free, waiting
chunks are encoded into them (one at a time would pay the prefill over all weights for each). With none waiting, the
last rows are moved into the gaps and steps get smaller. Retiring each row at once was measured to cost more than the
steps that it saves. The tokens of a chunk depend on nothing but the chunk: its window is its own, padding is masked,
and rows never mix. The loop knows no text and no languages, and no limits but those of a task.

A step gives each row its next token. With an assistant (speculative.py) a step first drafts some tokens of each row,
and the main model verifies them all at once: each row keeps the drafts that the main model would have chosen, and the
first token that it chose otherwise, so that the texts of the rows grow by different lengths. What the caches hold of
rejected drafts is overwritten.

On a GPU the host polls for finished rows only every few steps. Between polls nothing waits for the device, and the host
does its own work (looking for repetition, sending the next chunks, whatever the caller does with a text) while the
device is busy.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from distil_ray.recognition.native.alignment import Aligner
from distil_ray.recognition.native.batch_state import PROMPT_TAIL, BatchState
from distil_ray.recognition.native.cuda_graphs import GraphRunner, Recorder
from distil_ray.recognition.native.decoder import SPARE_POSITIONS, Decoder
from distil_ray.recognition.native.decoding_task import (
    AlignmentLevel,
    DecodingResult,
    DecodingStats,
    DecodingTask,
    has_sampled,
)
from distil_ray.recognition.native.device import copy_async, device_time
from distil_ray.recognition.native.encoder import Encoder
from distil_ray.recognition.native.logits_rules import LogitsRules, RuleState, SamplingState
from distil_ray.recognition.native.prompt_batches import PromptBatch, prompt_end, stack_prompts
from distil_ray.recognition.native.scheduler import (
    SlotTable,
    StepShape,
    TaskGroup,
    TaskQueue,
    group_tasks,
    policy_for,
    pop_groups,
    stage_groups,
)
from distil_ray.recognition.native.speculative import Drafter, Speculation, SpeculationTrial, count_accepted
from distil_ray.types import SAMPLE_RATE, TokenAlignment
from distil_ray.whisper.features import FRAMES_PER_POSITION, SAMPLES_PER_POSITION, LogMel
from distil_ray.whisper.tokenizer import Tokens

REFILL_DIVISOR = 4  # one slot in so many must be free before rows are moved or admitted
SPEECH_MARGIN_POSITIONS = (
    10  # encoder positions (20 ms) behind the end of a chunk that are not subsampled for an assistant
)
# Last tokens of a row that are not yet in the assistant's cache when it begins to draft, if all drafts were accepted.
MIN_PENDING_TOKENS = 2


class DecodingLoop:
    """Turns tasks into results. It holds the caches, which are allocated once and used by every call."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        rules: LogitsRules,
        log_mel: LogMel,
        tokens: Tokens,
        *,
        slots: int,
        stats: DecodingStats,
        warn: Callable[[str], None],
        aligner: Aligner,
        alignment_for: Callable[[DecodingTask, DecodingResult], AlignmentLevel],
        recorder: Recorder | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """Allocates the caches.

        Args:
            encoder: Of the main model.
            decoder: Of the main model.
            rules: Decoding rules of the checkpoint.
            log_mel: Features.
            tokens: Special tokens of the checkpoint.
            slots: Chunks that are decoded at once.
            stats: Totals that the loop adds to.
            warn: Called with a message where recording CUDA graphs is given up.
            aligner: Finds the times of tokens.
            alignment_for: Returns how much of a finished text is aligned.
            recorder: Records steps (`cuda_graphs.create_recorder`); None: steps are not recorded.
            speculation: The assistant, if there is one.
        """
        self._encoder, self._decoder, self._rules, self._log_mel = encoder, decoder, rules, log_mel
        self._aligner, self._alignment_for = aligner, alignment_for
        self._no_speech = tokens.no_speech
        self._slots = SlotTable(slots, encoder.output_positions)
        self._policy = policy_for(decoder.device)
        self._graphs = GraphRunner(recorder, warn)
        self._cache = decoder.new_cache(slots)
        self._largest_shape = StepShape(slots, decoder.cache_positions, self._cache.cross_mask.shape[1], True, False)
        self._state = BatchState(rules.new_state(slots), slots, decoder.max_positions + 1, tokens.eot, decoder.device)
        self._row_numbers = torch.arange(slots, device=decoder.device)
        self._offsets = torch.arange(SPARE_POSITIONS + 1, device=decoder.device)
        self._stats = stats
        self._speculation = speculation
        self._drafter: Drafter | None = None
        if speculation is not None and speculation.assistant is not None:
            self._drafter = Drafter(speculation, speculation.assistant, rules, slots, tokens.eot)
        self._active_drafter: Drafter | None = None  # in this run
        self._num_pending = MIN_PENDING_TOKENS

    @torch.inference_mode()
    def run(self, queue: TaskQueue) -> Iterator[tuple[int, DecodingResult]]:
        """Yields (task index, result) of all tasks in `queue`, in the order in which they end.

        Tasks that the caller adds to the queue before it asks for the next result are decoded in the same run.
        """
        tasks = queue.take()
        waiting = self._group(tasks)
        self._slots.clear()
        window = self._slots.longest_window(tasks) if tasks else 0
        self._cache.resize_windows(window)
        self._active_drafter = None if has_sampled(tasks) else self._drafter
        if self._active_drafter is not None:
            self._active_drafter.resize_windows(window)
        done: list[tuple[int, DecodingResult]] = []
        while waiting or len(self._slots) or done:
            if not (waiting or len(self._slots)):
                yield from done
                done = []
                waiting = self._group(queue.take())
                continue
            self._refill_slots(waiting)
            speculation = None if self._active_drafter is None else self._speculation
            if speculation is not None and speculation.trial is not None:
                ended = self._timed_step(speculation, speculation.trial)
                yield from done
            else:
                self._run_steps(0 if speculation is None else speculation.max_drafts)
                yield from done
                self._work_ahead(waiting)
                ended = self._poll_finished()
            done = self._retire(ended)
            waiting.extend(self._group(queue.take()))

    @torch.inference_mode()
    def first_logits(self, tasks: Sequence[DecodingTask]) -> Iterator[tuple[int, Tensor]]:
        """Yields (task index, logits after the first token of the prompt), before any rule.

        The logits are float32, shape (vocabulary,).
        """
        self._cache.resize_windows(self._slots.longest_window(tasks))
        self._active_drafter = None
        waiting = self._group(tasks)
        while groups := pop_groups(waiting, self._slots.number):
            batch = [task for group in groups for task in group.tasks]
            slot_numbers = range(len(batch))
            logits = self._prefill(
                groups, slot_numbers, self._row_numbers[: len(batch)], stack_prompts(batch, self._decoder.device)
            )
            yield from zip((task.index for task in batch), logits[:, 0], strict=True)

    def _group(self, tasks: Sequence[DecodingTask]) -> deque[TaskGroup]:
        return group_tasks(tasks, self._policy.encode_positions, max(1, self._slots.number // REFILL_DIVISOR))

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
            features = group.features(self._log_mel)
            window_positions = group.num_frames // FRAMES_PER_POSITION
            encoded = self._encoder(features)
            self._decoder.write_cross_kv(encoded, self._cache, mine, window_positions)
            if self._active_drafter is not None:
                speech_positions = min(
                    window_positions,
                    -(-max(len(task.pcm) for task in group.tasks) // SAMPLES_PER_POSITION) + SPEECH_MARGIN_POSITIONS,
                )
                self._active_drafter.write_cross_kv(
                    features, encoded, slot_numbers[begin : begin + len(mine)], mine, window_positions, speech_positions
                )
            begin += len(mine)
            self._stats.encoded_s += sum(len(task.pcm) for task in group.tasks) / SAMPLE_RATE
        window = self._slots.longest_window(task for group in groups for task in group.tasks)
        logits: Tensor | None = None
        for batch in prompts:
            mine = slots[batch.rows]
            if self._active_drafter is not None:
                self._active_drafter.prefill(batch.ids, mine, window)
            hidden = self._decoder.prefill(batch.ids, self._cache, mine, window)
            own = self._decoder.logits(hidden[self._row_numbers[: len(mine), None], batch.read_at])
            if len(prompts) == 1:
                return own
            logits = own.new_empty(len(slots), *own.shape[1:]) if logits is None else logits
            logits[batch.rows] = own
        assert logits is not None, "there is at least one task"
        return logits

    def _refill_slots(self, waiting: deque[TaskGroup]) -> None:
        """Fills free slots with waiting chunks, or closes the gaps, where enough are free to be worth the copies."""
        num_rows, num_occupied = self._slots.num_rows, len(self._slots)
        if waiting:
            free = self._slots.free
            if len(free) * REFILL_DIVISOR >= self._slots.number:
                self._admit(pop_groups(waiting, len(free)), free)
        elif (num_rows - num_occupied) * REFILL_DIVISOR >= num_rows:
            self._compact_slots()

    def _admit(self, groups: Sequence[TaskGroup], free: Sequence[int]) -> None:
        """Encodes the chunks of `groups` into free slots and chooses their first tokens."""
        tasks = [task for group in groups for task in group.tasks]
        slot_numbers, device = free[: len(tasks)], self._decoder.device
        # All data of the host is sent before the encoder starts, so that no copy waits for it.
        slots, prompts = copy_async(slot_numbers, device), stack_prompts(tasks, device)
        prompt_ends = copy_async([prompt_end(task.prompt, PROMPT_TAIL) for task in tasks], device)
        temperatures = copy_async([task.temperature for task in tasks], device)
        numbers = copy_async([[task.seed, task.max_tokens, len(task.prompt)] for task in tasks], device)
        seeds, limits, prompt_lengths = numbers.unbind(dim=1)
        sampling = SamplingState(temperatures, seeds, torch.zeros_like(slots))
        num_begun = [task.num_begun for task in tasks]
        started = self._rules.start([task.prompt for task in tasks], num_begun)
        has_begun = copy_async(num_begun, device) > 0 if any(num_begun) else None
        logits = self._prefill(groups, slot_numbers, slots, prompts)
        no_speech = logits[:, 0].softmax(dim=-1)[:, self._no_speech]
        chosen, logprobs = self._rules.choose_first(
            logits[:, 1], started, sampling if has_sampled(tasks) else None, has_begun
        )
        self._rules.start_rows(self._state.rules, slots, started, chosen)
        self._state.start_rows(slots, prompt_lengths, prompt_ends, no_speech, limits, sampling)
        self._state.append(slots, chosen[:, None], logprobs[:, None])
        self._slots.assign(slot_numbers, tasks)

    def _compact_slots(self) -> None:
        """Moves the last rows into the free slots before them."""
        extent = self._slots.extent()
        sources, targets = self._slots.compact()
        self._cache.move_rows(sources, targets, extent.text_positions, extent.encoder_positions)
        if self._active_drafter is not None:
            self._active_drafter.move_rows(sources, targets, extent)
        self._state.move_rows(sources, targets)

    def _run_steps(self, max_drafts: int) -> None:
        """Runs the steps between two polls, each with up to `max_drafts` drafts per row."""
        num = max(1, self._policy.steps_per_poll // (max_drafts + 1))
        if self._active_drafter is None:
            self._decode_steps(num)
            return
        for _ in range(num):
            self._speculative_step(self._active_drafter, max_drafts)

    def _decode_steps(self, num: int) -> None:
        """Runs `num` steps without drafts, from CUDA graphs where the device has them."""
        shape = self._step_shape(num)
        if self._policy.runs_ahead:
            shape = shape.padded(self._largest_shape, self._decoder.reads_by_length)
        for _ in range(num):
            self._graphs.run(shape, partial(self._decode_step, shape))
        self._stats.steps += num
        self._stats.row_tokens += num * len(self._slots)
        self._slots.add_tokens(num)

    def _step_shape(self, num_ids: int) -> StepShape:
        """Returns the shape of steps that add at most `num_ids` ids to each row in all."""
        extent, slots = self._slots.extent(), self._slots
        text_positions = min(extent.text_positions + num_ids - 1, self._decoder.cache_positions)
        return StepShape(
            slots.num_rows,
            text_positions,
            extent.encoder_positions,
            extent.is_ragged,
            has_sampled(self._slots.tasks),
        )

    def _decode_step(self, shape: StepShape) -> None:
        """Adds one token to each of the first rows. It depends on the host only by `shape`, so it can be recorded."""
        rows = self._row_numbers[: shape.rows]
        ids, positions = self._state.last_ids(rows, 1)
        self._forward_and_choose(rows, ids, positions, self._state.rules.select(rows), None, shape)

    def _timed_step(self, speculation: Speculation, trial: SpeculationTrial) -> list[bool]:
        """Runs and times one step, with or without drafts, for the trial, which may end with it."""
        before, began = self._slots.num_tokens, device_time(self._decoder.device)
        if self._active_drafter is not None and trial.next_is_speculative:
            self._speculative_step(self._active_drafter, speculation.max_drafts)
        else:
            self._decode_steps(1)
            self._num_pending = min(
                self._num_pending + 1, PROMPT_TAIL
            )  # the cache of the assistant is one token further behind
        seconds = device_time(self._decoder.device) - began
        ended = self._poll_finished()
        trial.record_step(seconds, self._slots.num_tokens - before + len(self._slots.ended_slots(ended)))
        speculation.decide()
        if speculation.assistant is None:
            self._drafter = self._active_drafter = None
        return ended

    def _speculative_step(self, drafter: Drafter, max_drafts: int) -> None:
        """Adds to each row the drafts that are accepted, of at most `max_drafts`, and one token more."""
        rows = self._row_numbers[: self._slots.num_rows]
        state = self._state.rules.select(rows)
        drafts = self._draft(drafter, rows, state, max_drafts)
        ids, positions = self._state.last_ids(rows, 1)
        ids = torch.cat([ids, drafts], dim=1)
        positions = positions + self._offsets[: ids.shape[1]]
        state = self._rules.states_along(state, drafts)
        self._forward_and_choose(rows, ids, positions, state, drafts, self._step_shape(ids.shape[1]))
        self._stats.steps += 1
        self._stats.row_tokens += ids.shape[1] * len(self._slots)
        self._slots.add_tokens(ids.shape[1])

    def _forward_and_choose(
        self,
        rows: Tensor,
        ids: Tensor,
        positions: Tensor,
        state: RuleState,
        drafts: Tensor | None,
        shape: StepShape,
    ) -> None:
        """Runs the decoder over `ids`, shape (rows, P), and adds the chosen tokens to the rows.

        `state` is the state of the rules before each of these tokens.
        """
        hidden = self._decoder.step(
            ids, positions, self._cache, shape.text_positions, shape.encoder_positions, shape.is_ragged
        )
        sampling = self._state.sampling_state(rows) if shape.is_sampled else None
        tokens, logprobs = self._rules.choose(self._decoder.logits(hidden).flatten(0, 1), state, sampling)
        self._accept(rows, tokens.view_as(ids), logprobs.view_as(ids), drafts, state)

    def _draft(self, drafter: Drafter, rows: Tensor, state: RuleState, max_drafts: int) -> Tensor:
        """Returns drafts for the rows, shape (rows, k)."""
        ids, positions = self._state.last_ids(rows, self._num_pending)
        drafts = drafter.draft(ids, positions, state, ~self._state.ended[rows], max_drafts, self._slots.extent())
        self._num_pending = MIN_PENDING_TOKENS
        self._stats.drafts += drafts.shape[1] * len(self._slots)
        return drafts

    def _accept(self, rows: Tensor, tokens: Tensor, logprobs: Tensor, drafts: Tensor | None, state: RuleState) -> None:
        """Adds to the rows the tokens that they keep of `tokens`, shape (rows, P).

        `state` is the state of the rules before each of these tokens.
        """
        agreed, indices = None, rows
        if drafts is not None:
            agreed = count_accepted(drafts, tokens)
            indices = rows * tokens.shape[1] + agreed
        self._rules.advance(self._state.rules, rows, state, indices, tokens.flatten()[indices])
        self._state.append(rows, tokens, logprobs, agreed)

    def _work_ahead(self, waiting: deque[TaskGroup]) -> None:
        """Does the work of the host while the device is busy: ends repetitive rows and sends the next chunks."""
        if self._policy.runs_ahead:
            self._truncate_repetitions(self._slots.occupied)
            stage_groups(waiting, self._slots.number // REFILL_DIVISOR, self._log_mel)

    def _poll_finished(self) -> list[bool]:
        """Waits for the device and returns for each slot whether its row has ended.

        Repetitive rows are ended here, or in `_work_ahead` where the device works ahead.
        """
        ended, counts, tokens = self._state.poll(self._slots.max_text_tokens)
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
            self._state.truncate(slot, num)
        return list(loops)

    def _retire(self, ended: Sequence[bool]) -> list[tuple[int, DecodingResult]]:
        """Takes the rows that have ended out of their slots and returns their results."""
        slots = self._slots.ended_slots(ended)
        if not slots:
            return []
        tasks = self._slots.release(slots)
        decoded = self._state.results(slots)
        self._stats.add(decoded)
        if self._speculation is not None and self._active_drafter is not None:
            for each in decoded:
                self._speculation.record_result(each)
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
        )
        for index, times, probabilities in zip(indices, found, self._state.probabilities(mine), strict=True):
            alignment = None if times.ends is None else TokenAlignment(times.ends, tuple(probabilities))
            results[index] = replace(decoded[index], alignment=alignment, last_position=times.last_position)
        return results
