"""The decoder loop: many chunks at once, each leaving as soon as its text has ended.

Chunks wait in a queue; those being decoded hold slots of the cache. Once a quarter of the slots is free, waiting
chunks are encoded into them (one at a time would pay the prompt's pass over all weights for each); with none waiting
the last rows close the gaps and the step gets smaller. Retiring every row at once was measured to cost more than the
steps that it saves. A chunk's tokens depend on nothing but the chunk: its window is its own, padding is masked, and
rows never mix. It knows no text, no languages and no gate but the limits that a chunk brings with it.

On a GPU the host asks how the rows stand only every few tokens; between those points nothing waits for the device.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.alignment import Aligner
from distil_ray.recognition.decoder import Decoder
from distil_ray.recognition.encoder import Encoder
from distil_ray.recognition.recognizer import Alignment
from distil_ray.recognition.rows import Rows
from distil_ray.recognition.rules import Rules
from distil_ray.recognition.sampling import Draw
from distil_ray.whisper.features import FRAMES_PER_POSITION, MAX_FRAMES, LogMel
from distil_ray.whisper.tokens import Tokens

REFILL_SHARE = 4  # slots / this many must be free before rows move or new ones come
GPU_STEPS_UNSEEN = 8  # steps between two looks at the rows; up to as many are wasted on a row that has ended
CPU_ENCODE_ROWS = 1  # windows encoded together; more only spill out of the processor's caches
GPU_ENCODE_ROWS = 32
REPEAT_CHECK_STEPS = 8  # steps between two looks for repetition


@dataclass(frozen=True, slots=True)
class Task:
    """One chunk to decode: int16 `pcm`, shape (num_samples,), in a window of `num_frames`, after `prompt`.

    Decoding stops at the end token, after `max_tokens`, and where `repeats` (if given) says so of the tokens so far.
    Above temperature 0 tokens are sampled, from `seed` (sampling.py).
    """

    index: int
    pcm: NDArray[np.int16]
    prompt: tuple[int, ...]
    num_frames: int
    max_tokens: int
    repeats: Callable[[Sequence[int]], bool] | None = None
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """The tokens of one chunk, without prompt and end token; ``ended``: the end token came by itself.

    ``alignment``: None unless the loop has an aligner.
    """

    tokens: tuple[int, ...]
    sum_logprob: float
    no_speech_prob: float
    ended: bool
    alignment: Alignment | None


@dataclass(slots=True)
class _Held:
    """A slot's task, and the positions that its text may hold by now, the next one included."""

    task: Task
    length: int


class GreedyLoop:
    """Takes tasks, gives `Decoded`; holds the cache between calls. With an `aligner` tokens get their times."""

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        rules: Rules,
        log_mel: LogMel,
        tokens: Tokens,
        slots: int,
        aligner: Aligner | None = None,
    ) -> None:
        self._encoder, self._decoder, self._rules, self._log_mel = encoder, decoder, rules, log_mel
        self._aligner = aligner
        self._no_speech = tokens.no_speech
        self._slots = slots
        on_cpu = decoder.device.type == "cpu"
        self._look_every = 1 if on_cpu else GPU_STEPS_UNSEEN
        self._encode_rows = CPU_ENCODE_ROWS if on_cpu else GPU_ENCODE_ROWS
        self._cache = decoder.cache(slots)
        self._rows = Rows(rules.new_state(slots), slots, decoder.max_positions + 1, tokens.eot, decoder.device)
        self._every = torch.arange(slots, device=decoder.device)
        self._held: dict[int, _Held] = {}

    @torch.inference_mode()
    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Decoded]]:
        """(index, what was decoded) of all `tasks`, in the order in which they end; their prompts are of one length."""
        waiting = deque(sorted(tasks, key=lambda task: (-task.num_frames, -len(task.pcm), task.index)))
        self._held.clear()
        self._cache.fit(self._longest_window(tasks))
        steps = 0
        while waiting or self._held:
            self._make_room(waiting)
            for _ in range(self._look_every):
                self._step()
            steps += self._look_every
            if steps % REPEAT_CHECK_STEPS == 0:
                self._stop_repeating()
            yield from self._finished()

    @torch.inference_mode()
    def first_logits(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Tensor]]:
        """(index, float32 logits of shape (vocabulary,) after the prompt's first token), before any rule."""
        self._cache.fit(self._longest_window(tasks))
        for begin in range(0, len(tasks), self._slots):
            batch = tasks[begin : begin + self._slots]
            logits = self._hear(batch, self._every[: len(batch)])
            yield from zip((task.index for task in batch), logits[:, 0], strict=True)

    def _hear(self, tasks: Sequence[Task], slots: Tensor) -> Tensor:
        """Encodes `tasks` into `slots` and passes their prompts: float32 logits, shape (rows, 2, vocabulary).

        Those after the first and after the last token of each prompt, before any rule.
        """
        begin = 0
        while begin < len(tasks):
            end = begin + 1
            while end < min(len(tasks), begin + self._encode_rows) and tasks[end].num_frames == tasks[begin].num_frames:
                end += 1
            features = self._log_mel([task.pcm for task in tasks[begin:end]], tasks[begin].num_frames)
            own = tasks[begin].num_frames // FRAMES_PER_POSITION
            self._decoder.listen(self._encoder(features), self._cache, slots[begin:end], own)
            begin = end
        prompts = torch.tensor([task.prompt for task in tasks], device=slots.device)
        hidden = self._decoder.prefill(prompts, self._cache, slots, self._longest_window(tasks))
        return self._decoder.logits(hidden[:, [0, -1]])

    def _make_room(self, waiting: deque[Task]) -> None:
        """Fills free slots with waiting chunks, or closes the gaps, where enough are free to be worth the copies."""
        used = max(self._held, default=-1) + 1
        if waiting:
            free = [slot for slot in range(self._slots) if slot not in self._held]
            if len(free) * REFILL_SHARE >= self._slots:
                self._admit([waiting.popleft() for _ in range(min(len(free), len(waiting)))], free)
        elif (used - len(self._held)) * REFILL_SHARE >= used:
            self._close_gaps()

    def _admit(self, tasks: Sequence[Task], free: Sequence[int]) -> None:
        slots = torch.tensor(free[: len(tasks)], device=self._decoder.device)
        logits = self._hear(tasks, slots)
        no_speech = logits[:, 0].softmax(dim=-1)[:, self._no_speech]
        draw = Draw(
            torch.tensor([task.temperature for task in tasks], device=slots.device),
            torch.tensor([task.seed for task in tasks], device=slots.device),
            torch.zeros_like(slots),
        )
        chosen, logprobs = self._rules.choose_first(logits[:, 1], draw if _is_sampled(tasks) else None)
        limits = torch.tensor([task.max_tokens for task in tasks], device=slots.device)
        self._rules.forget(self._rows.times, slots)
        self._rules.remember(self._rows.times, chosen, slots)
        self._rows.begin(slots, chosen, logprobs, no_speech, limits, draw)
        for slot, task in zip(free, tasks, strict=False):
            self._held[slot] = _Held(task, length=len(task.prompt) + 1)

    def _close_gaps(self) -> None:
        """Moves the last rows into the free slots before them."""
        staying = len(self._held)
        targets = [slot for slot in range(staying) if slot not in self._held]
        sources = [slot for slot in self._held if slot >= staying]
        self._cache.move(
            sources, targets, self._longest_text(), self._longest_window(held.task for held in self._held.values())
        )
        self._rows.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self._held[target] = self._held.pop(source)

    def _step(self) -> None:
        tasks = [held.task for held in self._held.values()]
        rows = self._every[: max(self._held) + 1]
        hidden = self._decoder.step(
            self._rows.last[rows],
            self._rows.count[rows] + (len(tasks[0].prompt) - 1),
            self._cache,
            self._longest_text(),
            self._longest_window(tasks),
            is_ragged=any(task.num_frames < MAX_FRAMES for task in tasks),
        )
        draw = self._rows.draw(rows) if _is_sampled(tasks) else None
        chosen, logprobs = self._rules.choose(self._decoder.logits(hidden), self._rows.times, draw)
        self._rules.remember(self._rows.times, chosen, rows)
        self._rows.append(chosen, logprobs, rows)
        for held in self._held.values():
            held.length += 1

    def _stop_repeating(self) -> None:
        watched = {slot: held.task.repeats for slot, held in self._held.items() if held.task.repeats is not None}
        if watched:
            texts = zip(watched.items(), self._rows.texts(list(watched)), strict=True)
            self._rows.ended[[slot for (slot, repeats), text in texts if repeats(text)]] = True

    def _finished(self) -> list[tuple[int, Decoded]]:
        """Takes the rows that have ended out of their slots."""
        over = self._rows.ended.tolist()
        slots = [slot for slot in self._held if over[slot]]
        if not slots:
            return []
        tasks = [self._held.pop(slot).task for slot in slots]
        texts, outcomes = self._rows.texts(slots), self._rows.outcomes(slots)
        alignments = self._align(tasks, texts, slots)
        return [
            (task.index, Decoded(tuple(text), *outcome, alignment))
            for task, text, outcome, alignment in zip(tasks, texts, outcomes, alignments, strict=True)
        ]

    def _align(
        self, tasks: Sequence[Task], texts: Sequence[Sequence[int]], slots: Sequence[int]
    ) -> Sequence[Alignment | None]:
        """When the tokens of rows were spoken; asked before anything else is heard into their slots."""
        if self._aligner is None:
            return [None] * len(tasks)
        ends = self._aligner.ends(
            [task.prompt for task in tasks], texts, [len(task.pcm) for task in tasks], self._cache, slots
        )
        probabilities = self._rows.probabilities(slots)
        return [Alignment(row, tuple(sure)) for row, sure in zip(ends, probabilities, strict=True)]

    def _longest_text(self) -> int:
        """Positions that the longest text may hold, the next one included; an upper bound that needs no device."""
        return min(max(held.length for held in self._held.values()), self._decoder.max_positions)

    def _longest_window(self, tasks: Iterable[Task]) -> int:
        """Encoder positions of the longest window, silence behind it included."""
        return max(self._encoder.num_heard(task.num_frames) for task in tasks)


def _is_sampled(tasks: Iterable[Task]) -> bool:
    """Whether a temperature chooses any of the tokens: greedy rows alone are spared the noise."""
    return any(task.temperature > 0 for task in tasks)
