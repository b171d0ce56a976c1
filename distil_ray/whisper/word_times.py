"""Times of words as they are given out: none shorter than a position of the encoder, none over another or in a pause.

The alignment of tokens (recognition/alignment.py) puts the boundary of two words somewhere in the pause between them,
mostly near its beginning: the second word then seems to begin before the pause. Here such boundaries are moved to the
edges of pauses that were found in the audio. Pure functions of samples; they know neither audio nor tokens.
"""

from collections.abc import Sequence
from itertools import groupby

from distil_ray.whisper.tokenizer import SECONDS_PER_TIMESTAMP

Interval = tuple[int, int]  # samples: the first one, and the one after the last

SAMPLE_RATE = 16_000  # Hz
SHORTEST_WORD = round(SECONDS_PER_TIMESTAMP * SAMPLE_RATE)  # samples: one position of the encoder
MAX_SHIFT = round(0.5 * SAMPLE_RATE)  # samples between a boundary and the pause that it is moved to
# A boundary is nearer to the beginning of its pause than to the end: audio of a pause costs more in the word before it.
COST_BEFORE, COST_AFTER = 1.0, 0.7


def fit_to_pauses(words: Sequence[Interval], pauses: Sequence[Interval], num_samples: int) -> list[Interval]:
    """The intervals of words, moved so that none reaches into a pause and those beside a pause begin or end with it.

    `words`: never falling, within the `num_samples` of their chunk; `pauses`: in order. Each pause is given to one
    boundary between two words (or to the beginning or the end of all), the one that needs to be moved least; one that
    is further than `MAX_SHIFT` from every boundary lies within a word and is left there. Words may come out empty.
    """
    starts, ends = [start for start, _ in words], [end for _, end in words]
    placed = _boundaries(words, pauses, num_samples) if words else []
    for boundary, group in groupby(placed, key=lambda pair: pair[0]):
        together = [pause for _, pause in group]
        begin, end = together[0][0], together[-1][1]
        for word in range(boundary):
            starts[word], ends[word] = min(starts[word], begin), min(ends[word], begin)
        for word in range(boundary, len(words)):
            starts[word], ends[word] = max(starts[word], end), max(ends[word], end)
        if boundary > 0 and begin - ends[boundary - 1] <= MAX_SHIFT:
            ends[boundary - 1] = begin
        if boundary < len(words) and starts[boundary] - end <= MAX_SHIFT:
            starts[boundary] = end
    return list(zip(starts, ends, strict=True))


def _boundaries(words: Sequence[Interval], pauses: Sequence[Interval], num_samples: int) -> list[tuple[int, Interval]]:
    """(number of words before the pause, the pause) of all pauses near a boundary, in order."""
    befores = [None, *(end for _, end in words)]
    afters = [*(start for start, _ in words), None]
    found: list[tuple[int, Interval]] = []
    least = 0
    for begin, end in pauses:
        if begin <= 0:
            boundary = 0
        elif end >= num_samples:
            boundary = len(words)
        else:
            costs = [
                COST_BEFORE * _excess(before, begin) + COST_AFTER * _excess(end, after)
                for before, after in zip(befores, afters, strict=True)
            ]
            boundary = costs.index(min(costs))
            # How far the boundary lies from the pause, before it or after it.
            before, after = befores[boundary], afters[boundary]
            if max(_excess(begin, after if after is not None else before), _excess(before, end)) > MAX_SHIFT:
                continue
        least = max(least, boundary)
        found.append((least, (begin, end)))
    return found


def _excess(later: int | None, earlier: int | None) -> int:
    """By how many samples `later` lies behind `earlier`; 0 where it does not, or where there is no word on a side."""
    return 0 if later is None or earlier is None else max(0, later - earlier)


def separate(words: Sequence[Interval], begin: int, end: int) -> list[Interval]:
    """The intervals of words within [begin, end], none over another and none shorter than `SHORTEST_WORD`.

    In order as given; where there is no room for words of that length, all are as short as they have to be. Words are
    moved no further than that needs.
    """
    if not words:
        return []
    shortest = min(SHORTEST_WORD, (end - begin) // len(words))
    moved: list[Interval] = []
    free = begin
    for start, stop in words:
        first = max(start, free)
        free = max(stop, first + shortest)
        moved.append((first, free))
    limit = end
    for place in range(len(moved) - 1, -1, -1):
        start, stop = moved[place]
        stop = min(stop, limit)
        limit = min(start, stop - shortest)
        moved[place] = (limit, stop)
    return moved
