"""Whether a run still moves: what is said when it does not, and when it is given up.

Fed now and then with what the executor shows of itself. Ray hangs without a word when a recognizer's place in the pool
stays empty (ray#62746), or when no node is left that could hold one. Movement is a receipt, or anything that enters or
leaves a stage, or a new attempt at a part (a recognizer that dies or is ended is replaced, and tries again). It may
rightly be busy with one part for as long as its own time limit; past that, stillness means that something is wrong.
Knows nothing of Ray: executor.py reads what Ray shows.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

from distil_ray.errors import RunError

WARN_AFTER_S = 60.0  # without movement; then again after twice as long
MISSING_WARN_AFTER_S = 60.0  # a recognizer that is restarted needs so long to load its model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the executor shows at one moment. `moved`: any numbers that change whenever a task moves."""

    moved: tuple[int, ...]
    decoding: int  # tasks at work
    waiting: int  # parts that no recognizer has in hand yet
    recognizing: int  # parts that recognizers have in hand, or had when they died
    alive: int  # recognizers
    starting: int  # recognizers that start, restart, or wait for a node with room
    committing: int
    draining: bool  # every part is with a recognizer or done: Ray now lets idle recognizers go
    cluster: str  # nodes, CPUs and GPUs that there are now

    def describe(self, wanted: int) -> str:
        return (
            f"{self.alive} of {wanted} recognizers alive"
            + (f", {self.starting} starting or waiting for room" if self.starting else "")
            + f"; {self.recognizing} parts with them, {self.waiting} waiting; {self.decoding} tasks being decoded,"
            f" {self.committing} parts being committed; {self.cluster}"
        )


class StallDetector:
    """Looks at snapshots; `look` gives what is worth saying, and raises `RunError` when the run has to be given up."""

    def __init__(
        self,
        timeout_s: float,
        part_limit_s: float,
        wanted: int,
        attempts: Callable[[], Sequence[object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`part_limit_s`: the longest that a recognizer may rightly keep one part; `wanted`: recognizers in the pool.

        `attempts` gives what stands of attempts now, to be compared; it is asked only when all else is still.
        """
        self._timeout_s = timeout_s
        self._part_limit_s = part_limit_s
        self._wanted = wanted
        self._attempts = attempts
        self._seen: Sequence[object] = ()
        self._clock = clock
        self._moved: tuple[int, ...] | None = None
        self._restart_clock(clock())
        self._missing_since_s: float | None = None
        self._missing_said = False

    def look(self, snapshot: Snapshot) -> str | None:
        """To be called every few seconds. What to tell people, or None."""
        now_s = self._clock()
        if snapshot.moved != self._moved:
            self._moved = snapshot.moved
            self._restart_clock(now_s)
        still_s = now_s - self._still_since_s
        at_work = snapshot.alive > 0 and snapshot.recognizing > 0
        rightly_s = self._part_limit_s if at_work else 0.0
        if still_s < rightly_s + min(self._say_after_s, self._timeout_s):
            return self._missing(snapshot, now_s)
        if (seen := self._attempts()) != self._seen:
            self._seen = seen
            self._restart_clock(now_s)
            return None
        if still_s >= rightly_s + self._timeout_s:
            raise RunError(self._farewell(snapshot, still_s))
        self._say_after_s *= 2
        return f"nothing has moved for {_duration(still_s)}: {snapshot.describe(self._wanted)}"

    def _restart_clock(self, now_s: float) -> None:
        self._still_since_s = now_s
        self._say_after_s = min(WARN_AFTER_S, self._timeout_s / 2)

    def _missing(self, snapshot: Snapshot, now_s: float) -> str | None:
        """A sentence, once, when fewer recognizers live than were asked for, and when all are back."""
        if snapshot.alive >= self._wanted or snapshot.draining:
            back = self._missing_said
            self._missing_since_s, self._missing_said = None, False
            return f"{snapshot.alive} of {self._wanted} recognizers are alive now" if back else None
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if self._missing_said or now_s - self._missing_since_s < MISSING_WARN_AFTER_S:
            return None
        self._missing_said = True
        return f"fewer recognizers than asked for: {snapshot.describe(self._wanted)}"

    def _farewell(self, snapshot: Snapshot, still_s: float) -> str:
        if snapshot.alive:
            remedy = (
                "Look at the workers' logs (ray logs, or the dashboard); raise resources.stall_timeout_s if this wait"
                " was to be expected."
            )
        else:
            remedy = (
                "No recognizer is there: see that a node has the CPUs and GPUs that resources.cpus_per_actor and"
                " resources.gpus_per_actor ask for, or ask for fewer resources.actors."
            )
        return (
            f"the run has not moved for {_duration(still_s)} (resources.stall_timeout_s={self._timeout_s:g}) and is"
            f" given up: {snapshot.describe(self._wanted)}. {remedy} The same command goes on from what is committed."
        )


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


logger = logging.getLogger(__name__)


class ExecutionObserver:
    """An execution callback of Ray Data. Ray makes one itself for each execution: what it learns is the class's.

    A process runs one data set at a time, as a job does.
    """

    executor: ClassVar[Any] = None  # ray.data's StreamingExecutor while one runs

    def before_execution_starts(self, executor: Any) -> None:
        ExecutionObserver.executor = executor

    def on_execution_step(self, executor: Any) -> None:
        """Called in the executor's own thread, between two steps of its loop."""
        _release_dead_actors(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        ExecutionObserver.executor = None

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        ExecutionObserver.executor = None


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
        starting=pool.num_pending_actors() + pool.num_restarting_actors(),
        committing=sum(stage.num_active_tasks() for stage, _ in stages[pool_at + 1 :]),
        draining=recognize._inputs_complete and not recognize_state.total_enqueued_input_blocks(),
        cluster=cluster,
    )


def _counts(stage: Any, state: Any) -> Iterator[int]:
    yield stage.metrics.num_outputs_taken
    yield state.total_enqueued_input_blocks()
    yield state.total_enqueued_output_blocks()


def _release_dead_actors(executor: Any) -> None:
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


def num_actors_alive() -> int | None:
    """Recognizer actors that live now; None while no graph runs."""
    executor = ExecutionObserver.executor
    snapshot = take_snapshot(executor, "") if executor is not None else None
    return snapshot.alive if snapshot is not None else None
