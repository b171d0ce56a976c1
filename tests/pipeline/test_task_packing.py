"""Every recording is in one task of bounded size, and what is read together stays together."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from distil_ray.output.ledger import Keys, id_keys
from distil_ray.pipeline.task_packing import MAX_TAIL_TASKS, MAX_UNIT_TASKS, TAIL_DIVISOR, TAIL_SHARE, pack_tasks
from distil_ray.types import SAMPLE_RATE


def following(files: NDArray[np.uint64], number: int) -> list[int]:
    """Returns the next recording of the same file, if there is one."""
    later = np.flatnonzero(files[number + 1 :] == files[number])[:1]
    return (later + number + 1).tolist()  # type: ignore[no-any-return]


def keys_of(number: int) -> Keys:
    return id_keys(list(map(str, range(number))))


durations = st.lists(st.integers(0, 50), max_size=60)
tail_shares = st.sampled_from([0.0, TAIL_SHARE, 0.3, 1.0])


@given(durations, st.integers(1, 30), st.integers(1, 8), tail_shares)
@example([], 10, 2, TAIL_SHARE)
@example([0, 0, 0], 10, 2, 1.0)
@example([10, 0, 0, 11], 10, 2, 1.0)
def test_tasks_hold_every_recording_once_within_their_bounds(
    lengths: list[int], limit: int, most: int, tail_share: float
) -> None:
    samples = np.array(lengths, np.int64) * SAMPLE_RATE
    keys = keys_of(len(lengths))
    alone = np.zeros(len(lengths), np.uint64)
    order, starts = pack_tasks(samples, keys, alone, limit * SAMPLE_RATE, most, tail_share=tail_share)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert starts[0] == 0
    assert starts[-1] == len(lengths)
    sums = []
    for start, end in pairwise(starts.tolist()):
        task = samples[order[start:end]]
        sums.append(int(task.sum()))
        assert 1 <= len(task) <= most
        assert len(task) == 1 if task.max() >= limit * SAMPLE_RATE else task.sum() <= limit * SAMPLE_RATE
        assert task.tolist() == sorted(task.tolist(), reverse=True)
    assert sums == sorted(sums, reverse=True)


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 4)), max_size=60),
    st.integers(1, 99),
    st.integers(1, 8),
    tail_shares,
)
def test_what_is_read_together_stays_together_and_in_order(
    pairs: list[tuple[int, int]], limit: int, most: int, tail_share: float
) -> None:
    samples = np.array([length for length, _ in pairs], np.int64) * SAMPLE_RATE
    units = np.array([unit for _, unit in pairs], np.uint64)
    keys = keys_of(len(pairs))
    order, starts = pack_tasks(samples, keys, units, limit * SAMPLE_RATE, most, tail_share=tail_share)
    assert sorted(order.tolist()) == list(range(len(pairs)))
    tasks = [order[start:end] for start, end in pairwise(starts.tolist())]
    for task in tasks:
        held = set(units[task].tolist())
        alone = [np.flatnonzero(units == unit) for unit in held] if len(held) == 1 and 0 not in held else []
        limits = [(-(-samples[own].sum() // MAX_UNIT_TASKS), -(-len(own) // MAX_UNIT_TASKS)) for own in alone]
        samples_limit = max([limit * SAMPLE_RATE, *(one for one, _ in limits)])
        assert 1 <= len(task) <= max([most, *(one for _, one in limits)])
        assert len(task) == 1 or samples[task].sum() <= samples_limit
    for unit in set(units.tolist()) - {0}:
        members = np.flatnonzero(units == unit).tolist()
        if samples[members].sum() <= limit * SAMPLE_RATE and len(members) <= most:
            (task,) = (task.tolist() for task in tasks if unit in units[task])
            begin = task.index(members[0])
            assert task[begin : begin + len(members)] == members


@given(st.integers(1, 40), st.integers(1, 5_000))
def test_the_last_tasks_become_smaller_and_the_others_stay_as_they_are(length: int, number: int) -> None:
    limit = 40
    samples, alone, keys = np.full(number, length, np.int64), np.zeros(number, np.uint64), keys_of(number)
    usual_order, usual = pack_tasks(samples, keys, alone, limit, number, tail_share=0.0)
    order, starts = pack_tasks(samples, keys, alone, limit, number)
    assert order.tolist() == usual_order.tolist()
    sizes = np.diff(starts) * length
    assert (np.diff(sizes) <= 0).all()
    num_tail = min(TAIL_SHARE * number * length / limit, MAX_TAIL_TASKS)
    num_same = next((i for i, pair in enumerate(zip(starts, usual, strict=False)) if pair[0] != pair[1]), len(usual))
    assert num_same >= len(usual) - 1 if num_tail < 1 else num_same >= len(usual) - 3 - num_tail * limit / sizes[0]
    if num_tail > 3:
        assert sizes[-1] <= max(length, limit // 4)
    # Recordings cannot be divided, so that tasks are smaller than their limits.
    assert len(starts) - len(usual) <= num_tail * np.log(TAIL_DIVISOR) * (1 + length * TAIL_DIVISOR / limit) + 2


@pytest.mark.parametrize(("length_s", "most"), [(100, 50), (1, 3)])
def test_a_large_unit_is_divided_among_few_tasks(length_s: int, most: int) -> None:
    units = np.array([7] * 480 + [8] * 20 + [0] * 30, np.uint64)  # one of many tasks, one of few, loose recordings
    samples = np.full(len(units), length_s * SAMPLE_RATE)
    keys = keys_of(len(units))
    order, starts = pack_tasks(samples, keys, units, 500 * SAMPLE_RATE, most)
    tasks = [order[start:end] for start, end in pairwise(starts.tolist())]
    of_unit = [task for task in tasks if 7 in units[task]]
    assert len(of_unit) == MAX_UNIT_TASKS
    assert {len(task) for task in of_unit} == {30}
    assert max(len(task) for task in tasks if 7 not in units[task]) <= most
    assert max(samples[task].sum() for task in tasks if 7 not in units[task]) <= 500 * SAMPLE_RATE


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4)), max_size=60), st.integers(1, 99), st.integers(1, 8))
@example([(0, 1)] * 60, 1, 2)  # more tasks than `MAX_UNIT_TASKS`
def test_byte_ranges_of_a_file_are_divided_into_tasks_of_the_usual_size(
    pairs: list[tuple[int, int]], limit: int, most: int
) -> None:
    samples = np.array([length for length, _ in pairs], np.int64) * SAMPLE_RATE
    files = np.array([file for _, file in pairs], np.uint64)
    ranges = np.ones(len(pairs), np.bool_)
    order, starts = pack_tasks(samples, keys_of(len(pairs)), files, limit * SAMPLE_RATE, most, ranges)
    assert sorted(order.tolist()) == list(range(len(pairs)))
    tasks = [order[start:end].tolist() for start, end in pairwise(starts.tolist())]
    runs = dict.fromkeys(files.tolist(), 0)  # pieces that each file is read in
    for task in tasks:
        assert len(task) == 1 or (len(task) <= most and samples[task].sum() <= limit * SAMPLE_RATE)
        for before, after in pairwise([None, *task]):
            runs[int(files[after])] += before is None or after not in following(files, before)
    for file, count in runs.items():
        members = np.flatnonzero(files == file)
        # Two neighboring pieces are more than one task holds.
        assert count <= 2 * (samples[members].sum() / (limit * SAMPLE_RATE) + len(members) / most) + 1
