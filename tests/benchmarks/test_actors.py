"""Many recognizers under one driver: what is computed from a run, the simulated end of runs, and a small run."""

import pytest

from benchmarks.scale.actors import (
    ActorsCost,
    DriverModel,
    actors_table,
    driver_table,
    fit_driver,
    run_faked_cluster,
    summarize,
)
from benchmarks.scale.faked_cluster import Reading, RunFigures, Scenario
from benchmarks.scale.tail import Pool, plan_part_durations, simulate_end
from distil_ray.config import PlanConfig


def _figures() -> RunFigures:
    """Two recognizers: one answers from 1 to 5 and from 5 to 9, the other from 2 to 6."""
    return RunFigures(
        results=[5.5, 6.5, 9.5],
        answers=[("a", 1.0, 5.0, 0), ("a", 5.0, 9.0, 2), ("b", 2.0, 6.0, 1)],
        readings=[Reading(at, 0.5 * at, 0.25 * at, 3, 2, 1, 0, 2, at) for at in (0.0, 4.0, 8.0, 12.0)],
        end_s=10.0,
        rss_mib=100.0,
        events=[],
        num_rows=3,
        num_failed=0,
        warnings=[],
    )


def test_the_figures_of_a_run_follow_from_the_times_of_its_parts() -> None:
    cost = summarize(Scenario(actors=2, parts=3, answer_s=4.0), _figures())
    assert (cost.start_s, cost.tail_s, cost.parts) == (2.0, 3.0, 3)
    assert cost.rate == pytest.approx(2 / 4)  # the ends of the steady time, from 2 to 6
    assert cost.busy_steady == pytest.approx(1.0)
    assert cost.busy == pytest.approx((3.5 + 0.5) / (2 * 4.0))  # between the results at 5.5 and 9.5
    assert (cost.driver_share, cost.ray_share) == pytest.approx((0.5, 0.25))
    assert list(cost.queues) == [1, 3, 2, 0]
    assert cost.store_mib == 12.0
    assert actors_table([cost]).row_count == 1


def _cost(actors: int, rate: float, share: float) -> ActorsCost:
    return ActorsCost(actors, 10, 1.0, rate, 1.0, 1.0, (0, 0, 0, 0), 0.0, share, 0.0, 0.0, 0.0, 0.0)


def test_the_cost_of_a_part_and_that_of_a_recognizer_follow_from_runs_of_several_sizes() -> None:
    model = DriverModel(base=0.05, per_part=0.02, per_actor=0.001)
    runs = [(4, 2.0), (4, 8.0), (48, 2.0), (48, 8.0)]
    found = fit_driver([_cost(actors, rate, 0.05 + 0.02 * rate + 0.001 * actors) for actors, rate in runs])
    assert (found.base, found.per_part, found.per_actor) == pytest.approx((0.05, 0.02, 0.001))
    # A recognizer of RTFx 200 asks for a part of 600 s every 3 s.
    assert model.most_actors(200.0, 600.0) == pytest.approx(0.95 / (0.02 / 3 + 0.001))
    assert driver_table(model).row_count > 0


def test_a_term_that_would_be_negative_is_left_out() -> None:
    found = fit_driver([_cost(actors, rate, 0.02 * rate) for actors, rate in [(4, 2.0), (8, 4.1), (48, 8.0)]])
    assert min(found.base, found.per_part, found.per_actor) >= 0


def test_equal_parts_end_together_and_a_slow_recognizer_ends_after_the_two_parts_it_holds() -> None:
    even = simulate_end([100.0] * 6, Pool(2, rtfx=10.0, spread=0.0, notice_s=0.0))
    assert (even.end_s, even.ideal_s, even.tail_s, even.lost) == pytest.approx((30.0, 30.0, 0.0, 0.0))
    slow = simulate_end([100.0] * 6, Pool(2, rtfx=10.0, num_slow=1, slow=5.0, spread=0.0, notice_s=0.0))
    assert slow.end_s == pytest.approx(100.0)
    assert slow.tail_s == pytest.approx(60.0)  # the other one has done the other four parts in 40 s


def test_smaller_last_tasks_hold_the_same_audio() -> None:
    plan = PlanConfig()
    usual, num_usual = plan_part_durations(100 * plan.task_audio_s, plan, 0.0)
    guided, num_guided = plan_part_durations(100 * plan.task_audio_s, plan, 0.02)
    assert sum(guided) == pytest.approx(sum(usual))
    assert (num_usual, len(usual)) == (101, 202)  # 33 recordings of 36 s do not fill a task of 1200 s
    assert num_usual < num_guided <= 1.06 * num_usual
    assert guided[-1] < usual[0] / 2


@pytest.mark.slow
def test_a_run_on_a_faked_cluster_answers_every_part_once() -> None:
    scenario = Scenario(actors=3, parts=12, answer_s=0.3, nodes=2)
    figures = run_faked_cluster(scenario)
    cost = summarize(scenario, figures)
    assert sorted(group for *_, group in figures.answers) == list(range(12))
    assert len(figures.results) == 12
    assert (figures.num_rows, figures.num_failed, cost.parts) == (12, 0, 12)
    assert len({name for name, *_ in figures.answers}) == 3
    assert cost.driver_share > 0
