"""Inputs of uneven recordings: time to the end against the ideal, simulated and in a small run.

The simulation plans the tasks with the planner of the job and plays the schedule of the graph: decode tasks start in
the order of the plan, each yields its parts one after the other, and every idle recognizer takes the part that has
waited longest. The small run does the same on a local Ray with recognizers that sleep, to check the simulation.
"""

import heapq
import io
import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline.null_model import NullTranscribeStage
from benchmarks.scale.runs import MODEL
from benchmarks.settings import ScaleSettings
from distil_ray.audio.subprocess_decoder import SubprocessDecoder
from distil_ray.chunking.base import ChunkSizes, iter_chunks, make_chunker
from distil_ray.config import Config
from distil_ray.config.loader import load_config
from distil_ray.output.ledger import id_keys
from distil_ray.pipeline import runner
from distil_ray.pipeline.task_packing import pack_tasks
from distil_ray.types import SAMPLE_RATE

CHUNK_S = 30.0
HOUR_S = 3600.0

Seconds = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster to simulate.

    Attributes:
        recognizers: Number of recognizers.
        rtfx: Seconds of audio that one recognizes in a second.
        decoders: Decode tasks at the same time.
        decode_rtfx: Seconds of audio that one decodes in a second.
        task_s: Seconds until a decode task begins to decode.
        crash_s: Seconds that a recording costs that crashes its decoder.
        queue: Parts that may wait for a recognizer, before decode tasks pause.
    """

    recognizers: int
    rtfx: float
    decoders: int
    decode_rtfx: float = 500.0
    task_s: float = 0.2
    crash_s: float = 0.5
    queue: int = 1000


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a schedule.

    Attributes:
        end_s: Seconds from the first decode task to the last recognized part.
        ideal_s: Seconds of audio by the speed of all recognizers.
        idle_start: Share of the recognizers' time that is lost before each has its first part.
        idle_end: Share that is lost after the last part of each.
    """

    end_s: float
    ideal_s: float
    idle_start: float
    idle_end: float

    @property
    def ratio(self) -> float:
        """Time to the end by the ideal."""
        return self.end_s / self.ideal_s


def plan_parts(durations: Seconds, task_s: float, part_s: float, task_recordings: int) -> list[list[Seconds]]:
    """Returns the chunks of each part of each task, in the order of the plan; a negative duration is one that crashes.

    Args:
        durations: Of the recordings, in seconds.
        task_s: `plan.task_audio_s`.
        part_s: `plan.part_audio_s`.
        task_recordings: `plan.task_recordings`.
    """
    samples = np.round(np.abs(durations) * SAMPLE_RATE).astype(np.int64)
    keys = id_keys([str(number) for number in range(len(durations))])
    units = np.zeros(len(durations), np.uint64)
    order, starts = pack_tasks(samples, keys, units, round(task_s * SAMPLE_RATE), task_recordings)
    tasks = (durations[order[begin:end]] for begin, end in pairwise(starts.tolist()))
    return [list(_parts(task, part_s)) for task in tasks]


def _parts(durations: Seconds, part_s: float) -> Iterator[Seconds]:
    chunks: list[float] = []
    filled = 0.0
    for duration in durations.tolist():
        whole = int(max(duration, 0.0) // CHUNK_S)
        for chunk in [CHUNK_S] * whole + [duration - whole * CHUNK_S if duration > 0 else duration]:
            if not chunk:
                continue
            if chunks and filled + max(chunk, 0.0) > part_s:
                yield np.array(chunks)
                chunks, filled = [], 0.0
            chunks.append(chunk)
            filled += max(chunk, 0.0)
    yield np.array(chunks)


def simulate(tasks: Sequence[Sequence[Seconds]], cluster: Cluster) -> Outcome:
    """Plays the schedule of the graph."""
    waiting = deque(range(len(tasks)))
    ready: deque[float] = deque()  # seconds of audio of the parts that wait
    blocked: deque[tuple[int, int]] = deque()  # decode tasks that pause, with their next part
    events: list[tuple[float, int, str, int, int]] = []
    idle = list(range(cluster.recognizers))
    first, last = np.full(cluster.recognizers, np.nan), np.zeros(cluster.recognizers)
    order = 0

    def push(at: float, kind: str, one: int, part: int) -> None:
        nonlocal order
        order += 1
        heapq.heappush(events, (at, order, kind, one, part))

    def decode(at: float, task: int, part: int) -> None:
        chunks = tasks[task][part]
        heard = float(chunks[chunks > 0].sum())
        push(at + heard / cluster.decode_rtfx + cluster.crash_s * int((chunks < 0).sum()), "decoded", task, part)

    for _ in range(min(cluster.decoders, len(waiting))):
        decode(cluster.task_s, waiting.popleft(), 0)
    now = 0.0
    while events:
        now, _, kind, one, part = heapq.heappop(events)
        if kind == "decoded":
            chunks = tasks[one][part]
            ready.append(float(chunks[chunks > 0].sum()))
            blocked.append((one, part + 1))
        else:
            idle.append(one)
            last[one] = now
        while ready and idle:
            worker = idle.pop(0)
            if np.isnan(first[worker]):
                first[worker] = now
            push(now + ready.popleft() / cluster.rtfx, "recognized", worker, 0)
        while blocked and len(ready) < cluster.queue:
            task, following = blocked.popleft()
            if following < len(tasks[task]):
                decode(now, task, following)
            elif waiting:
                decode(now + cluster.task_s, waiting.popleft(), 0)
    total = sum(float(part[part > 0].sum()) for task in tasks for part in task)
    ideal = total / cluster.rtfx / cluster.recognizers
    lost = cluster.recognizers * now
    return Outcome(now, ideal, float(np.nan_to_num(first, nan=now).sum()) / lost, float((now - last).sum()) / lost)


def measure_decode_rtfx(seconds: float = 1200.0) -> float:
    """Returns the seconds of FLAC that a decode task decodes and cuts in a second of CPU time."""
    rng = np.random.default_rng(0)
    envelope = np.abs(np.sin(np.arange(round(seconds * SAMPLE_RATE)) * (np.pi / SAMPLE_RATE)))
    audio = (rng.normal(0, 2000, len(envelope)) * envelope).astype(np.int16)
    with tempfile.TemporaryDirectory(prefix="distil-ray-skew-") as folder:
        path = Path(folder) / "audio.flac"
        soundfile.write(path, audio, SAMPLE_RATE)
        decoder = SubprocessDecoder(2048, 60.0)
        chunker = make_chunker("quiet", ChunkSizes(round(CHUNK_S * SAMPLE_RATE), 0, 5 * SAMPLE_RATE))
        before = _cpu_s()
        pieces = decoder.decode(str(path), "audio.flac")
        audio_pieces = (piece for piece in pieces if isinstance(piece, np.ndarray))
        num_samples = sum(len(chunk.pcm) for chunk in iter_chunks(chunker, audio_pieces))
        decoder.close()
        return num_samples / SAMPLE_RATE / (_cpu_s() - before)


def _cpu_s() -> float:
    """Returns the CPU seconds of this process and of its ended subprocesses."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def make_inputs() -> dict[str, Seconds]:
    """Returns the durations of the recordings of each input; negative: its decoder crashes."""
    short = np.full(100_000, 3.0)
    poison = short.copy()
    poison[::100] = -3.0
    return {
        "100,000 of 3 s": short,
        "the same and one of 20 h": np.append(short, 20 * HOUR_S),
        "the same and ten of 20 h": np.append(short, [20 * HOUR_S] * 10),
        "100,000 of 3 s, 1 % crash their decoder": poison,
        "10,000 of 36 s, 100 of 10 h": np.append(np.full(10_000, 36.0), [10 * HOUR_S] * 100),
    }


CLUSTERS = {
    "8 GPUs": Cluster(recognizers=8, rtfx=200.0, decoders=32),
    "64 GPUs": Cluster(recognizers=64, rtfx=200.0, decoders=256),
}


def skew_table(plan: Config, decode_rtfx: float) -> Table:
    """Returns time to the end by the ideal of all inputs and clusters."""
    grid = Table(
        title=f"Uneven recordings, decoded at {decode_rtfx:,.0f} times real time: seconds to the end (simulated)"
    )
    for heading in ("input", "cluster", "ideal s", "end s", "by ideal", "lost at the start", "lost at the end"):
        grid.add_column(heading, justify="left" if heading in ("input", "cluster") else "right")
    for name, durations in make_inputs().items():
        tasks = plan_parts(durations, plan.plan.task_audio_s, plan.plan.part_audio_s, plan.plan.task_recordings)
        for label, cluster in CLUSTERS.items():
            found = simulate(tasks, replace(cluster, decode_rtfx=decode_rtfx))
            grid.add_row(
                *(name, label, f"{found.ideal_s:.0f}", f"{found.end_s:.0f}", f"{found.ratio:.2f}"),
                *(f"{100 * found.idle_start:.1f} %", f"{100 * found.idle_end:.1f} %"),
            )
    return grid


SMALL = Cluster(recognizers=3, rtfx=40.0, decoders=3, decode_rtfx=5000.0, task_s=0.1)
SMALL_TASK_S, SMALL_PART_S = 60.0, 30.0


def small_input() -> Seconds:
    """Returns durations of the small run: one recording of 20 minutes among 600 of 3 s."""
    return np.append(np.full(600, 3.0), 1200.0)


class SleepingStage(NullTranscribeStage):
    """The transcribe stage with a recognizer that takes the time of `SMALL.rtfx`."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        chunks = parts["chunks"].combine_chunks().flatten()
        samples = sum(chunks.field("num_samples").to_pylist())
        began = time.monotonic()
        result = super().__call__(parts)
        time.sleep(max(0.0, samples / SAMPLE_RATE / SMALL.rtfx - (time.monotonic() - began)))
        return result


def measure_small_run(console: Console) -> tuple[Outcome, Outcome]:
    """Returns the simulated and the measured outcome of the small input on a local Ray.

    The time of the run counts from the arrival of its first result, less the time of one part: the start of Ray and of
    the recognizers is not part of the schedule.
    """
    durations = small_input()
    simulated = simulate(plan_parts(durations, SMALL_TASK_S, SMALL_PART_S, 2000), SMALL)
    with tempfile.TemporaryDirectory(prefix="distil-ray-skew-") as folder:
        for number, duration in enumerate(durations.tolist()):
            sink = io.BytesIO()
            rng = np.random.default_rng(number)
            noise = rng.integers(-3000, 3000, round(duration * SAMPLE_RATE)).astype(np.int16)
            soundfile.write(sink, noise, SAMPLE_RATE, format="WAV")
            path = Path(folder) / "input" / f"{number:04d}.wav"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(sink.getvalue())
        overrides = [
            *(f"input.uri={folder}/input", f"output.uri={folder}/output", f"model.name={MODEL}", "run_id=run"),
            *(
                "decoding.language=en",
                "report.write=false",
                "resources.ray_address=local",
                "resources.gpus_per_actor=0",
            ),
            *(f"resources.actors={SMALL.recognizers}", "resources.cpus_per_actor=0.2", "resources.decode_cpus=0.3"),
            *("resources.commit_cpus=0.1", f"plan.task_audio_s={SMALL_TASK_S}", f"plan.part_audio_s={SMALL_PART_S}"),
        ]
        runner.transcribe(load_config(None, overrides), console, SleepingStage)
        lines = (Path(folder) / "output" / "runs" / "run" / "events.jsonl").read_text().splitlines()
    at = sorted(json.loads(line)["at_s"] for line in lines)
    total = float(durations.sum())
    ideal = total / SMALL.rtfx / SMALL.recognizers
    measured = Outcome(at[-1] - at[0] + SMALL_PART_S / SMALL.rtfx, ideal, 0.0, 0.0)
    return simulated, measured


def small_run_table(simulated: Outcome, measured: Outcome) -> Table:
    """Returns the check of the simulation."""
    grid = Table(title=f"One recording of 20 min among 600 of 3 s, {SMALL.recognizers} recognizers that sleep")
    for heading in ("", "ideal s", "end s", "by ideal"):
        grid.add_column(heading, justify="right")
    for name, one in (("simulated", simulated), ("measured", measured)):
        grid.add_row(name, f"{one.ideal_s:.1f}", f"{one.end_s:.1f}", f"{one.ratio:.2f}")
    return grid


def measure_skew(settings: ScaleSettings) -> list[Table]:
    """Simulates the inputs, and does the small run if `settings.small_run` is set. Returns the tables."""
    tables = [skew_table(load_config(None, []), measure_decode_rtfx())]
    if settings.small_run:
        tables.append(small_run_table(*measure_small_run(Console(file=io.StringIO(), width=200))))
    return tables
