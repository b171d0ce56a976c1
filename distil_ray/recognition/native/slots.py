"""Which chunk holds which slot, as the host knows it without asking the device: between looks counts are upper bounds.

Knows tasks and numbers, no tensors.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distil_ray.recognition.native.decoding_task import Task
from distil_ray.whisper.features import MAX_FRAMES

REPEAT_CHECK_TOKENS = 8  # of a row, between two looks for repetition


@dataclass(slots=True)
class _Held:
    """A slot's task, the tokens that its text may have by now, and those that were looked at for repetition.

    ``unchecked``: the text as it was seen, if it has still to be looked at.
    """

    task: Task
    count: int = 1
    checked: int = 0
    unchecked: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the rows that are held reach, at most: positions of text (the next one included) and of windows.

    ``is_ragged``: some window is shorter than 30 s.
    """

    text: int
    window: int
    is_ragged: bool


class Slots:
    """The slots of a loop; `num_heard` tells the encoder positions of a window of so many frames."""

    def __init__(self, number: int, num_heard: Callable[[int], int]) -> None:
        self.number = number
        self._num_heard = num_heard
        self._held: dict[int, _Held] = {}

    def __len__(self) -> int:
        """Slots that are held."""
        return len(self._held)

    def clear(self) -> None:
        self._held.clear()

    @property
    def tasks(self) -> list[Task]:
        return [held.task for held in self._held.values()]

    @property
    def used(self) -> int:
        """Slots up to the last one that is held."""
        return max(self._held, default=-1) + 1

    @property
    def free(self) -> list[int]:
        return [slot for slot in range(self.number) if slot not in self._held]

    @property
    def held(self) -> list[int]:
        return list(self._held)

    @property
    def prompt_length(self) -> int:
        """Ids in the prompt of each task: they are of one length."""
        return len(next(iter(self._held.values())).task.prompt)

    @property
    def longest_text(self) -> int:
        """Tokens that a text may have by now, at most."""
        return max(held.count for held in self._held.values())

    @property
    def num_tokens(self) -> int:
        return sum(held.count for held in self._held.values())

    def extent(self) -> Extent:
        text = self.prompt_length + self.longest_text
        is_ragged = any(held.task.num_frames < MAX_FRAMES for held in self._held.values())
        return Extent(text, self.longest_window(self.tasks), is_ragged)

    def longest_window(self, tasks: Iterable[Task]) -> int:
        """Encoder positions of the longest window, silence behind it included."""
        return max(self._num_heard(task.num_frames) for task in tasks)

    def take(self, slots: Iterable[int], tasks: Iterable[Task]) -> None:
        """Tasks whose first token is known take slots."""
        self._held.update((slot, _Held(task)) for slot, task in zip(slots, tasks, strict=True))

    def leave(self, slots: Iterable[int]) -> list[Task]:
        """The tasks of slots that are free now."""
        return [self._held.pop(slot).task for slot in slots]

    def close_gaps(self) -> tuple[list[int], list[int]]:
        """Gives the last ones the free slots before them: which slots, and which instead."""
        staying = len(self._held)
        targets = [slot for slot in range(staying) if slot not in self._held]
        sources = [slot for slot in self._held if slot >= staying]
        for source, target in zip(sources, targets, strict=True):
            self._held[target] = self._held.pop(source)
        return sources, targets

    def ended(self, flags: Sequence[bool]) -> list[int]:
        """Slots that are held by rows that have ended, by a flag for each slot."""
        return [slot for slot in self._held if flags[slot]]

    def grow(self, num: int) -> None:
        """A pass may have brought so many tokens."""
        for held in self._held.values():
            held.count += num

    def see(self, counts: Sequence[int], tokens: NDArray[np.int64]) -> None:
        """Takes the number of tokens in each slot, and the tokens, shape (slots, at least the longest text)."""
        every = REPEAT_CHECK_TOKENS
        for slot, held in self._held.items():
            held.count = counts[slot]
            if held.task.repeats is not None and held.count // every > held.checked // every:
                held.unchecked = tokens[slot, : held.count]

    def repeating(self, slots: Iterable[int]) -> dict[int, int]:
        """Of `slots`, those whose texts as seen have a loop that ends at a multiple of so many tokens, and at which."""
        every = REPEAT_CHECK_TOKENS
        found = {}
        for slot in slots:
            held = self._held[slot]
            seen, held.unchecked = held.unchecked, None
            if seen is None or held.task.repeats is None:
                continue
            text: list[int] = seen.tolist()
            ends = range((held.checked // every + 1) * every, len(text) + 1, every)
            held.checked = len(text)
            loops = (end for end in ends if held.task.repeats(text[:end]))
            if (end := next(loops, None)) is not None:
                found[slot] = end
        return found
