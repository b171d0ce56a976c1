"""Many recognizers under one driver: are they kept busy, and what do a part and a recognizer cost the driver?

`faked_cluster.py` runs the job on a local cluster with faked GPUs, once for each number of recognizers and each number
of parts a second. Few recognizers with many parts and many with few tell the cost of a part from that of a recognizer,
and so the number of recognizers at which the driver needs a whole core can be computed. One machine cannot run as many.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.scale.faked_cluster import Reading, RunFigures, Scenario
from benchmarks.scale.runs import run_module
from benchmarks.settings import ScaleSettings
from distil_ray.config import PlanConfig
from distil_ray.errors import RunError

RTFX = (50.0, 200.0, 1000.0, 5000.0)  # of a recognizer, for the numbers of them that a driver can feed


@dataclass(frozen=True, slots=True)
class ActorsCost:
    """A run with recognizers that sleep.

    The steady time lasts from the moment when every recognizer has begun a part to the first that has ended its last.

    Attributes:
        actors: Recognizers.
        parts: Parts that were recognized.
        answer_s: Seconds that one takes for a part.
        rate: Parts a second, in the steady time.
        busy: Share of the recognizers' time between the first result and the last that they spend on parts.
        busy_steady: The same of the steady time.
        queues: Means in the steady time: tasks being decoded, parts that wait, are assigned, are written.
        store_mib: Most object store that Ray Data accounts to the graph.
        driver_share: CPU seconds of the driver in a second of the steady time.
        ray_share: The same of the raylets and of the GCS.
        rss_mib: Memory of the driver at its end.
        start_s: Seconds from the start of the graph until every recognizer has begun a part.
        tail_s: Seconds from the first recognizer that has ended its last part to the last one.
        executors: Processes that schedule; with one it is the driver.
        executors_share: CPU seconds in a second of the steady time of these processes, if they are not the driver.
    """

    actors: int
    parts: int
    answer_s: float
    rate: float
    busy: float
    busy_steady: float
    queues: tuple[float, float, float, float]
    store_mib: float
    driver_share: float
    ray_share: float
    rss_mib: float
    start_s: float
    tail_s: float
    executors: int = 1
    executors_share: float = 0.0


def run_faked_cluster(scenario: Scenario) -> RunFigures:
    """Runs a scenario in a process of its own. Raises `RunError` if it fails or does not give every row once."""
    process = run_module("faked_cluster", [json.dumps(asdict(scenario))])
    fields = json.loads(process.stdout.splitlines()[-1])
    figures = RunFigures(**fields | {"readings": [Reading(**reading) for reading in fields["readings"]]})
    if figures.num_rows != scenario.parts:
        raise RunError(f"the run has {figures.num_rows} rows of {scenario.parts} recordings")
    return figures


def summarize(scenario: Scenario, figures: RunFigures, executors: int = 1) -> ActorsCost:
    """Returns the cost of a run from its figures."""
    begins, ends = (np.array([answer[i] for answer in figures.answers]) for i in (1, 2))
    names = np.array([answer[0] for answer in figures.answers])
    actors = np.unique(names)
    start_s = max(begins[names == name].min() for name in actors)
    drain_s = max(min(ends[names == name].max() for name in actors), start_s + 1e-3)
    steady_s = drain_s - start_s
    driver_s, ray_s = (_between(figures.readings, name, start_s, drain_s) for name in ("driver_s", "ray_s"))
    steady = [one for one in figures.readings if start_s <= one.at_s <= drain_s]
    states = np.array([[one.decoding, one.waiting, one.recognizing, one.writing] for one in steady or figures.readings])
    decoding, waiting, recognizing, writing = states.mean(0).tolist()
    return ActorsCost(
        actors=scenario.actors,
        parts=len(figures.results),
        answer_s=scenario.answer_s,
        rate=np.count_nonzero((ends > start_s) & (ends <= drain_s)) / steady_s,
        busy=_busy(begins, ends, figures.results[0], figures.results[-1]) / scenario.actors,
        busy_steady=_busy(begins, ends, start_s, drain_s) / scenario.actors,
        queues=(decoding, waiting, recognizing, writing),
        store_mib=max(one.store_mib for one in figures.readings),
        driver_share=driver_s / steady_s,
        ray_share=ray_s / steady_s,
        rss_mib=figures.rss_mib,
        start_s=start_s,
        tail_s=float(ends.max()) - drain_s,
        executors=executors,
        executors_share=_between(figures.readings, "executors_s", start_s, drain_s) / steady_s,
    )


def _busy(begins: NDArray[np.float64], ends: NDArray[np.float64], begin: float, end: float) -> float:
    """Returns the mean number of recognizers at work between two times."""
    overlaps = np.minimum(ends, end) - np.maximum(begins, begin)
    return float(np.maximum(overlaps, 0.0).sum()) / (end - begin)


def _between(readings: Sequence[Reading], name: str, begin: float, end: float) -> float:
    """Returns how much a figure has grown between two times."""
    times = [one.at_s for one in readings]
    return float(np.diff(np.interp([begin, end], times, [getattr(one, name) for one in readings]))[0])


@dataclass(frozen=True, slots=True)
class DriverModel:
    """CPU seconds of the driver in a second: ``base + per_part * parts a second + per_actor * recognizers``."""

    base: float
    per_part: float
    per_actor: float

    def most_actors(self, rtfx: float, part_audio_s: float, cores: float = 1.0) -> float:
        """Returns the recognizers of a speed whose parts take so many cores of the driver."""
        each = self.per_part * rtfx / part_audio_s + self.per_actor
        return max(cores - self.base, 0.0) / each if each else float("inf")


def fit_driver(costs: Sequence[ActorsCost]) -> DriverModel:
    """Returns the model with the least squares of relative errors, without negative terms.

    Only runs that the driver schedules count.
    """
    costs = [one for one in costs if one.executors == 1]
    rows = np.array([[1.0, one.rate, one.actors] for one in costs])
    found = np.array([one.driver_share for one in costs])
    kept = list(range(rows.shape[1]))
    while True:
        terms, *_ = np.linalg.lstsq(rows[:, kept] / found[:, None], np.ones(len(found)), rcond=None)
        if not len(terms) or terms.min() >= 0:
            break
        kept.pop(int(terms.argmin()))
    values = np.zeros(rows.shape[1])
    values[kept] = terms
    return DriverModel(*values.tolist())


def measure_actors(settings: ScaleSettings) -> list[ActorsCost]:
    """Runs every number of recognizers at every rate. Raises `RunError` if a run fails."""
    costs = []
    for actors in settings.actors:
        for rate in settings.actor_rates:
            parts = round(rate * settings.actor_s) + 2 * actors
            for executors in settings.actor_executors:
                scenario = Scenario(
                    actors,
                    parts,
                    actors / rate,
                    settings.actor_part_s,
                    settings.actor_nodes,
                    overrides=(f"resources.executors={executors}",),
                )
                costs.append(summarize(scenario, run_faked_cluster(scenario), executors))
    return costs


def actors_table(costs: Sequence[ActorsCost]) -> Table:
    """Returns the figures of the runs."""
    grid = Table(title="Recognizers that sleep, on faked GPUs")
    for heading in (
        *("recognizers", "s a part", "parts", "parts/s", "busy", "busy, steady", "decoding", "waiting", "assigned"),
        *("writing", "object store MiB", "processes", "driver, cores", "processes, cores", "driver ms a part"),
        *("Ray ms a part", "driver MiB"),
        *("s to all busy", "s of the tail"),
    ):
        grid.add_column(heading, justify="right")
    for one in costs:
        grid.add_row(
            *(str(one.actors), f"{one.answer_s:.2f}", str(one.parts), f"{one.rate:.1f}"),
            *(f"{100 * one.busy:.1f} %", f"{100 * one.busy_steady:.1f} %"),
            *(f"{queue:.1f}" for queue in one.queues),
            *(f"{one.store_mib:.1f}", str(one.executors), f"{one.driver_share:.2f}", f"{one.executors_share:.2f}"),
            *(
                f"{1000 * one.driver_share / one.rate:.1f}",
                f"{1000 * one.ray_share / one.rate:.1f}",
                f"{one.rss_mib:.0f}",
            ),
            *(f"{one.start_s:.1f}", f"{one.tail_s:.1f}"),
        )
    return grid


def driver_table(model: DriverModel) -> Table:
    """Returns the numbers of recognizers that one core of the driver feeds, computed."""
    part_s = PlanConfig().part_audio_s
    grid = Table(
        title=f"Recognizers that a core of the driver feeds (computed: {1000 * model.base:.0f} ms a second,"
        f" {1000 * model.per_part:.1f} ms a part, {1000 * model.per_actor:.2f} ms a second for each recognizer)"
    )
    for heading in ("RTFx of one", *(f"parts of {length:g} s" for length in (part_s, 1800.0, 3600.0))):
        grid.add_column(heading, justify="right")
    for rtfx in RTFX:
        grid.add_row(f"{rtfx:g}", *(f"{model.most_actors(rtfx, length):,.0f}" for length in (part_s, 1800.0, 3600.0)))
    return grid
