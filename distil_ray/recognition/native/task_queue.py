"""The chunks that wait to be decoded, in groups that are encoded together: of one window length, longest first.

A group's samples may be on their way to the device before its turn comes. Knows tasks and windows, nothing of slots.
"""

from collections import deque
from collections.abc import Iterable, Sequence

from distil_ray.recognition.native.decoding_task import Task
from distil_ray.whisper.features import FRAMES_PER_POSITION, LogMel, StagedBatch


class TaskQueue:
    """The tasks of one run of the loop; what follows from a result may join them while it goes on.

    A run that ends early (for want of memory) is begun again with the tasks that have no result.
    """

    def __init__(self, tasks: Iterable[Task]) -> None:
        """`tasks`: of different chunks, with prompts of one length; sampled ones are apart from the others."""
        self._pending = {task.index: task for task in tasks}
        self._new = list(self._pending.values())
        self.longest_window = max((task.num_frames for task in self._new), default=0)  # frames

    def __bool__(self) -> bool:
        """Whether a task has no result yet."""
        return bool(self._pending)

    def accepts(self, task: Task) -> bool:
        """Whether a task may join: its window fits, and it is not sampled where the others are not."""
        return task.num_frames <= self.longest_window and task.temperature == 0.0

    def add(self, task: Task) -> None:
        """A task that `accepts` allows, of a chunk whose last one has its result."""
        self._pending[task.index] = task
        self._new.append(task)

    def finish(self, index: int) -> Task:
        """The task of a chunk, which has its result."""
        return self._pending.pop(index)

    def take(self) -> list[Task]:
        """The tasks that have come since the last call."""
        new, self._new = self._new, []
        return new

    def restart(self) -> None:
        """All tasks without a result come again."""
        self._new = list(self._pending.values())


class Group:
    """Tasks with windows of one length, in order."""

    def __init__(self, tasks: Sequence[Task]) -> None:
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


def grouped(tasks: Sequence[Task], encode_positions: int, most: int) -> deque[Group]:
    """All tasks; a group has at most `encode_positions` in its windows and `most` tasks, but one at least."""
    groups: deque[Group] = deque()
    size = 1
    for task in sorted(tasks, key=lambda task: (-task.num_frames, -len(task.pcm), task.index)):
        if groups and groups[-1].num_frames == task.num_frames and len(groups[-1].tasks) < size:
            groups[-1].tasks.append(task)
        else:
            groups.append(Group([task]))
            fitting = max(1, encode_positions * FRAMES_PER_POSITION // task.num_frames)
            size = -(-most // -(-most // fitting))  # even parts of `most`, so that free slots are filled to the last
    return groups


def taken(groups: deque[Group], free: int) -> list[Group]:
    """The first groups, as far as so many slots are free for their tasks; they leave `groups`."""
    found: list[Group] = []
    while groups and len(groups[0].tasks) <= free:
        free -= len(groups[0].tasks)
        found.append(groups.popleft())
    return found


def stage_first(groups: deque[Group], num_tasks: int, log_mel: LogMel) -> None:
    """Stages the first groups, as far as they have `num_tasks` in all."""
    for group in groups:
        num_tasks -= len(group.tasks)
        if num_tasks < 0:
            return
        group.stage(log_mel)
