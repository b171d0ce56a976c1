"""Where two token sequences that heard the same audio are cut, so that what both heard is there once.

The rule is that of transformers' `_find_longest_common_sequence`, to the tie, with times and without. It counts the
agreement of all alignments of a seam at once in numpy, where transformers compares them one after the other: a seam of
400 tokens takes a quarter of a millisecond instead of 20 to 90. Nothing here knows what the tokens mean.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Times = Sequence[tuple[int, int]]  # start and end of each token of a sequence, in samples of the recording


def find_seam(left: Sequence[int], right: Sequence[int], times: tuple[Times, Times] | None = None) -> tuple[int, int]:
    """How many tokens of `left` to keep and of `right` to drop, so that what both heard is there once.

    Every alignment of the two is scored by (equal tokens / length of the shift) plus a little for longer shifts;
    at least two tokens must be equal, the first of the best ones wins, and the cut is in the middle of the overlap.
    Without any such alignment everything is kept. Where the `times` of both are known, equal tokens count only if the
    left one is not the later, so that what was said twice is not taken for what was heard twice. Each may hold a
    chunk's tokens (448 at most, by far below the 32,767 that the counts have room for).
    """
    num_left, num_right = len(left), len(right)
    if not num_left or not num_right:
        return num_left, 0
    num_equal = _count_equal(left, right, times)
    shifts = np.flatnonzero(num_equal > 1) + 1
    if not shifts.size:
        return num_left, 0
    shift = int(shifts[np.argmax(num_equal[shifts - 1] / shifts + shifts / 10000.0)])
    left_start, left_stop = max(0, num_left - shift), min(num_left, num_left + num_right - shift)
    right_start, right_stop = max(0, shift - num_left), min(num_right, shift)
    return (left_start + left_stop) // 2, (right_start + right_stop) // 2


def _count_equal(left: Sequence[int], right: Sequence[int], times: tuple[Times, Times] | None) -> NDArray[np.int16]:
    """Equal tokens of each alignment: item n - 1 lays the first n tokens of `right` at most over the end of `left`.

    Pairs of one alignment lie on one diagonal of the table of all pairs. Read with rows shorter by one than they were
    written, the table has its diagonals as columns: one sum over rows counts them all, whatever the tokens are.
    """
    num_left, num_right = len(left), len(right)
    width = num_left + num_right
    table = np.zeros((num_left, width), np.int16)
    table[:, :num_right] = np.equal.outer(np.asarray(left[::-1], np.int32), np.asarray(right, np.int32))
    if times is not None:
        table[:, :num_right] &= _not_later(times[0][::-1], times[1])
    diagonals = table.reshape(-1)[: num_left * (width - 1)].reshape(num_left, width - 1)
    counts: NDArray[np.int16] = np.add.reduce(diagonals, axis=0, dtype=np.int16)
    return counts


def _not_later(left: Times, right: Times) -> NDArray[np.bool_]:
    """Which tokens of `left` begin before those of `right`, or with them and end no later; shape (left, right)."""
    first, second = (np.asarray(times, np.int64).reshape(-1, 2) for times in (left, right))
    begins = np.less.outer(first[:, 0], second[:, 0])
    ends = np.equal.outer(first[:, 0], second[:, 0]) & np.less_equal.outer(first[:, 1], second[:, 1])
    return begins | ends


def find_cuts(sequences: Sequence[Sequence[int]], times: Sequence[Times] | None = None) -> list[slice]:
    """What to keep of each of the token sequences of neighboring chunks, so that they can follow each other."""
    cuts = []
    begin = 0
    for i in range(len(sequences) - 1):
        both = None if times is None else (times[i][begin:], times[i + 1])
        kept, dropped = find_seam(sequences[i][begin:], sequences[i + 1], both)
        cuts.append(slice(begin, begin + kept))
        begin = dropped
    cuts.append(slice(begin, len(sequences[-1])))
    return cuts
