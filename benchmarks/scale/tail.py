"""The end of a run with many recognizers, simulated: time that is lost after the first one has nothing left to do.

Tasks come from the job's planner, once as it plans and once without smaller tasks at the end. Decoding is never the
limit here (`skew.py` is about that). As in the graph, a recognizer is given a second part while it works on one, the
least loaded one first, and the driver learns of a result a moment later. The speed of parts varies at random with a
fixed seed; some recognizers may be slower than others throughout.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.table import Table

from distil_ray.config import PlanConfig
from distil_ray.output.ledger import KEY
from distil_ray.pipeline.task_packing import TAIL_SHARE, pack_tasks
from distil_ray.types import SAMPLE_RATE

RECORDING_S = 36.0
HELD = 2  # parts that a recognizer is given at the same time, as `ray_graph.PARTS_PER_ACTOR`


@dataclass(frozen=True, slots=True)
class Pool:
    """Recognizers to simulate.

    Attributes:
        recognizers: Number of recognizers.
        rtfx: Seconds of audio that one recognizes in a second.
        num_slow: Recognizers that take `slow` times as long.
        slow: See `num_slow`.
        spread: Standard deviation of the logarithm of the time of a part.
        notice_s: Seconds until the driver has learned of a result and assigns another part.
    """

    recognizers: int
    rtfx: float = 200.0
    num_slow: int = 0
    slow: float = 5.0
    spread: float = 0.2
    notice_s: float = 0.15


@dataclass(frozen=True, slots=True)
class Ending:
    """End of a simulated run.

    Attributes:
        end_s: Seconds to the end.
        ideal_s: Seconds that the same work takes if it is divided as it would have to be.
        tail_s: Seconds from the first recognizer that ends its last part to the last one.
        lost: Share of the recognizers' time that is lost in the tail.
    """

    end_s: float
    ideal_s: float
    tail_s: float
    lost: float


def plan_part_durations(total_s: float, plan: PlanConfig, tail_share: float) -> tuple[list[float], int]:
    """Returns the seconds of each part, in the order of work, and the number of tasks; of `RECORDING_S` recordings."""
    num_recordings = round(total_s / RECORDING_S)
    samples = np.full(num_recordings, round(RECORDING_S * SAMPLE_RATE))
    alone = np.zeros(num_recordings, np.uint64)
    task_samples = round(plan.task_audio_s * SAMPLE_RATE)
    _, starts = pack_tasks(
        samples, np.zeros(num_recordings, KEY), alone, task_samples, plan.task_recordings, tail_share=tail_share
    )
    tasks = (np.diff(starts) * RECORDING_S).tolist()
    parts: list[float] = []
    for task_s in tasks:
        full, rest = divmod(task_s, plan.part_audio_s)
        parts += [plan.part_audio_s] * round(full) + ([rest] if rest else [])
    return parts, len(tasks)


def simulate_end(parts: Sequence[float], pool: Pool, seed: int = 0) -> Ending:
    """Plays the assignment of parts, given in seconds of audio, to recognizers."""
    rng = np.random.default_rng(seed)
    factors = np.full(pool.recognizers, 1.0)
    factors[pool.recognizers - pool.num_slow :] = pool.slow
    work = np.array(parts) / pool.rtfx * rng.lognormal(0.0, pool.spread, len(parts))
    waiting = deque(range(len(parts)))
    held = [deque[int]() for _ in range(pool.recognizers)]
    by_load: list[dict[int, None]] = [dict.fromkeys(range(pool.recognizers)), *({} for _ in range(HELD))]
    load = [0] * pool.recognizers
    is_busy = [False] * pool.recognizers
    last = np.zeros(pool.recognizers)
    events: list[tuple[float, bool, int]] = []  # time, noticed by the driver, recognizer

    def begin(worker: int, now: float) -> None:
        is_busy[worker] = True
        heapq.heappush(events, (now + work[held[worker].popleft()] * factors[worker], False, worker))

    def assign(now: float) -> None:
        while waiting:
            level = next((level for level in range(HELD) if by_load[level]), None)
            if level is None:
                return
            worker = next(iter(by_load[level]))
            change_load(worker, 1)
            held[worker].append(waiting.popleft())
            if not is_busy[worker]:
                begin(worker, now)

    def change_load(worker: int, step: int) -> None:
        del by_load[load[worker]][worker]
        load[worker] += step
        by_load[load[worker]][worker] = None

    assign(0.0)
    while events:
        now, is_noticed, worker = heapq.heappop(events)
        if is_noticed:
            change_load(worker, -1)
            assign(now)
            continue
        last[worker], is_busy[worker] = now, False
        if held[worker]:
            begin(worker, now)
        heapq.heappush(events, (now + pool.notice_s, True, worker))
    end_s = float(last.max())
    ideal_s = float(work.sum() / (1 / factors).sum())
    return Ending(end_s, ideal_s, end_s - float(last.min()), float((end_s - last).mean() / end_s))


POOLS = (
    *((Pool(number), parts) for number in (64, 256, 1000) for parts in (10, 30, 100)),
    *((Pool(number, num_slow=8), parts) for number in (64, 256, 1000) for parts in (30, 100)),
)


def tail_table() -> Table:
    """Simulates the ends of runs with equal recognizers and with some slow ones, and returns them as a table."""
    plan = PlanConfig()
    grid = Table(title="Ends of runs (simulated)")
    headings = ("recognizers", "slow", "parts for each", "ideal s", "tasks of one size: end s", "tail s", "lost")
    for heading in (*headings, "smaller last tasks: end s", "tail s", "lost", "more tasks"):
        grid.add_column(heading, justify="right")
    for pool, parts_each in POOLS:
        total_s = parts_each * pool.recognizers * plan.part_audio_s
        usual, num_usual = plan_part_durations(total_s, plan, 0.0)
        guided, num_guided = plan_part_durations(total_s, plan, TAIL_SHARE)
        before, after = (_mean([simulate_end(parts, pool, seed) for seed in range(3)]) for parts in (usual, guided))
        grid.add_row(
            *(f"{pool.recognizers:,}", str(pool.num_slow), str(parts_each), f"{before.ideal_s:.0f}"),
            *(f"{value:.1f}" for value in (before.end_s, before.tail_s)),
            f"{100 * before.lost:.1f} %",
            *(f"{value:.1f}" for value in (after.end_s, after.tail_s)),
            *(f"{100 * after.lost:.1f} %", f"{100 * (num_guided / num_usual - 1):.1f} %"),
        )
    return grid


def _mean(endings: Sequence[Ending]) -> Ending:
    values = {name: float(np.mean([getattr(one, name) for one in endings])) for name in Ending.__slots__}
    return replace(endings[0], **values)
