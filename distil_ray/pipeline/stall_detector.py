"""Whether a run still moves: what is said when it does not, and when it is given up.

Fed now and then with what the executor shows of itself. Ray hangs without a word when a recognizer's place in the pool
stays empty (ray#62746), or when no node is left that could hold one. Movement is a receipt, or anything that enters or
leaves a stage, or a new attempt at a part (a recognizer that dies or is ended is replaced, and tries again). It may
rightly be busy with one part for as long as its own time limit; past that, stillness means that something is wrong.
Knows nothing of Ray: executor.py reads what Ray shows.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from distil_ray.errors import RunError

SAY_AFTER_S = 60.0  # without movement; then again after twice as long
MISSING_AFTER_S = 60.0  # a recognizer that is restarted needs so long to load its model


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the executor shows at one moment. `moved`: any numbers that change whenever a task moves."""

    moved: tuple[int, ...]
    decoding: int  # tasks at work
    waiting: int  # parts that no recognizer has in hand yet
    recognizing: int  # parts that recognizers have in hand, or had when they died
    alive: int  # recognizers
    coming: int  # recognizers that start, restart, or wait for a node with room
    committing: int
    ending: bool  # every part is with a recognizer or done: Ray now lets idle recognizers go
    cluster: str  # nodes, CPUs and GPUs that there are now

    def describe(self, wanted: int) -> str:
        return (
            f"{self.alive} of {wanted} recognizers alive"
            + (f", {self.coming} starting or waiting for room" if self.coming else "")
            + f"; {self.recognizing} parts with them, {self.waiting} waiting; {self.decoding} tasks being decoded,"
            f" {self.committing} parts being committed; {self.cluster}"
        )


class Watch:
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
        self._say_after_s = min(SAY_AFTER_S, self._timeout_s / 2)

    def _missing(self, snapshot: Snapshot, now_s: float) -> str | None:
        """A sentence, once, when fewer recognizers live than were asked for, and when all are back."""
        if snapshot.alive >= self._wanted or snapshot.ending:
            back = self._missing_said
            self._missing_since_s, self._missing_said = None, False
            return f"{snapshot.alive} of {self._wanted} recognizers are alive now" if back else None
        if self._missing_since_s is None:
            self._missing_since_s = now_s
        if self._missing_said or now_s - self._missing_since_s < MISSING_AFTER_S:
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
