"""Which chunk holds which slot, as the host knows it without asking the device: between looks counts are upper bounds.

Knows tasks and numbers, no tensors.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from distil_ray.recognition.native.decoding_task import DecodingTask
from distil_ray.whisper.features import FRAMES_PER_POSITION, MAX_FRAMES, LogMel, StagedBatch

REPEAT_CHECK_TOKENS = 8  # of a row, between two looks for repetition


@dataclass(slots=True)
class _Slot:
    """A slot's task, the tokens that its text may have by now, and those that were looked at for repetition.

    ``unchecked_tokens``: the text as it was seen, if it has still to be looked at.
    """

    task: DecodingTask
    count: int = 1
    num_checked: int = 0
    unchecked_tokens: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the rows that are entry reach, at most: positions of text (the next one included) and of windows.

    ``is_ragged``: some window is shorter than 30 s.
    """

    text: int
    window: int
    is_ragged: bool


class SlotTable:
    """The slots of a loop; `output_positions` tells the encoder positions of a window of so many frames."""

    def __init__(self, number: int, output_positions: Callable[[int], int]) -> None:
        self.number = number
        self._output_positions = output_positions
        self._occupied: dict[int, _Slot] = {}

    def __len__(self) -> int:
        """Slots that are entry."""
        return len(self._occupied)

    def clear(self) -> None:
        self._occupied.clear()

    @property
    def tasks(self) -> list[DecodingTask]:
        return [entry.task for entry in self._occupied.values()]

    @property
    def num_rows(self) -> int:
        """Slots up to the last one that is entry."""
        return max(self._occupied, default=-1) + 1

    @property
    def free(self) -> list[int]:
        return [slot for slot in range(self.number) if slot not in self._occupied]

    @property
    def occupied(self) -> list[int]:
        return list(self._occupied)

    @property
    def prompt_length(self) -> int:
        """Ids in the prompt of each task: they are of one length."""
        return len(next(iter(self._occupied.values())).task.prompt)

    @property
    def max_text_tokens(self) -> int:
        """Tokens that a text may have by now, at most."""
        return max(entry.count for entry in self._occupied.values())

    @property
    def num_tokens(self) -> int:
        return sum(entry.count for entry in self._occupied.values())

    def extent(self) -> Extent:
        text = self.prompt_length + self.max_text_tokens
        is_ragged = any(entry.task.num_frames < MAX_FRAMES for entry in self._occupied.values())
        return Extent(text, self.longest_window(self.tasks), is_ragged)

    def longest_window(self, tasks: Iterable[DecodingTask]) -> int:
        """Encoder positions of the longest window, silence behind it included."""
        return max(self._output_positions(task.num_frames) for task in tasks)

    def assign(self, slots: Iterable[int], tasks: Iterable[DecodingTask]) -> None:
        """Tasks whose first token is known take slots."""
        self._occupied.update((slot, _Slot(task)) for slot, task in zip(slots, tasks, strict=True))

    def release(self, slots: Iterable[int]) -> list[DecodingTask]:
        """The tasks of slots that are free now."""
        return [self._occupied.pop(slot).task for slot in slots]

    def compact(self) -> tuple[list[int], list[int]]:
        """Gives the last ones the free slots before them: which slots, and which instead."""
        staying = len(self._occupied)
        targets = [slot for slot in range(staying) if slot not in self._occupied]
        sources = [slot for slot in self._occupied if slot >= staying]
        for source, target in zip(sources, targets, strict=True):
            self._occupied[target] = self._occupied.pop(source)
        return sources, targets

    def ended_slots(self, flags: Sequence[bool]) -> list[int]:
        """Slots that are held by rows that have ended, by a flag for each slot."""
        return [slot for slot in self._occupied if flags[slot]]

    def add_tokens(self, num: int) -> None:
        """A pass may have brought so many tokens."""
        for entry in self._occupied.values():
            entry.count += num

    def update(self, counts: Sequence[int], tokens: NDArray[np.int64]) -> None:
        """Takes the number of tokens in each slot, and the tokens, shape (slots, at least the longest text)."""
        every = REPEAT_CHECK_TOKENS
        for slot, entry in self._occupied.items():
            entry.count = counts[slot]
            if entry.task.is_repetitive is not None and entry.count // every > entry.num_checked // every:
                entry.unchecked_tokens = tokens[slot, : entry.count]

    def find_repetitions(self, slots: Iterable[int]) -> dict[int, int]:
        """Of `slots`, those whose texts as seen have a loop that ends at a multiple of so many tokens, and at which."""
        every = REPEAT_CHECK_TOKENS
        found = {}
        for slot in slots:
            entry = self._occupied[slot]
            seen, entry.unchecked_tokens = entry.unchecked_tokens, None
            if seen is None or entry.task.is_repetitive is None:
                continue
            text: list[int] = seen.tolist()
            ends = range((entry.num_checked // every + 1) * every, len(text) + 1, every)
            entry.num_checked = len(text)
            loops = (end for end in ends if entry.task.is_repetitive(text[:end]))
            if (end := next(loops, None)) is not None:
                found[slot] = end
        return found


class TaskQueue:
    """The tasks of one run of the loop; what follows from a result may join them while it goes on.

    A run that ends early (for want of memory) is begun again with the tasks that have no result.
    """

    def __init__(self, tasks: Iterable[DecodingTask]) -> None:
        """`tasks`: of different chunks, with prompts of one length; sampled ones are apart from the others."""
        self._pending = {task.index: task for task in tasks}
        self._new = list(self._pending.values())
        self.longest_window = max((task.num_frames for task in self._new), default=0)  # frames

    def __bool__(self) -> bool:
        """Whether a task has no result yet."""
        return bool(self._pending)

    def accepts(self, task: DecodingTask) -> bool:
        """Whether a task may join: its window fits, and it is not sampled where the others are not."""
        return task.num_frames <= self.longest_window and task.temperature == 0.0

    def add(self, task: DecodingTask) -> None:
        """A task that `accepts` allows, of a chunk whose last one has its result."""
        self._pending[task.index] = task
        self._new.append(task)

    def finish(self, index: int) -> DecodingTask:
        """The task of a chunk, which has its result."""
        return self._pending.pop(index)

    def take(self) -> list[DecodingTask]:
        """The tasks that have come since the last call."""
        new, self._new = self._new, []
        return new

    def restart(self) -> None:
        """All tasks without a result come again."""
        self._new = list(self._pending.values())


class TaskGroup:
    """Tasks with windows of one length, in order."""

    def __init__(self, tasks: Sequence[DecodingTask]) -> None:
        self.tasks = list(tasks)
        self._staged: StagedBatch | None = None

    @property
    def num_frames(self) -> int:
        return self.tasks[0].num_frames

    def stage(self, log_mel: LogMel) -> StagedBatch:
        """Their samples on the device, sent there at the first call."""
        if self._staged is None:
            self._staged = log_mel.stage([task.pcm for task in self.tasks], self.num_frames)
        return self._staged


def group_tasks(tasks: Sequence[DecodingTask], encode_positions: int, most: int) -> deque[TaskGroup]:
    """All tasks; a group has at most `encode_positions` in its windows and `most` tasks, but one at least."""
    groups: deque[TaskGroup] = deque()
    size = 1
    for task in sorted(tasks, key=lambda task: (-task.num_frames, -len(task.pcm), task.index)):
        if groups and groups[-1].num_frames == task.num_frames and len(groups[-1].tasks) < size:
            groups[-1].tasks.append(task)
        else:
            groups.append(TaskGroup([task]))
            fitting = max(1, encode_positions * FRAMES_PER_POSITION // task.num_frames)
            size = -(-most // -(-most // fitting))  # even parts of `most`, so that free slots are filled to the last
    return groups


def pop_groups(groups: deque[TaskGroup], free: int) -> list[TaskGroup]:
    """The first groups, as far as so many slots are free for their tasks; they leave `groups`."""
    found: list[TaskGroup] = []
    while groups and len(groups[0].tasks) <= free:
        free -= len(groups[0].tasks)
        found.append(groups.popleft())
    return found


def stage_groups(groups: deque[TaskGroup], num_tasks: int, log_mel: LogMel) -> None:
    """Stages the first groups, as far as they have `num_tasks` in all."""
    for group in groups:
        num_tasks -= len(group.tasks)
        if num_tasks < 0:
            return
        group.stage(log_mel)


TEXT_STEP = 64  # positions of text, and
WINDOW_STEP = 256  # encoder positions, in whose multiples recorded passes come where they are not read by length
MIN_ROWS = 8


@dataclass(frozen=True, slots=True)
class StepShape:
    """All that a pass over the rows takes from the host; a recorded one is good for another of the same shape.

    ``text`` and ``window`` bound what any row holds, the positions to come included; ``is_ragged``: some window is
    shorter than 30 s; ``prompt``: ids in every prompt; ``is_sampled``: a temperature chooses some of the tokens.
    """

    rows: int
    text: int
    window: int
    is_ragged: bool
    prompt: int
    is_sampled: bool

    def padded(self, largest: "StepShape", reads_by_length: bool) -> "StepShape":
        """The smallest of the few shapes that this one fits into; none is larger than `most`.

        `reads_by_length`: attention reads each row's own positions, whatever the shape says.
        """
        return StepShape(
            rows=min(_round_up_rows(self.rows), largest.rows),
            text=largest.text if reads_by_length else min(_round_up(self.text, TEXT_STEP), largest.text),
            window=largest.window if reads_by_length else min(_round_up(self.window, WINDOW_STEP), largest.window),
            is_ragged=True,  # the cache has more positions than a full window
            prompt=self.prompt,
            is_sampled=self.is_sampled,
        )


@dataclass(frozen=True, slots=True)
class SchedulingPolicy:
    """``encode_positions`` of windows of one length are encoded together, one window at least; ``steps_per_poll`` go by
    between two looks of the host, and as many may be wasted on a row that has ended; ``runs_ahead``: the device works on
    while the host prepares what comes next.
    """

    encode_positions: int
    steps_per_poll: int
    runs_ahead: bool


CPU_POLICY = SchedulingPolicy(
    encode_positions=1, steps_per_poll=1, runs_ahead=False
)  # more windows only spill out of the caches
GPU_POLICY = SchedulingPolicy(encode_positions=51_200, steps_per_poll=8, runs_ahead=True)  # 34 full windows, 64 of 16 s


def policy_for(device: torch.device) -> SchedulingPolicy:
    return CPU_POLICY if device.type == "cpu" else GPU_POLICY


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _round_up_rows(rows: int) -> int:
    """A power of two or one and a half of one: at most a third of the rows are padding."""
    power = max(MIN_ROWS, 1 << (rows - 1).bit_length())
    return power * 3 // 4 if rows <= power * 3 // 4 and power > MIN_ROWS else power
