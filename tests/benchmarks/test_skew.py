"""The simulation of the schedule, against schedules that can be computed by hand."""

import numpy as np
import pytest

from benchmarks.scale.skew import Cluster, plan_parts, simulate


def _cluster(**changes: float) -> Cluster:
    given = {"recognizers": 2, "rtfx": 10.0, "decoders": 4, "decode_rtfx": 1e9, "task_s": 0.0, "crash_s": 0.0}
    return Cluster(**{**given, **changes})  # type: ignore[arg-type]


def test_parts_hold_chunks_up_to_their_limit_and_the_longest_tasks_come_first() -> None:
    tasks = plan_parts(np.array([10.0, 10.0, 100.0, -5.0]), task_s=60.0, part_s=60.0, task_recordings=2)
    assert [[part.tolist() for part in task] for task in tasks] == [
        [[30.0, 30.0], [30.0, 10.0]],
        [[10.0, 10.0]],
        [[-5.0]],
    ]


def test_equal_parts_take_the_ideal_time() -> None:
    tasks = [[np.array([100.0])]] * 6
    found = simulate(tasks, _cluster())
    assert (found.end_s, found.ideal_s) == pytest.approx((30.0, 30.0), abs=1e-3)
    assert found.idle_end == pytest.approx(0.0, abs=1e-3)


def test_a_long_recording_is_bound_by_its_decoding() -> None:
    tasks = [[np.array([100.0])] * 8]
    found = simulate(tasks, _cluster(decode_rtfx=10.0))
    assert found.end_s == pytest.approx(8 * 10 + 10), "each part waits for its 10 s of decoding, the last one is heard"
    assert found.ideal_s == pytest.approx(40.0)


def test_crashed_decoders_cost_their_time_and_no_recognition() -> None:
    tasks = [[np.array([100.0, -100.0, -100.0])]]
    found = simulate(tasks, _cluster(crash_s=2.0, task_s=1.0))
    assert found.end_s == pytest.approx(1.0 + 2 * 2.0 + 10.0, abs=1e-3)
    assert found.idle_start == pytest.approx((5.0 + 15.0) / 30.0, abs=1e-3)


def test_decode_tasks_pause_while_enough_parts_wait() -> None:
    tasks = [[np.array([100.0])] * 50 for _ in range(4)]
    endless = simulate(tasks, _cluster(queue=1000))
    paused = simulate(tasks, _cluster(queue=2))
    assert paused.end_s == pytest.approx(endless.end_s, abs=1e-3) == pytest.approx(1000.0, abs=1e-3)
