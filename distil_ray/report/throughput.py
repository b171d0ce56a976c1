"""Throughput and live recognizers over the time of a run, and its cost in hours.

Computed from the times of the commit results in events.jsonl. The audio of a result was processed since the previous
result, so throughput is averaged over intervals of several results.
"""

from dataclasses import dataclass

import numpy as np

from distil_ray.report.charts import Plot, plot_steps
from distil_ray.report.run_folder import Floats, RunEvents, RunFolder

MAX_INTERVALS = 60
RESULTS_PER_INTERVAL = 3
MAX_CHANGES = 300  # changes of the number of recognizers that are drawn


@dataclass(frozen=True, slots=True)
class RunThroughput:
    """Throughput and recognizers over time.

    Attributes:
        end_s: Seconds from the start of the recognizers to the last result.
        actor_s: Seconds of all recognizers together.
        rtfx_plot: Audio seconds per second over time; None for fewer than two results.
        actors_plot: Live recognizers over time; None if their number is unknown.
    """

    end_s: float
    actor_s: float
    rtfx_plot: Plot | None
    actors_plot: Plot | None


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of wall time, of all recognizers and of all GPUs, and the wall time that `plan.rtfx` predicts.

    A value is None if it is unknown.
    """

    wall_s: float | None
    actor_s: float | None
    gpu_s: float | None
    expected_s: float | None


def compute_throughput(events: RunEvents) -> RunThroughput | None:
    """Returns the throughput of a run, or None if it has no results with a time."""
    at, audio, alive = events.at_s, events.audio_s, events.actors_alive
    if not len(at):
        return None
    end_s = float(at[-1])
    begins = np.concatenate([[0.0], at[:-1]])
    actor_s = float((np.diff(np.concatenate([[0.0], at])) * alive).sum())
    return RunThroughput(end_s, actor_s, _throughput(at, audio, end_s), _actors(begins, alive, end_s))


def compute_cost(folder: RunFolder, throughput: RunThroughput | None) -> Cost:
    """Returns the cost of a run. GPU time is that of the recognizers, which hold their GPUs while they are alive."""
    summary, rtfx = folder.summary, folder.config.plan.rtfx
    actor_s = throughput.actor_s if throughput and throughput.actor_s else None
    gpus = folder.config.resources.gpus_per_actor
    return Cost(
        wall_s=summary["wall_s"] if summary else None,
        actor_s=actor_s,
        gpu_s=actor_s * gpus if actor_s is not None and gpus else None,
        expected_s=folder.planned.estimated_s / rtfx if rtfx else None,
    )


def _throughput(at: Floats, audio: Floats, end_s: float) -> Plot | None:
    num = int(np.clip(len(at) // RESULTS_PER_INTERVAL, 1, MAX_INTERVALS))
    if len(at) < 2:
        return None
    borders = np.linspace(0, end_s, num + 1)
    sums, _ = np.histogram(at, borders, weights=audio)
    rates = sums / np.diff(borders)
    label = f"Audio seconds per second over time: {audio.sum() / end_s:,.1f} on average"
    return plot_steps(borders[:-1], rates, end_s, "area", label, lambda rate: f"RTFx {rate:,.1f}")


def _actors(begins: Floats, alive: Floats, end_s: float) -> Plot | None:
    if not alive.any():
        return None
    if len(alive) > MAX_CHANGES:  # the lowest number of several neighboring results
        starts = np.arange(0, len(alive), -(-len(alive) // MAX_CHANGES))
        begins, alive = begins[starts], np.minimum.reduceat(alive, starts)
    changes = np.flatnonzero(np.concatenate([[True], alive[1:] != alive[:-1]]))
    label = f"Live recognizers over time: {alive.min():.0f} to {alive.max():.0f}"
    return plot_steps(begins[changes], alive[changes], end_s, "area second", label, lambda num: f"{num:.0f} alive")
