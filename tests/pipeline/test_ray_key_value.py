"""Values in the key-value store of a real Ray: of one run and kind, stored once, kept when their process dies."""

import os

import pytest
import ray

from distil_ray.pipeline.attempts import Attempts
from distil_ray.pipeline.ray_key_value import RunValues, WorkerStates
from distil_ray.pipeline.worker_state import WorkerState
from tests.support.fakes import LocalWorker

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def values() -> RunValues:
    values = RunValues("a", "tests")
    values.clear()
    return values


def test_the_first_value_of_a_key_stays_until_it_is_replaced_or_deleted(values: RunValues) -> None:
    assert values.get("task/part-000000.1") is None
    assert values.create("task/part-000000.1", b"first")
    assert not values.create("task/part-000000.1", b"second")
    assert values.get("task/part-000000.1") == b"first"
    values.put("task/part-000000.1", b"third")
    assert (values.keys(), values.values()) == (["task/part-000000.1"], [b"third"])
    values.delete("task/part-000000.1")
    values.delete("task/part-000000.1")
    assert values.create("task/part-000000.1", b"fourth")


def test_runs_and_kinds_are_kept_apart(values: RunValues) -> None:
    others = [RunValues("ab", "tests"), RunValues("a", "others")]  # "ab" begins like "a"
    for number, each in enumerate((values, *others)):
        each.create("key", str(number).encode())
    values.clear()
    assert values.keys() == []
    assert [each.values() for each in others] == [[b"1"], [b"2"]]
    for each in others:
        each.clear()


def test_states_of_other_processes_are_read_and_cleared() -> None:
    states = WorkerStates("with-states")

    def publish() -> None:
        states.publish(WorkerState("ready"))

    ray.get(ray.remote(publish).remote())
    assert states.read() == (WorkerState("ready"),)
    states.clear()
    assert states.read() == ()


def test_an_attempt_outlives_the_process_that_dies_in_it(values: RunValues) -> None:
    def die() -> None:
        Attempts(values, LocalWorker(), 2).claim("task/part")
        os._exit(1)

    with pytest.raises(ray.exceptions.WorkerCrashedError):
        ray.get(ray.remote(max_retries=0)(die).remote())
    claim = Attempts(values, LocalWorker(), 2).claim("task/part")
    assert len(claim.deaths) == 1 and claim.key == "task/part.2"
    assert Attempts(values, LocalWorker(), 2).claim("task/part").used_up
    values.clear()
