"""Scheduling of the decoding loop on the host: slots, queues, groups, and the shapes of steps.

`TaskQueue` and `TaskGroup` hold the chunks that wait; a group is encoded at once. `SlotTable` records which chunk holds
which slot. `SchedulingPolicy` and `StepShape` say how the work is divided: a CPU is given exactly what is needed, as
every row costs. A GPU is given large pieces, ahead of time, in a few shapes that can be recorded (cuda_graphs.py): a
step over a few more rows than are in use takes no longer. Values that were measured are in docs/gpu.md.

Between polls of the device, the numbers of tokens are upper bounds. The module knows tasks and numbers, no tensors.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distil_ray.recognition.native.decoding_task import DecodingTask, has_sampled
from distil_ray.whisper.features import FRAMES_PER_POSITION, HOP, MAX_FRAMES, LogMel, StagedBatch

REPEAT_CHECK_TOKENS = 8  # of a row, between two checks for repetition

# Recorded steps come in multiples of these, where attention does not read each row by its length.
TEXT_STEP = 64  # decoder positions
WINDOW_STEP = 256  # encoder positions
MIN_ROWS = 8  # of a recorded step


@dataclass(slots=True)
class _Slot:
    """The task in a slot and what the host knows of its text."""

    task: DecodingTask
    count: int = 1  # of tokens, at most
    num_polled: int = 0  # tokens as of the last update
    num_checked: int = 0  # tokens already checked for repetition
    unchecked_tokens: NDArray[np.int64] | None = None  # the text as of the last update, if it is still to be checked


@dataclass(frozen=True, slots=True)
class Extent:
    """Upper bounds on what the occupied rows hold."""

    text_positions: int  # prompt and text, the next token included
    encoder_positions: int
    is_ragged: bool  # some window is shorter than 30 s


class SlotTable:
    """Assignment of tasks to the slots of a loop."""

    def __init__(self, number: int, output_positions: Callable[[int], int]) -> None:
        """Creates a table of `number` free slots.

        `output_positions` returns the encoder positions of a window of so many frames.
        """
        self.number = number
        self._output_positions = output_positions
        self._occupied: dict[int, _Slot] = {}

    def __len__(self) -> int:
        """Returns the number of occupied slots."""
        return len(self._occupied)

    def clear(self) -> None:
        self._occupied.clear()

    @property
    def tasks(self) -> list[DecodingTask]:
        """The tasks in the slots."""
        return [entry.task for entry in self._occupied.values()]

    @property
    def num_rows(self) -> int:
        """Slots up to and including the last occupied one."""
        return max(self._occupied, default=-1) + 1

    @property
    def free(self) -> list[int]:
        return [slot for slot in range(self.number) if slot not in self._occupied]

    @property
    def occupied(self) -> list[int]:
        return list(self._occupied)

    @property
    def max_text_tokens(self) -> int:
        """Upper bound on the tokens of any text."""
        return max(entry.count for entry in self._occupied.values())

    @property
    def num_tokens(self) -> int:
        """Upper bound on the tokens of all texts together."""
        return sum(entry.count for entry in self._occupied.values())

    def extent(self) -> Extent:
        """Returns upper bounds on what the occupied rows hold."""
        text_positions = max(len(entry.task.prompt) + entry.count for entry in self._occupied.values())
        is_ragged = any(entry.task.num_frames < MAX_FRAMES for entry in self._occupied.values())
        return Extent(text_positions, self.longest_window(self.tasks), is_ragged)

    def windows(self, tasks: Iterable[DecodingTask]) -> list[int]:
        """Returns the encoder positions of each window, silence behind it included."""
        return [self._output_positions(task.num_frames) for task in tasks]

    def longest_window(self, tasks: Iterable[DecodingTask]) -> int:
        """Returns the encoder positions of the longest window."""
        return max(self.windows(tasks))

    def assign(self, slots: Iterable[int], tasks: Iterable[DecodingTask]) -> None:
        """Assigns tasks, whose first token is known, to free slots."""
        self._occupied.update((slot, _Slot(task)) for slot, task in zip(slots, tasks, strict=True))

    def release(self, slots: Iterable[int]) -> list[DecodingTask]:
        """Frees slots and returns their tasks."""
        return [self._occupied.pop(slot).task for slot in slots]

    def compact(self) -> tuple[list[int], list[int]]:
        """Moves the last tasks into the free slots before them. Returns the old and the new slots."""
        num_kept = len(self._occupied)
        targets = [slot for slot in range(num_kept) if slot not in self._occupied]
        sources = [slot for slot in self._occupied if slot >= num_kept]
        for source, target in zip(sources, targets, strict=True):
            self._occupied[target] = self._occupied.pop(source)
        return sources, targets

    def ended_slots(self, flags: Sequence[bool]) -> list[int]:
        """Returns the occupied slots whose flag is set; `flags` has one for each slot."""
        return [slot for slot in self._occupied if flags[slot]]

    def add_tokens(self, num: int) -> None:
        """Raises the upper bound of each text by `num` tokens."""
        for entry in self._occupied.values():
            entry.count += num

    def update(self, ended: Sequence[bool], counts: Sequence[int], tokens: NDArray[np.int64]) -> None:
        """Takes the exact state of each slot.

        Args:
            ended: For each slot, whether its text has ended.
            counts: The number of tokens in each slot.
            tokens: Shape (slots, max_text_tokens or more).

        Raises:
            RuntimeError: A text that has not ended did not grow: a recorded step does not do its work.
        """
        every = REPEAT_CHECK_TOKENS
        for slot, entry in self._occupied.items():
            if counts[slot] <= entry.num_polled and not ended[slot]:
                raise RuntimeError("the steps of the decoder add no tokens")
            entry.count = entry.num_polled = counts[slot]
            if entry.task.is_repetitive is not None and entry.count // every > entry.num_checked // every:
                entry.unchecked_tokens = tokens[slot, : entry.count]

    def find_repetitions(self, slots: Iterable[int]) -> dict[int, int]:
        """Returns where the texts in `slots` are repetitive: number of tokens by slot.

        Texts are checked as of the last `update`, at every multiple of `REPEAT_CHECK_TOKENS` tokens that was not
        checked before.
        """
        every = REPEAT_CHECK_TOKENS
        found = {}
        for slot in slots:
            entry = self._occupied[slot]
            tokens, entry.unchecked_tokens = entry.unchecked_tokens, None
            if tokens is None or entry.task.is_repetitive is None:
                continue
            text: list[int] = tokens.tolist()
            ends = range((entry.num_checked // every + 1) * every, len(text) + 1, every)
            entry.num_checked = len(text)
            loops = (end for end in ends if entry.task.is_repetitive(text[:end]))
            if (end := next(loops, None)) is not None:
                found[slot] = end
        return found


class TaskQueue:
    """The tasks of one run of the loop. Follow-up tasks of a chunk may join while it runs.

    A run that ends early (out of memory) is started again with the tasks that have no result.
    """

    def __init__(self, tasks: Iterable[DecodingTask]) -> None:
        """Creates a queue.

        `tasks` belong to different chunks. Either all of them are sampled or none.
        """
        self._pending = {task.index: task for task in tasks}
        self._new = list(self._pending.values())
        self._is_sampled = has_sampled(self._new)
        self.longest_window = max((task.num_frames for task in self._new), default=0)  # frames

    def __bool__(self) -> bool:
        """Returns whether any task has no result yet."""
        return bool(self._pending)

    def accepts(self, task: DecodingTask) -> bool:
        """Returns whether a task may join: its window fits, and it is sampled if the others are, and only then."""
        return task.num_frames <= self.longest_window and has_sampled([task]) == self._is_sampled

    def add(self, task: DecodingTask) -> None:
        """Adds a task that `accepts` allows, of a chunk whose last task is finished."""
        self._pending[task.index] = task
        self._new.append(task)

    def finish(self, index: int) -> DecodingTask:
        """Removes and returns the task of a chunk, which has its result now."""
        return self._pending.pop(index)

    def take(self) -> list[DecodingTask]:
        """Returns the tasks added since the last call."""
        new, self._new = self._new, []
        return new

    def restart(self) -> None:
        """Makes `take` return all tasks without a result again."""
        self._new = list(self._pending.values())


class TaskGroup:
    """Tasks with windows of one length, in order, which are encoded together: chunks, or windows of sections."""

    def __init__(self, tasks: Sequence[DecodingTask]) -> None:
        self.tasks = list(tasks)
        self._staged: StagedBatch | None = None

    @property
    def num_frames(self) -> int:
        return self.tasks[0].num_frames

    def stage(self, log_mel: LogMel) -> StagedBatch:
        """Returns their samples on the device. They are sent at the first call."""
        if self._staged is None:
            self._staged = log_mel.stage([task.pcm for task in self.tasks], self.num_frames)
        return self._staged

    def prepare(self, log_mel: LogMel) -> None:
        """Does ahead of time what `features` begins with: sends samples, or computes the features of sections."""
        sections = [task.section for task in self.tasks if task.section is not None]
        for section in sections:
            section.features(log_mel)
        if not sections:
            self.stage(log_mel)

    def features(self, log_mel: LogMel) -> Tensor:
        """Returns the features of their windows: float32, shape (tasks, num_mel_bins, num_frames)."""
        windows = [task.section.window(task.start // HOP, log_mel) for task in self.tasks if task.section is not None]
        return torch.stack(windows) if windows else log_mel.features(self.stage(log_mel))


def group_tasks(tasks: Sequence[DecodingTask], encode_positions: int, max_tasks: int) -> deque[TaskGroup]:
    """Divides tasks into groups, longest window first.

    A group has at most `encode_positions` positions in its windows and at most `max_tasks` tasks, but at least one
    task.
    """
    groups: deque[TaskGroup] = deque()
    size = 1
    for task in sorted(tasks, key=lambda task: (-task.num_frames, -len(task.pcm), task.index)):
        if groups and groups[-1].num_frames == task.num_frames and len(groups[-1].tasks) < size:
            groups[-1].tasks.append(task)
        else:
            groups.append(TaskGroup([task]))
            num_fitting = max(1, encode_positions * FRAMES_PER_POSITION // task.num_frames)
            size = -(
                -max_tasks // -(-max_tasks // num_fitting)
            )  # equal parts of `max_tasks`, so that no free slot is left
    return groups


def pop_groups(groups: deque[TaskGroup], free: int) -> list[TaskGroup]:
    """Removes and returns the first groups, as many as fit into `free` slots."""
    found: list[TaskGroup] = []
    while groups and len(groups[0].tasks) <= free:
        free -= len(groups[0].tasks)
        found.append(groups.popleft())
    return found


def stage_groups(groups: deque[TaskGroup], num_tasks: int, log_mel: LogMel) -> None:
    """Stages the first groups, as many as have `num_tasks` tasks in all."""
    for group in groups:
        num_tasks -= len(group.tasks)
        if num_tasks < 0:
            return
        group.prepare(log_mel)


@dataclass(frozen=True, slots=True)
class StepShape:
    """Everything that a step takes from the host. A recorded step can be replayed for every step of the same shape."""

    rows: int
    text_positions: int  # bound on the decoder positions of any row, the new ones included
    encoder_positions: int  # bound on the encoder positions of any row
    is_ragged: bool  # some window is shorter than 30 s
    is_sampled: bool  # a temperature above 0 chooses some of the tokens

    def padded(self, largest: "StepShape", reads_by_length: bool) -> "StepShape":
        """Returns the smallest of a few shapes that holds this one; none is larger than `largest`.

        `reads_by_length`: attention reads the positions of each row, whatever the shape says.
        """
        return StepShape(
            rows=min(_round_up_rows(self.rows), largest.rows),
            text_positions=largest.text_positions
            if reads_by_length
            else min(_round_up(self.text_positions, TEXT_STEP), largest.text_positions),
            encoder_positions=largest.encoder_positions
            if reads_by_length
            else min(_round_up(self.encoder_positions, WINDOW_STEP), largest.encoder_positions),
            is_ragged=True,  # the cache has more positions than a full window
            is_sampled=self.is_sampled,
        )


@dataclass(frozen=True, slots=True)
class SchedulingPolicy:
    """Division of work for a device."""

    encode_positions: int  # of windows of one length that are encoded together; one window at least
    steps_per_poll: int  # at most as many are wasted on a row that has ended
    runs_ahead: bool  # the device works while the host prepares what comes next


# On a CPU one window is encoded at a time: more would only exceed the processor's cache.
CPU_POLICY = SchedulingPolicy(encode_positions=1, steps_per_poll=1, runs_ahead=False)
GPU_POLICY = SchedulingPolicy(encode_positions=51_200, steps_per_poll=8, runs_ahead=True)  # 34 full windows, 64 of 16 s


def policy_for(device: torch.device) -> SchedulingPolicy:
    """Returns the policy for a device."""
    return CPU_POLICY if device.type == "cpu" else GPU_POLICY


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _round_up_rows(rows: int) -> int:
    """Returns a power of two, or one and a half of one, so that at most a third of the rows are padding."""
    power = max(MIN_ROWS, 1 << (rows - 1).bit_length())
    return power * 3 // 4 if rows <= power * 3 // 4 and power > MIN_ROWS else power
