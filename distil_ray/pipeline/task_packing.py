"""Packs recordings into tasks of bounded audio.

Recordings are sorted by duration and packed in that order, so that a task holds recordings of similar length. The
longest tasks come first, because they would end last. The last tasks of a large plan become smaller and smaller
(`TAIL_SHARE`), so that all recognizers end at about the same time; what is read together is not divided for that.

Recordings that are read together (a unit, see `readers/location.py`) are packed like one recording, in the order of the
listing, so that a task reads the unit once. A large unit, such as a compressed archive, is divided among few tasks,
which may be larger than others. Byte ranges of one file, such as members of a plain tar, are packed like a unit,
because neighbors are read with one request. A task that begins in the middle of such a file reads nothing in vain, and
so its tasks have the usual size, however many they are.
"""

from array import array

import numpy as np
from numpy.typing import NDArray

from distil_ray.output.ledger import Keys

MAX_UNIT_TASKS = 16  # tasks of a unit, each of which reads the unit from its beginning
# The last `TAIL_SHARE` of the audio, at most that of `MAX_TAIL_TASKS` usual tasks, is packed into tasks whose size
# decreases with the audio that is left, to a `TAIL_DIVISOR`th. It adds about 4 % to the number of tasks.
TAIL_SHARE = 0.02
MAX_TAIL_TASKS = 1000
TAIL_DIVISOR = 8
_BATCH_ROWS = 16_384  # rows converted to Python numbers at once


def pack_tasks(
    samples: NDArray[np.int64],
    keys: Keys,
    units: NDArray[np.uint64],
    task_samples: int,
    task_recordings: int,
    ranges: NDArray[np.bool_] | None = None,
    tail_share: float = TAIL_SHARE,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Packs recordings of the given durations into tasks, longest first.

    A recording of `task_samples` or more is a task of its own; other tasks hold at most `task_samples` and
    `task_recordings`, and the last ones less. Recordings of one unit stay together and in order; a unit that does not
    fit into a task is split, into at most about `MAX_UNIT_TASKS`, which may then be larger, or into any number if it
    consists of byte ranges.
    Otherwise the order of the input does not matter: recordings of equal duration are ordered by key. Takes linear
    time, except for the sorting.

    Args:
        samples: Durations, shape (num_recordings,).
        keys: `recording_keys`, shape (num_recordings,).
        units: Equal numbers for recordings that are read at once, 0 for none; shape (num_recordings,).
        task_samples: Most samples of a task.
        task_recordings: Most recordings of a task.
        ranges: Whether the unit of a recording consists of byte ranges, shape (num_recordings,); None: no unit does.
        tail_share: Share of the audio whose tasks become smaller and smaller.

    Returns:
        `order`, shape (num_recordings,): recordings, task after task; `starts`, shape (num_tasks + 1,): start of each
        task in `order`, followed by the end.
    """
    together, first = _gather_units(samples, units, task_samples, task_recordings, ranges)
    lengths = _sums(samples[together], first)
    ranks = np.lexsort((keys[together[first[:-1]]], -lengths))
    lengths, counts = lengths[ranks], np.diff(first)[ranks]
    order = together[_runs(first[:-1][ranks], counts)]
    ends, counted = np.cumsum(lengths), np.cumsum(counts)
    starts, begin, total = [], 0, len(ranks)
    num_samples = int(lengths.sum())
    tail_tasks = min(tail_share * num_samples / task_samples, MAX_TAIL_TASKS)
    while begin < total:
        starts.append(begin)
        before = (int(ends[begin - 1]), int(counted[begin - 1])) if begin else (0, 0)
        limit = _next_limit(num_samples - before[0], task_samples, tail_tasks)
        fitting = np.searchsorted(ends, before[0] + limit, side="right")
        allowed = np.searchsorted(counted, before[1] + task_recordings, side="right")
        # A recording or portion that fills a task is alone in it, even if others have no length.
        alone = int(lengths[begin]) >= task_samples
        begin = begin + 1 if alone else max(begin + 1, int(min(fitting, allowed)))
    bounds = np.concatenate(([0], counted))[[*starts, total]]
    return _longest_first(order, bounds, _sums(samples[order], bounds))


def _next_limit(rest_samples: int, task_samples: int, tail_tasks: float) -> int:
    """Returns the most samples of the next task.

    Args:
        rest_samples: Samples that are not packed yet.
        task_samples: Most samples of a task.
        tail_tasks: Number of tasks of that size in the tail of the plan.
    """
    if tail_tasks < 1:
        return task_samples
    return min(task_samples, max(task_samples // TAIL_DIVISOR, int(rest_samples / tail_tasks)))


def _gather_units(
    samples: NDArray[np.int64],
    units: NDArray[np.uint64],
    task_samples: int,
    task_recordings: int,
    ranges: NDArray[np.bool_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the recordings with those of a unit side by side, and the starts of portions, followed by the end.

    A portion fits into a task, is one recording, or a part of a large unit. Recordings without a unit are portions of
    their own.
    """
    order = np.argsort(units, kind="stable")  # recordings without a unit (0) first
    num_alone = int(np.count_nonzero(units == 0))
    starts = array("q")  # of the others; a list of Python ints would be most of the memory of a large plan
    whole = order[num_alone:] if ranges is None else (rest := order[num_alone:])[~ranges[rest]]
    large = _limits_of_large_units(samples, units, whole, task_samples, task_recordings)
    usual = (task_samples, task_recordings)
    held, filled = 0, 0
    limits = usual
    for begin in range(num_alone, len(order), _BATCH_ROWS):
        batch = order[begin : begin + _BATCH_ROWS]
        for position, (unit, length) in enumerate(
            zip(units[batch].tolist(), samples[batch].tolist(), strict=True), begin
        ):
            if unit != held:
                limits = large.get(unit, usual)
            if unit != held or filled + length > limits[0] or position - starts[-1] >= limits[1]:
                starts.append(position)
                filled = 0
            held, filled = unit, filled + length
    return order, np.concatenate((np.arange(num_alone), np.array(starts, np.int64), [len(order)]))


def _limits_of_large_units(
    samples: NDArray[np.int64], units: NDArray[np.uint64], order: NDArray[np.int64], *limits: int
) -> dict[int, tuple[int, int]]:
    """Returns the limits (samples, recordings) of portions of units that would be more than `MAX_UNIT_TASKS` tasks."""
    names, first, counts = np.unique(units[order], return_index=True, return_counts=True)
    if not len(names):
        return {}
    totals = np.add.reduceat(samples[order], first)
    sums = zip((totals, counts), limits, strict=True)
    least = [np.maximum(-(-total // MAX_UNIT_TASKS), limit) for total, limit in sums]
    found = np.flatnonzero((least[0] > limits[0]) | (least[1] > limits[1]))
    return {int(names[i]): (int(least[0][i]), int(least[1][i])) for i in found}


def _sums(values: NDArray[np.int64], bounds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns the sums of the values between neighboring bounds."""
    return np.diff(np.concatenate(([0], np.cumsum(values)))[bounds])


def _runs(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns consecutive integers from each start, as many as its count, concatenated."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(counts.sum())


def _longest_first(
    order: NDArray[np.int64], bounds: NDArray[np.int64], lengths: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorts the tasks `order[bounds[i] : bounds[i + 1]]` by length, the longest first."""
    ranks = np.argsort(-lengths, kind="stable")
    sizes = np.diff(bounds)[ranks]
    return order[_runs(bounds[:-1][ranks], sizes)], np.concatenate(([0], np.cumsum(sizes)))
