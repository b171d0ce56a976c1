"""A run that stands still is noticed, told of, and given up; one that is only slow is left alone."""

from dataclasses import dataclass, field, replace

import pytest

from distil_ray.errors import RunError
from distil_ray.pipeline.ray_monitor import Snapshot, StallDetector, add_snapshots

BUSY = Snapshot(
    (0,), decoding=0, waiting=2, recognizing=2, alive=2, starting=0, committing=0, draining=False, cluster="Ray"
)
NOBODY = replace(BUSY, alive=0, starting=2)


@dataclass
class Watched:
    """A watch over two recognizers: given up after 600 s, an hour for a part; time passes in steps of 5 s."""

    now_s: float = 0.0
    attempts: list[str] = field(default_factory=list)
    told: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = StallDetector(600, 3600, 2, lambda: tuple(self.attempts), clock=lambda: self.now_s)

    def wait(self, seconds: float, snapshot: Snapshot) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 5
            words = self.watch.check(snapshot)
            if words:
                self.told.append((self.now_s, words))


def test_executions_that_share_a_run_are_added_up() -> None:
    other = replace(BUSY, progress=(5,), waiting=1, alive=3, draining=True)
    both = add_snapshots([BUSY, other])
    assert (both.progress, both.waiting, both.alive, both.recognizing) == ((0, 5), 3, 5, 4)
    assert both.draining and both.cluster == "Ray"


def test_a_part_may_take_as_long_as_its_recognizer_is_allowed() -> None:
    watched = Watched()
    watched.wait(3600, BUSY)
    assert watched.told == []


def test_a_recognizer_that_outlives_its_limit_is_reported_and_then_given_up() -> None:
    watched = Watched()
    with pytest.raises(RunError, match=r"2 of 2 recognizers alive; 2 parts assigned, 2 waiting") as caught:
        watched.wait(3600 + 700, BUSY)
    assert "resources.stall_timeout_s=600" in str(caught.value)
    assert "Re-run the same command" in str(caught.value)
    assert 3600 < watched.told[0][0] < 3700


def test_a_pool_without_recognizers_is_reported_after_a_minute_and_given_up_after_the_timeout() -> None:
    watched = Watched()
    with pytest.raises(RunError, match="No recognizer is alive: check that a node has the CPUs and GPUs"):
        watched.wait(1000, NOBODY)
    assert watched.now_s == 605
    assert watched.told[0][0] <= 70
    assert "0 of 2 recognizers alive, 2 starting or waiting for resources" in watched.told[0][1]
    assert len(watched.told) <= 5  # ever more seldom


def test_whatever_moves_starts_the_clock_again() -> None:
    watched = Watched()
    for number in range(10):
        watched.wait(500, replace(NOBODY, progress=(number,)))


def test_a_new_attempt_at_a_part_is_movement() -> None:
    watched = Watched()
    for number in range(5):
        watched.attempts.append(f"part.{number}")
        watched.wait(3600, BUSY)
    with pytest.raises(RunError):
        watched.wait(2 * (3600 + 700), BUSY)


def test_a_lacking_recognizer_is_reported_once_and_so_is_its_return() -> None:
    watched = Watched()
    for number in range(100):
        watched.wait(10, replace(BUSY, progress=(number,), alive=1, starting=1))
    for number in range(100, 200):
        watched.wait(10, replace(BUSY, progress=(number,)))
    assert [words.split(":")[0] for _, words in watched.told] == [
        "fewer recognizers than requested",
        "2 of 2 recognizers are alive now",
    ]


def test_recognizers_that_are_let_go_at_the_end_are_not_missed() -> None:
    watched = Watched()
    watched.wait(1000, replace(BUSY, waiting=0, recognizing=1, alive=1, draining=True))
    assert watched.told == []
