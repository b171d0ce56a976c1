"""Recorded steps: run, recorded and replayed by shape; the reason is given where recording fails."""

from collections.abc import Callable

import pytest
import torch

from distil_ray.recognition.native.cuda_graphs import GraphRunner


def test_the_first_step_of_a_shape_is_run_the_second_recorded_the_third_replayed() -> None:
    done: list[str] = []
    graphs = GraphRunner(lambda work: lambda: done.append("replay"), done.append)
    for shape in (1, 1, 2, 1, 2):
        graphs.run(shape, lambda: done.append("work"))
    assert done == ["work", "replay", "work", "replay", "replay"]


def test_a_step_that_cannot_be_recorded_is_run_with_a_warning() -> None:
    done, warnings = list[int](), list[str]()

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    graphs = GraphRunner(refuse, warnings.append)
    for _ in range(4):
        graphs.run("shape", lambda: done.append(1))
    assert len(done) == 4
    assert len(warnings) == 1 and "operation not permitted when stream is capturing)" in warnings[0]


def test_the_warning_names_the_first_cause_where_ending_a_recording_fails_too() -> None:
    warnings = list[str]()

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        try:
            raise RuntimeError("cannot copy while recording")
        finally:
            raise RuntimeError("operation failed due to a previous error")

    graphs = GraphRunner(refuse, warnings.append)
    for _ in range(2):
        graphs.run("shape", lambda: None)
    assert len(warnings) == 1 and "(cannot copy while recording)" in warnings[0]


def test_out_of_memory_while_recording_is_raised() -> None:
    def full(work: Callable[[], None]) -> Callable[[], None]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    graphs = GraphRunner(full, print)
    graphs.run("shape", lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.run("shape", lambda: None)
