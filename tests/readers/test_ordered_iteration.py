"""Parallel requests keep their order, and their number is limited."""

from collections.abc import Iterator
from threading import Barrier

import pytest

from distil_ray.readers.ordered_iteration import ordered_parallel_map


@pytest.mark.parametrize("threads", [1, 4])
def test_results_have_the_order_of_the_items(threads: int) -> None:
    assert list(ordered_parallel_map(lambda number: number * number, iter(range(100)), threads)) == [
        n * n for n in range(100)
    ]


def test_calls_run_in_parallel() -> None:
    together = Barrier(4)
    assert list(ordered_parallel_map(lambda _: together.wait(timeout=30) >= 0, range(8), 4)) == [True] * 8


def test_at_most_twice_as_many_items_as_threads_are_read_ahead() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    answers = ordered_parallel_map(str, items(), 4)
    assert next(answers) == "0"
    assert len(taken) <= 8


@pytest.mark.parametrize("threads", [1, 4])
def test_an_error_is_raised_at_the_position_of_its_result(threads: int) -> None:
    answers = ordered_parallel_map(lambda number: 10 // (3 - number), range(6), threads)
    assert [next(answers) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(answers)
