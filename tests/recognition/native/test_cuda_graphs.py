"""Recorded steps: run, recorded and replayed by shape; the reason is given where recording fails."""

from collections.abc import Callable

import pytest
import torch

from distil_ray.recognition.native.cuda_graphs import GraphRunner, Recorder, Work
from distil_ray.recognition.native.device import is_out_of_memory


def test_the_first_step_of_a_shape_is_run_the_second_recorded_the_third_replayed() -> None:
    done: list[str] = []
    graphs = GraphRunner(lambda: lambda work: lambda: done.append("replay"), done.append)
    has_prepared = []
    for shape in (1, 1, 2, 1, 2, 2):
        graphs.run(shape, lambda: done.append("work"))
        has_prepared.append(graphs.has_prepared)
    assert done == ["work", "replay", "work", "replay", "replay", "replay"]
    assert has_prepared == [True, True, True, False, True, False]


def test_each_runner_has_a_recorder_of_its_own() -> None:
    """A loop that is freed, as that of the self-check is, leaves nothing that recordings of the next one share."""
    recorders: list[list[str]] = []

    def new_recorder() -> Recorder:
        recorders.append([])
        mine = recorders[-1]

        def record(work: Work) -> Work:
            mine.append("recorded")
            return work

        return record

    for _ in range(2):
        graphs = GraphRunner(new_recorder, print)
        for _ in range(3):
            graphs.run("shape", lambda: None)
    assert recorders == [["recorded"], ["recorded"]]


def test_without_a_recorder_no_step_prepares_another() -> None:
    graphs = GraphRunner(None, print)
    graphs.run("shape", lambda: None)
    assert not graphs.has_prepared


def test_a_step_that_cannot_be_recorded_is_run_with_a_warning() -> None:
    done, warnings = list[int](), list[str]()

    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore of it")

    graphs = GraphRunner(lambda: refuse, warnings.append)
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

    graphs = GraphRunner(lambda: refuse, warnings.append)
    for _ in range(2):
        graphs.run("shape", lambda: None)
    assert len(warnings) == 1 and "(cannot copy while recording)" in warnings[0]


def run_out_of_memory(work: Work) -> Work:
    raise torch.OutOfMemoryError("CUDA out of memory")


def run_out_of_memory_and_fail_to_end(work: Work) -> Work:
    try:
        return run_out_of_memory(work)
    finally:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


@pytest.mark.parametrize("full", [run_out_of_memory, run_out_of_memory_and_fail_to_end])
def test_out_of_memory_while_recording_is_raised(full: Recorder) -> None:
    graphs = GraphRunner(lambda: full, print)
    graphs.run("shape", lambda: None)
    with pytest.raises(RuntimeError) as raised:
        graphs.run("shape", lambda: None)
    assert is_out_of_memory(raised.value)
