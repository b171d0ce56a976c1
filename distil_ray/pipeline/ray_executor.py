"""What Ray Data's executor shows of itself, and a place in the actor pool that it would leave empty.

Ray has no public way to ask how a running data set is doing without its dashboard, so this reads attributes of
`StreamingExecutor` that may change between versions: all of them stand here, and a test holds them against the Ray that
is installed. Imports nothing of Ray: the executor comes through `DataContext.custom_execution_callback_classes`.
"""

import logging
from collections.abc import Iterator
from typing import Any, ClassVar

from distil_ray.pipeline.stall_detector import Snapshot

logger = logging.getLogger(__name__)


class Observer:
    """An execution callback of Ray Data. Ray makes one itself for each execution: what it learns is the class's.

    A process runs one data set at a time, as a job does.
    """

    executor: ClassVar[Any] = None  # ray.data's StreamingExecutor while one runs

    def before_execution_starts(self, executor: Any) -> None:
        Observer.executor = executor

    def on_execution_step(self, executor: Any) -> None:
        """Called in the executor's own thread, between two steps of its loop."""
        _replace_dead(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        Observer.executor = None

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        Observer.executor = None


def take_snapshot(executor: Any, cluster: str) -> Snapshot | None:
    """The state of the stages around the actor pool; None before they are set up. May be called from any thread."""
    stages = list(executor._topology.items())
    places = [place for place, (stage, _) in enumerate(stages) if hasattr(stage, "_actor_pool")]
    if not places:
        return None
    pool_at = places[0]
    recognize, recognize_state = stages[pool_at]
    pool = recognize._actor_pool
    return Snapshot(
        moved=tuple(number for stage, state in stages for number in _counts(stage, state)),
        decoding=stages[pool_at - 1][0].num_active_tasks(),
        waiting=recognize_state.total_enqueued_input_blocks(),
        recognizing=pool.num_tasks_in_flight(),
        alive=len(pool._alive_actors_to_in_flight_tasks_heap),
        coming=pool.num_pending_actors() + pool.num_restarting_actors(),
        committing=sum(stage.num_active_tasks() for stage, _ in stages[pool_at + 1 :]),
        ending=recognize._inputs_complete and not recognize_state.total_enqueued_input_blocks(),
        cluster=cluster,
    )


def _counts(stage: Any, state: Any) -> Iterator[int]:
    yield stage.metrics.num_outputs_taken
    yield state.total_enqueued_input_blocks()
    yield state.total_enqueued_output_blocks()


def _replace_dead(executor: Any) -> None:
    """Lets go of idle actors that are dead for good: the pool, now too small, then starts others.

    An actor whose restart failed stays in Ray's pool as if it lived and is never given work again (ray#62746).
    """
    for stage in executor._topology:
        pool = getattr(stage, "_actor_pool", None)
        if pool is None:
            continue
        for actor, state in list(pool._running_actors.items()):
            alive = actor in pool._alive_actors_to_in_flight_tasks_heap
            if not alive and not state.is_restarting and state.num_tasks_in_flight == 0:
                logger.warning("a recognizer actor is dead for good; another takes its place")
                pool._release_running_actor(actor)
