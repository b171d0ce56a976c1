"""A recognizer publishes what it is doing and how far it is, and no failure of the transport reaches it."""

from distil_ray.pipeline.worker_state import StatePublisher, WorkerPhase, WorkerState
from tests.support.waiting import wait_until


def test_states_follow_the_recognizer_from_loading_to_its_next_part() -> None:
    published: list[WorkerState] = []
    publisher = StatePublisher(published.append)
    wait_until(lambda: [state.phase for state in published] == [WorkerPhase.LOADING])

    publisher.set_transcribing("task", 3, 60.0, lambda: 12.0)
    wait_until(lambda: published[-1] == WorkerState(WorkerPhase.TRANSCRIBING, "task", 3, 60.0, 12.0))
    publisher.set_ready()
    wait_until(lambda: published[-1] == WorkerState(WorkerPhase.READY))


def test_a_part_in_recognition_is_never_reported_as_complete() -> None:
    published: list[WorkerState] = []
    StatePublisher(published.append).set_transcribing("task", 0, 60.0, lambda: 90.0)

    wait_until(lambda: bool(published) and published[-1].processed_s == 57.0)


def test_a_state_that_cannot_be_stored_harms_nothing() -> None:
    calls: list[WorkerState] = []

    def refuse(state: WorkerState) -> None:
        calls.append(state)
        if len(calls) == 1:
            raise OSError("the head node does not answer")

    publisher = StatePublisher(refuse)
    wait_until(lambda: len(calls) == 1)
    publisher.set_ready()
    wait_until(lambda: calls[-1].phase == WorkerPhase.READY)


def test_a_state_survives_its_transport() -> None:
    state = WorkerState(WorkerPhase.TRANSCRIBING, "task", 3, 60.0, 12.0)

    assert WorkerState.from_json(state.to_json()) == state
