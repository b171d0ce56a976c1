"""The decoding loop of one text per chunk: many chunks at once, each leaving the batch as soon as its text has ended.

Queue, slots and retirement are those of slot_loop.py. A step gives each row its next token. With an assistant
(speculative.py) a step first drafts some tokens of each row, and the main model verifies them all at once: each row
keeps the drafts that the main model would have chosen, and the first token that it chose otherwise, so that the texts
of the rows grow by different lengths. What the caches hold of rejected drafts is overwritten.
"""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial

import torch
from torch import Tensor

from distil_ray.recognition.native.batch_state import PROMPT_TAIL, BatchState
from distil_ray.recognition.native.cuda_graphs import GraphRunner, RecorderFactory
from distil_ray.recognition.native.decoder import SPARE_POSITIONS
from distil_ray.recognition.native.decoding_task import DecodingResult, DecodingTask, has_sampled
from distil_ray.recognition.native.device import copy_async, device_time
from distil_ray.recognition.native.kv_cache import KVCache
from distil_ray.recognition.native.logits_rules import RuleState, SamplingState
from distil_ray.recognition.native.prompt_batches import PromptBatch, prompt_end
from distil_ray.recognition.native.scheduler import StepShape, TaskGroup
from distil_ray.recognition.native.slot_loop import LoopParts, SlotLoop
from distil_ray.recognition.native.speculative import Drafter, Speculation, SpeculationTrial, count_accepted
from distil_ray.whisper.features import FRAMES_PER_POSITION, SAMPLES_PER_POSITION

SPEECH_MARGIN_POSITIONS = (
    10  # encoder positions (20 ms) behind the end of a chunk that are not subsampled for an assistant
)
# Last tokens of a row that are not yet in the assistant's cache when it begins to draft, if all drafts were accepted.
MIN_PENDING_TOKENS = 2


class DecodingLoop(SlotLoop):
    """Greedy decoding or sampling of one text per chunk."""

    def __init__(
        self,
        parts: LoopParts,
        cache: KVCache,
        warn: Callable[[str], None],
        new_recorder: RecorderFactory | None = None,
        speculation: Speculation | None = None,
    ) -> None:
        """Allocates what the rows need beside the cache.

        Args:
            parts: Of the recognizer.
            cache: Of the main model, with a slot for each chunk that is decoded at once.
            warn: Called with a message where recording CUDA graphs is given up.
            new_recorder: Of `cuda_graphs.recorder_factory`; None: steps are not recorded.
            speculation: The assistant, if there is one.
        """
        super().__init__(parts, cache)
        decoder, rules, slots = parts.decoder, parts.rules, cache.slots
        self._record = parts.aligner.new_record(cache)
        self._graphs = GraphRunner(new_recorder, warn)
        self._largest_shape = StepShape(slots, decoder.cache_positions, cache.cross_mask.shape[1], True, False)
        self._state = BatchState(rules.new_state(slots), slots, decoder.max_positions + 1, self._eot, decoder.device)
        self._offsets = torch.arange(SPARE_POSITIONS + 1, device=decoder.device)
        self._speculation = speculation
        self._drafter: Drafter | None = None
        if speculation is not None and speculation.assistant is not None:
            self._drafter = Drafter(speculation, speculation.assistant, rules, slots, self._eot)
        self._active_drafter: Drafter | None = None  # in this run
        self._num_pending = MIN_PENDING_TOKENS

    @property
    def _rows(self) -> BatchState:
        return self._state

    def _begin(self, tasks: Sequence[DecodingTask], windows: Sequence[int]) -> None:
        super()._begin(tasks, windows)
        self._active_drafter = None if has_sampled(tasks) or not tasks else self._drafter
        if self._active_drafter is not None:
            self._active_drafter.lay_out(windows)

    def _advance(
        self, waiting: deque[TaskGroup], done: Sequence[tuple[int, DecodingResult]]
    ) -> Generator[tuple[int, DecodingResult], None, list[bool]]:
        speculation = self._speculation
        if self._active_drafter is None or speculation is None or speculation.trial is None:
            return (yield from super()._advance(waiting, done))
        ended = self._timed_step(speculation, speculation.trial)
        yield from done
        return ended

    def _after_encoding(
        self, group: TaskGroup, features: Tensor, encoded: Tensor, slot_numbers: Sequence[int], slots: Tensor
    ) -> None:
        if self._active_drafter is None:
            return
        window_positions = group.num_frames // FRAMES_PER_POSITION
        speech_positions = min(
            window_positions,
            -(-max(len(task.pcm) for task in group.tasks) // SAMPLES_PER_POSITION) + SPEECH_MARGIN_POSITIONS,
        )
        self._active_drafter.write_windows(features, encoded, slot_numbers, slots, window_positions, speech_positions)

    def _before_prompts(self, batch: PromptBatch, slots: Tensor, window: int) -> None:
        if self._active_drafter is not None:
            self._active_drafter.prefill(batch.ids, slots, window)

    def _admit(self, groups: Sequence[TaskGroup], free: Sequence[int]) -> None:
        """Encodes the chunks of `groups` into free slots and chooses their first tokens."""
        tasks = [task for group in groups for task in group.tasks]
        prompt_ends = copy_async([prompt_end(task.prompt, PROMPT_TAIL) for task in tasks], self._decoder.device)
        slots, rows = self._encode_rows(groups, free)
        sampling = SamplingState(rows.temperatures, rows.seeds, torch.zeros_like(slots))
        chosen, logprobs = self._rules.choose_first(
            rows.logits, rows.rules, sampling if has_sampled(tasks) else None, rows.has_begun
        )
        self._rules.start_rows(self._state.rules, slots, rows.rules, chosen)
        self._state.start_rows(slots, rows.prompt_lengths, prompt_ends, rows.no_speech, rows.limits, sampling)
        self._state.append(slots, chosen[:, None], logprobs[:, None])
        self._slots.assign(free[: len(tasks)], tasks)

    def _compact_slots(self) -> None:
        """Moves the last rows into the free slots before them."""
        extent = self._slots.extent()
        sources, targets = self._slots.compact()
        self._cache.move_rows(sources, targets, extent.text_positions, extent.encoder_positions)
        if self._record is not None:
            self._record.move_rows(sources, targets, extent.text_positions)
        if self._active_drafter is not None:
            self._active_drafter.move_rows(sources, targets, extent)
        self._state.move_rows(sources, targets)

    def _run_steps(self) -> None:
        """Runs the steps between two polls. With drafts, each adds more tokens, so they are fewer."""
        if self._active_drafter is None or self._speculation is None:
            self._decode_steps(self._policy.steps_per_poll)
            return
        max_drafts = self._speculation.max_drafts
        for _ in range(max(1, self._policy.steps_per_poll // (max_drafts + 1))):
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
        is_typical = True
        if self._active_drafter is not None and trial.next_is_speculative:
            self._speculative_step(self._active_drafter, speculation.max_drafts)
        else:
            self._decode_steps(1)
            is_typical = not self._graphs.has_prepared
            self._num_pending = min(
                self._num_pending + 1, PROMPT_TAIL
            )  # the cache of the assistant is one token further behind
        seconds = device_time(self._decoder.device) - began
        ended = self._poll_finished()
        tokens = self._slots.num_tokens - before + len(self._slots.ended_slots(ended))
        trial.record_step(seconds, tokens, is_typical)
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
            ids,
            positions,
            self._cache,
            shape.text_positions,
            shape.encoder_positions,
            shape.is_ragged,
            record=self._record,
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

    def _retire(self, ended: Sequence[bool]) -> list[tuple[int, DecodingResult]]:
        results = super()._retire(ended)
        if self._speculation is not None and self._active_drafter is not None:
            for _, each in results:
                self._speculation.record_result(each)
        return results
