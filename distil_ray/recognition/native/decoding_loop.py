"""The decoder loop: many chunks at once, each leaving as soon as its text has ended.

Chunks wait in a queue; those being decoded hold slots of the cache. Once a quarter of the slots is free, waiting
chunks are encoded into them (one at a time would pay the prompt's pass over all weights for each); with none waiting
the last rows close the gaps and a pass gets smaller. Retiring every row at once was measured to cost more than the
passes that it saves. A chunk's tokens depend on nothing but the chunk: its window is its own, padding is masked, and
rows never mix. It knows no text, no languages and no gate but the limits that a chunk brings with it.

A pass gives each row its next token. With an assistant (drafting.py) it first drafts some tokens of each row, and the
pass takes them all in: each row keeps those that the main model would have chosen itself and the first that it chose
otherwise, so that the rows' texts grow by different lengths. What the caches hold of the other drafts is written over.

On a GPU the host asks how the rows stand only every few passes; between those points nothing waits for the device, and
what the host has to do meanwhile (to look for repetition, to send the next chunks, whatever the caller does with a
text) it does while the device works on.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from distil_ray.recognition.base import Alignment
from distil_ray.recognition.native.alignment import Aligner
from distil_ray.recognition.native.batch_state import PROMPT_TAIL, BatchState
from distil_ray.recognition.native.cuda_graphs import GraphRunner, create_recorder
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
from distil_ray.recognition.native.logits_rules import LogitsRules, SamplingState, TimestampState
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
from distil_ray.whisper.features import FRAMES_PER_POSITION, SAMPLES_PER_POSITION, LogMel
from distil_ray.whisper.tokenizer import Tokens

REFILL_DIVISOR = 4  # slots / this many must be free before rows move or new ones come
SPEECH_MARGIN_POSITIONS = 10  # encoder positions (20 ms) behind a chunk's end that an assistant hears in full
MIN_PENDING_TOKENS = (
    2  # last tokens that an assistant has not heard when it begins to draft, if all its drafts were kept
)


class DecodingLoop:
    """Takes tasks, gives `Decoded`; holds the caches between calls."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        rules: LogitsRules,
        log_mel: LogMel,
        tokens: Tokens,
        *,
        slots: int,
        counts: DecodingStats,
        note: Callable[[str], None],
        aligner: Aligner,
        times_of: Callable[[DecodingTask, DecodingResult], AlignmentLevel],
        speculation: Speculation | None = None,
    ) -> None:
        """`note` is told what had to be given up; `times_of`: which times a text gets."""
        self._encoder, self._decoder, self._rules, self._log_mel = encoder, decoder, rules, log_mel
        self._aligner, self._times_of = aligner, times_of
        self._no_speech = tokens.no_speech
        self._slots = SlotTable(slots, encoder.num_heard)
        self._pace = policy_for(decoder.device)
        self._graphs = GraphRunner(create_recorder(decoder.device), note)
        self._cache = decoder.cache(slots)
        self._largest = StepShape(slots, decoder.room, self._cache.cross_mask.shape[1], True, 0, False)
        self._rows = BatchState(rules.new_state(slots), slots, decoder.max_positions + 1, tokens.eot, decoder.device)
        self._every = torch.arange(slots, device=decoder.device)
        self._columns = torch.arange(SPARE_POSITIONS + 1, device=decoder.device)
        self._counts = counts
        self._speculation = speculation
        self._drafter: Drafter | None = None
        if speculation is not None and speculation.assistant is not None:
            self._drafter = Drafter(speculation, speculation.assistant, rules, slots, tokens.eot)
        self._active: Drafter | None = None  # in this run
        self._unheard = MIN_PENDING_TOKENS

    @torch.inference_mode()
    def run(self, queue: TaskQueue) -> Iterator[tuple[int, DecodingResult]]:
        """(index, what was decoded) of all tasks in `queue`, in the order in which they end.

        What the caller adds to the queue before it asks for the next result is decoded in the same run.
        """
        tasks = queue.take()
        waiting = self._grouped(tasks)
        self._slots.clear()
        window = self._slots.longest_window(tasks) if tasks else 0
        self._cache.fit(window)
        self._active = None if has_sampled(tasks) else self._drafter
        if self._active is not None:
            self._active.fit(window)
        done: list[tuple[int, DecodingResult]] = []
        while waiting or len(self._slots) or done:
            if not (waiting or len(self._slots)):
                yield from done
                done = []
                waiting = self._grouped(queue.take())
                continue
            self._make_room(waiting)
            speculation = None if self._active is None else self._speculation
            if speculation is not None and speculation.trial is not None:
                ended = self._try(speculation, speculation.trial)
                yield from done
            else:
                self._go_on(0 if speculation is None else speculation.most)
                yield from done
                self._prepare(waiting)
                ended = self._look()
            done = self._finished(ended)
            waiting.extend(self._grouped(queue.take()))

    @torch.inference_mode()
    def first_logits(self, tasks: Sequence[DecodingTask]) -> Iterator[tuple[int, Tensor]]:
        """(index, float32 logits of shape (vocabulary,) after the prompt's first token), before any rule."""
        self._cache.fit(self._slots.longest_window(tasks))
        self._active = None
        waiting = self._grouped(tasks)
        while groups := pop_groups(waiting, self._slots.number):
            batch = [task for group in groups for task in group.tasks]
            taking = range(len(batch))
            logits = self._hear(groups, taking, self._every[: len(batch)], _prompts(batch, self._every.device))
            yield from zip((task.index for task in batch), logits[:, 0], strict=True)

    def _grouped(self, tasks: Sequence[DecodingTask]) -> deque[TaskGroup]:
        return group_tasks(tasks, self._pace.encode_positions, max(1, self._slots.number // REFILL_DIVISOR))

    def _hear(self, groups: Sequence[TaskGroup], taking: Sequence[int], slots: Tensor, prompts: Tensor) -> Tensor:
        """Encodes `groups` into slots and passes their prompts: float32 logits, shape (rows, 2, vocabulary).

        `taking` and `slots` are the same numbers, on the host and on the device. The logits are
        those after the first and after the last token of each prompt, before any rule.
        """
        begin = 0
        for group in groups:
            mine = slots[begin : begin + len(group.tasks)]
            features = self._log_mel.features(group.stage(self._log_mel))
            own = group.num_frames // FRAMES_PER_POSITION
            encoded = self._encoder(features)
            self._decoder.listen(encoded, self._cache, mine, own)
            if self._active is not None:
                spoken = min(
                    own,
                    -(-max(len(task.pcm) for task in group.tasks) // SAMPLES_PER_POSITION) + SPEECH_MARGIN_POSITIONS,
                )
                self._active.listen(features, encoded, taking[begin : begin + len(mine)], mine, own, spoken)
            begin += len(mine)
        window = self._slots.longest_window(task for group in groups for task in group.tasks)
        if self._active is not None:
            self._active.prefill(prompts, slots, window)
        hidden = self._decoder.prefill(prompts, self._cache, slots, window)
        return self._decoder.logits(torch.stack([hidden[:, 0], hidden[:, -1]], dim=1))  # a list of places would wait

    def _make_room(self, waiting: deque[TaskGroup]) -> None:
        """Fills free slots with waiting chunks, or closes the gaps, where enough are free to be worth the copies."""
        used, held = self._slots.used, len(self._slots)
        if waiting:
            free = self._slots.free
            if len(free) * REFILL_DIVISOR >= self._slots.number:
                self._admit(pop_groups(waiting, len(free)), free)
        elif (used - held) * REFILL_DIVISOR >= used:
            self._close_gaps()

    def _admit(self, groups: Sequence[TaskGroup], free: Sequence[int]) -> None:
        tasks = [task for group in groups for task in group.tasks]
        taking, device = free[: len(tasks)], self._decoder.device
        # All that the host has to say is sent before the encoder is started, so that nothing waits for that.
        slots, prompts = copy_async(taking, device), _prompts(tasks, device)
        temperatures = copy_async([task.temperature for task in tasks], device)
        seeds, limits = copy_async([[task.seed, task.max_tokens] for task in tasks], device).unbind(dim=1)
        draw = SamplingState(temperatures, seeds, torch.zeros_like(slots))
        logits = self._hear(groups, taking, slots, prompts)
        no_speech = logits[:, 0].softmax(dim=-1)[:, self._no_speech]
        chosen, logprobs = self._rules.choose_first(logits[:, 1], draw if has_sampled(tasks) else None)
        self._rules.begin(self._rows.times, slots, chosen)
        self._rows.begin(slots, prompts, no_speech, limits, draw)
        self._rows.append(slots, chosen[:, None], logprobs[:, None])
        self._slots.take(taking, tasks)

    def _close_gaps(self) -> None:
        """Moves the last rows into the free slots before them."""
        extent = self._slots.extent()
        sources, targets = self._slots.close_gaps()
        self._cache.move(sources, targets, extent.text, extent.window)
        if self._active is not None:
            self._active.move(sources, targets, extent)
        self._rows.move(sources, targets)

    def _go_on(self, most: int) -> None:
        """Passes, until the host shall look at the rows; with `most` drafts of a row, if any, in each."""
        num = max(1, self._pace.passes_unseen // (most + 1))
        if self._active is None:
            self._plain_passes(num)
            return
        for _ in range(num):
            self._drafted_pass(self._active, most)

    def _plain_passes(self, num: int) -> None:
        """So many passes without drafts, recorded ones where the device has such."""
        shape = self._shape(num)
        if self._pace.is_ahead:
            shape = shape.padded(self._largest, self._decoder.reads_by_length)
        for _ in range(num):
            self._graphs.do(shape, partial(self._plain_pass, shape))
        self._counts.passes += num
        self._slots.grow(num)

    def _shape(self, num_ids: int) -> StepShape:
        """What passes of so many ids a row, in all, take at most."""
        extent, slots = self._slots.extent(), self._slots
        text = min(extent.text + num_ids - 1, self._decoder.room)
        return StepShape(
            slots.used, text, extent.window, extent.is_ragged, slots.prompt_length, has_sampled(self._slots.tasks)
        )

    def _plain_pass(self, shape: StepShape) -> None:
        """Takes one token of each of the first rows further; knows nothing of the host's but `shape`."""
        rows = self._every[: shape.rows]
        ids, positions = self._last(rows, 1, shape.prompt)
        self._choose(rows, ids, positions, self._rows.times.of(rows), None, shape)

    def _try(self, speculation: Speculation, trial: SpeculationTrial) -> list[bool]:
        """One pass, timed, with drafts or without; a verdict may follow from it."""
        before, began = self._slots.num_tokens, device_time(self._decoder.device)
        if self._active is not None and trial.drafts_next:
            self._drafted_pass(self._active, speculation.most)
        else:
            self._plain_passes(1)
            self._unheard = min(self._unheard + 1, PROMPT_TAIL)  # the assistant has more to hear
        seconds = device_time(self._decoder.device) - began
        ended = self._look()
        trial.passed(seconds, self._slots.num_tokens - before + len(self._slots.ended(ended)))
        speculation.decide()
        if speculation.assistant is None:
            self._drafter = self._active = None
        return ended

    def _drafted_pass(self, drafter: Drafter, most: int) -> None:
        """Takes each row as many tokens further as are drafted rightly, of at most `most`, and one."""
        rows = self._every[: self._slots.used]
        state = self._rows.times.of(rows)
        drafts = self._draft(drafter, rows, state, most)
        ids, positions = self._last(rows, 1, self._slots.prompt_length)
        ids = torch.cat([ids, drafts], dim=1)
        positions = positions + self._columns[: ids.shape[1]]
        state = self._rules.along(state, drafts)
        self._choose(rows, ids, positions, state, drafts, self._shape(ids.shape[1]))
        self._counts.passes += 1
        self._slots.grow(ids.shape[1])

    def _choose(
        self,
        rows: Tensor,
        ids: Tensor,
        positions: Tensor,
        state: TimestampState,
        drafts: Tensor | None,
        shape: StepShape,
    ) -> None:
        """Passes `ids`, shape (rows, P), and gives the rows what is chosen; `state`: the rules' at each place."""
        hidden = self._decoder.step(ids, positions, self._cache, shape.text, shape.window, shape.is_ragged)
        draw = self._rows.draw(rows) if shape.is_sampled else None
        tokens, logprobs = self._rules.choose(self._decoder.logits(hidden).flatten(0, 1), state, draw)
        self._keep(rows, tokens.view_as(ids), logprobs.view_as(ids), drafts, state)

    def _draft(self, drafter: Drafter, rows: Tensor, state: TimestampState, most: int) -> Tensor:
        """Drafts of the rows, shape (rows, k)."""
        ids, positions = self._last(rows, self._unheard, self._slots.prompt_length)
        drafts = drafter.draft(ids, positions, state, ~self._rows.ended[rows], most, self._slots.extent())
        self._unheard = MIN_PENDING_TOKENS
        self._counts.drafts += drafts.shape[1] * len(self._slots)
        return drafts

    def _keep(
        self, rows: Tensor, tokens: Tensor, logprobs: Tensor, drafts: Tensor | None, state: TimestampState
    ) -> None:
        """Gives the rows what they keep of `tokens`, shape (rows, P); `state`: the rules' at each of these places."""
        agreed, places = None, rows
        if drafts is not None:
            agreed = count_accepted(drafts, tokens)
            places = rows * tokens.shape[1] + agreed
        self._rules.keep(self._rows.times, rows, state, places, tokens.flatten()[places])
        self._rows.append(rows, tokens, logprobs, agreed)

    def _last(self, rows: Tensor, num: int, prompt: int) -> tuple[Tensor, Tensor]:
        """The last `num` ids of each row and their positions, shape (rows, num), behind `prompt` ids."""
        ids, places = self._rows.last(rows, num)
        return ids, (places + prompt).clamp_(min=0)

    def _prepare(self, waiting: deque[TaskGroup]) -> None:
        """What the host does while the device is busy: it ends rows that repeat themselves, and sends chunks ahead."""
        if self._pace.is_ahead:
            self._cut(self._slots.held)
            stage_groups(waiting, self._slots.number // REFILL_DIVISOR, self._log_mel)

    def _look(self) -> list[bool]:
        """Which slots' rows have ended, by the device; those that repeat themselves do, now or after `_prepare`."""
        ended, counts, tokens = self._rows.look(self._slots.longest_text)
        self._slots.see(counts, tokens)
        held = self._slots.held
        for slot in self._cut([slot for slot in held if ended[slot]] if self._pace.is_ahead else held):
            ended[slot] = True
        return ended

    def _cut(self, slots: Sequence[int]) -> list[int]:
        """Ends those rows in `slots` that repeat themselves where the loop ends: which ones."""
        loops = self._slots.repeating(slots)
        for slot, num in loops.items():
            self._rows.cut(slot, num)
        return list(loops)

    def _finished(self, ended: Sequence[bool]) -> list[tuple[int, DecodingResult]]:
        """Takes the rows that have ended out of their slots."""
        slots = self._slots.ended(ended)
        if not slots:
            return []
        tasks = self._slots.leave(slots)
        decoded = self._rows.decoded(slots)
        self._counts.add(decoded)
        if self._speculation is not None and self._active is not None:
            for each in decoded:
                self._speculation.finished(each)
        timed = self._timed(tasks, decoded, slots)
        return [(task.index, each) for task, each in zip(tasks, timed, strict=True)]

    def _timed(
        self, tasks: Sequence[DecodingTask], decoded: Sequence[DecodingResult], slots: Sequence[int]
    ) -> list[DecodingResult]:
        """With the times that are wanted; asked before other chunks are encoded into their slots."""
        wanted = [self._times_of(task, each) for task, each in zip(tasks, decoded, strict=True)]
        results = list(decoded)
        places = [place for place, times in enumerate(wanted) if times is not AlignmentLevel.NONE]
        if not places:
            return results
        mine = [slots[place] for place in places]
        found = self._aligner.ends(
            [tasks[place].prompt for place in places],
            [decoded[place].tokens for place in places],
            [len(tasks[place].pcm) for place in places],
            self._cache,
            mine,
            [wanted[place] is AlignmentLevel.TOKENS for place in places],
        )
        for place, times, sure in zip(places, found, self._rows.probabilities(mine), strict=True):
            alignment = None if times.ends is None else Alignment(times.ends, tuple(sure))
            results[place] = replace(decoded[place], alignment=alignment, last_position=times.last)
        return results


def _prompts(tasks: Sequence[DecodingTask], device: torch.device) -> Tensor:
    """Shape (rows, P)."""
    return copy_async([task.prompt for task in tasks], device)
