"""Spans of samples out of a recording as it streams by: its chunks once more, where a row says that it was cut."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from distil_ray.audio.decode import DecodeOutcome
from distil_ray.audio.pcm import PCM16

Span = tuple[int, int]  # first sample, one past the last


def take_spans(pieces: Iterable[PCM16], spans: Sequence[Span]) -> Iterator[PCM16]:
    """The samples of each span, out of consecutive pieces (int16, shape (num_samples,)); spans are ordered by their
    start and may overlap. A span beyond the end is shorter, or empty. All pieces are taken."""
    waiting = deque(spans)
    held, begin = np.empty(0, np.int16), 0
    for piece in pieces:
        held = np.concatenate([held, piece])
        while waiting and waiting[0][1] <= begin + len(held):
            start, end = waiting.popleft()
            yield held[start - begin : end - begin]
        keep = waiting[0][0] - begin if waiting else len(held)
        begin += min(keep, len(held))
        held = held[keep:]
    for start, end in waiting:
        yield held[max(start - begin, 0) : end - begin]


def until_outcome(items: Iterable[PCM16 | DecodeOutcome], ended: Callable[[DecodeOutcome], None]) -> Iterator[PCM16]:
    """The samples that a decoder gives; how it ended is handed to `ended`."""
    for item in items:
        if isinstance(item, DecodeOutcome):
            ended(item)
        else:
            yield item
