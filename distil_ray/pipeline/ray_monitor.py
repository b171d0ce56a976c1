"""State of a running Ray Data graph: snapshots of the executor, and detection of stalls.

Ray waits silently when a dead actor stays in the pool (ray#62746), or when no node is left that could hold one.
`take_snapshot` reads the state of the executor, `StallDetector` decides from them when to warn and when to end
the run, `ExecutionObserver` hands out the executor and releases dead actors.

Ray has no public way to ask for this state without its dashboard. Private attributes of `StreamingExecutor` that are
read here may change between versions of Ray; a test checks them against the installed version. The module does not
import Ray: the executor is passed in by a callback
(`DataContext.custom_execution_callback_classes`).
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from distil_ray.cli.console import format_elapsed
from distil_ray.errors import RunError
from distil_ray.pipeline.worker_state import WorkerState

WARN_AFTER_S = 60.0  # without progress; each further warning after twice as long
RELEASE_INTERVAL_S = 1.0  # between two searches for dead actors; each takes time in proportion to their number
MISSING_WARN_AFTER_S = 60.0  # a restarted recognizer needs about this long to load its model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """State of the stages around the actor pool at one moment."""

    progress: tuple[int, ...]  # counters of all stages; they change whenever data moves between stages
    decoding: int  # tasks being decoded
    waiting: int  # parts not yet assigned to a recognizer
    recognizing: int  # parts assigned to recognizers, dead ones included
    alive: int  # recognizer actors
    starting: int  # recognizer actors that start, restart, or wait for resources
    committing: int  # parts being committed
    draining: bool  # no part is waiting any more: Ray now stops idle recognizers
    cluster: str  # nodes, CPUs and GPUs, for messages
    workers: tuple[WorkerState, ...] = ()  # states that recognizer actors have published

    def describe(self, requested: int) -> str:
        """Returns the state in one line."""
        return (
            f"{self.alive} of {requested} recognizers alive"
            + (f", {self.starting} starting or waiting for resources" if self.starting else "")
            + f"; {self.recognizing} parts assigned, {self.waiting} waiting; {self.decoding} tasks being decoded,"
            f" {self.committing} parts being committed; {self.cluster}"
        )


class StallDetector:
    """Watches snapshots of the execution; call `check` every few seconds.

    Progress is any change of the counters of the stages, or a new attempt at a part (by the replacement of a recognizer
    that died or was ended). One part may take up to its own time limit; no progress beyond that limit is a stall.

    Args:
        timeout_s: `resources.stall_timeout_s`: end the run after this long without progress.
        part_limit_s: Longest time that a recognizer may spend on one part.
        requested: Recognizer actors in the pool.
        attempts: Returns the attempts at parts that exist now. Called only when nothing else has changed.
        clock: Monotonic clock.
    """

    def __init__(
        self,
        timeout_s: float,
        part_limit_s: float,
        requested: int,
        attempts: Callable[[], Sequence[object]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = timeout_s
        self._part_limit_s = part_limit_s
        self._requested = requested
        self._attempts = attempts
        self._last_attempts: Sequence[object] = ()
        self._clock = clock
        self._progress: tuple[int, ...] | None = None
        self._restart_clock(clock())
        self._missing_since_s: float | None = None
        self._missing_warned = False

    def check(self, snapshot: Snapshot) -> str | None:
        """Returns a warning, or None. Raises `RunError` after `timeout_s` without progress."""
        now_s = self._clock()
        if snapshot.progress != self._progress:
            self._progress = snapshot.progress
            self._restart_clock(now_s)
        idle_s = now_s - self._idle_since_s
        is_busy = snapshot.alive > 0 and snapshot.recognizing > 0
        allowed_s = self._part_limit_s if is_busy else 0.0
        if idle_s < allowed_s + min(self._warn_after_s, self._timeout_s):
            return self._check_missing(snapshot, now_s)
        if (attempts := self._attempts()) != self._last_attempts:
            self._last_attempts = attempts
            self._restart_clock(now_s)
            return None
        if idle_s >= allowed_s + self._timeout_s:
            raise RunError(self._stall_message(snapshot, idle_s))
        self._warn_after_s *= 2
        return f"no progress for {format_elapsed(idle_s)}: {snapshot.describe(self._requested)}"

    def _restart_clock(self, now_s: float) -> None:
        self._idle_since_s = now_s
        self._warn_after_s = min(WARN_AFTER_S, self._timeout_s / 2)

    def _check_missing(self, snapshot: Snapshot, now_s: float) -> str | None:
        """Returns a warning, once, when fewer recognizers are alive than requested, and a message when all are back."""
        if snapshot.alive >= self._requested or snapshot.draining:
            back = self._missing_warned
            self._missing_since_s, self._missing_warned = None, False
            return f"{snapshot.alive} of {self._requested} recognizers are alive now" if back else None
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if self._missing_warned or now_s - self._missing_since_s < MISSING_WARN_AFTER_S:
            return None
        self._missing_warned = True
        return f"fewer recognizers than requested: {snapshot.describe(self._requested)}"

    def _stall_message(self, snapshot: Snapshot, idle_s: float) -> str:
        if snapshot.alive:
            remedy = (
                "See the logs of the workers (ray logs, or the dashboard). Raise resources.stall_timeout_s if this wait"
                " is expected."
            )
        else:
            remedy = (
                "No recognizer is alive: check that a node has the CPUs and GPUs that resources.cpus_per_actor and"
                " resources.gpus_per_actor request, or lower resources.actors."
            )
        return (
            f"the run has made no progress for {format_elapsed(idle_s)} (resources.stall_timeout_s={self._timeout_s:g})"
            f" and is stopped: {snapshot.describe(self._requested)}. {remedy} Re-run the same command to resume."
        )


logger = logging.getLogger(__name__)


class ExecutionObserver:
    """Execution callback of Ray Data, which makes the running executor available.

    Ray creates one instance per execution, so the executor is stored in the class: one data set at a time per process.
    """

    executor: ClassVar[Any] = None  # ray.data's StreamingExecutor while one runs

    def __init__(self) -> None:
        self._released_at_s = 0.0

    def before_execution_starts(self, executor: Any) -> None:
        ExecutionObserver.executor = executor

    def on_execution_step(self, executor: Any) -> None:
        """Called in the executor's thread, between two steps of its loop."""
        now_s = time.monotonic()
        if now_s - self._released_at_s >= RELEASE_INTERVAL_S:
            self._released_at_s = now_s
            _release_dead_actors(executor)

    def after_execution_succeeds(self, executor: Any) -> None:
        ExecutionObserver.executor = None

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        ExecutionObserver.executor = None


def take_snapshot(executor: Any, cluster: str) -> Snapshot | None:
    """Returns the state of the execution; None before the stages are set up. May be called from any thread.

    Args:
        executor: Ray Data's `StreamingExecutor`.
        cluster: Description of the cluster, for messages.
    """
    stages = list(executor._topology.items())
    positions = [position for position, (stage, _) in enumerate(stages) if hasattr(stage, "_actor_pool")]
    if not positions:
        return None
    pool_at = positions[0]
    recognize, recognize_state = stages[pool_at]
    pool = recognize._actor_pool
    return Snapshot(
        progress=tuple(number for stage, state in stages for number in _counts(stage, state)),
        decoding=stages[pool_at - 1][0].num_active_tasks(),
        waiting=recognize_state.total_enqueued_input_blocks(),
        recognizing=pool.num_tasks_in_flight(),
        alive=len(pool._alive_actors_to_in_flight_tasks_heap),
        starting=pool.num_pending_actors() + pool.num_restarting_actors(),
        committing=sum(stage.num_active_tasks() for stage, _ in stages[pool_at + 1 :]),
        draining=recognize._inputs_complete and not recognize_state.total_enqueued_input_blocks(),
        cluster=cluster,
    )


def add_snapshots(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Returns the state of executions that share a run; there is at least one."""

    def total(name: str) -> int:
        return sum(getattr(each, name) for each in snapshots)

    return Snapshot(
        progress=tuple(number for each in snapshots for number in each.progress),
        decoding=total("decoding"),
        waiting=total("waiting"),
        recognizing=total("recognizing"),
        alive=total("alive"),
        starting=total("starting"),
        committing=total("committing"),
        draining=any(each.draining for each in snapshots),
        cluster=snapshots[-1].cluster,
    )


def _counts(stage: Any, state: Any) -> Iterator[int]:
    yield stage.metrics.num_outputs_taken
    yield state.total_enqueued_input_blocks()
    yield state.total_enqueued_output_blocks()


def _release_dead_actors(executor: Any) -> None:
    """Removes idle actors from the pool that are dead for good, so that the pool starts others.

    An actor whose restart failed stays in Ray's pool as if it were alive, and never gets work again (ray#62746).
    """
    for stage in executor._topology:
        pool = getattr(stage, "_actor_pool", None)
        if pool is None:
            continue
        for actor, state in list(pool._running_actors.items()):
            alive = actor in pool._alive_actors_to_in_flight_tasks_heap
            if not alive and not state.is_restarting and state.num_tasks_in_flight == 0:
                logger.warning("a recognizer actor is dead for good; another one replaces it")
                pool._release_running_actor(actor)


def num_actors_alive() -> int | None:
    """Returns the number of recognizer actors that are alive; None while no graph runs."""
    executor = ExecutionObserver.executor
    pools = (getattr(stage, "_actor_pool", None) for stage in executor._topology or ()) if executor is not None else ()
    pool = next((pool for pool in pools if pool is not None), None)
    return len(pool._alive_actors_to_in_flight_tasks_heap) if pool is not None else None
