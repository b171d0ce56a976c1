"""CPU time of the driver and of Ray's own processes for a part, and the number of recognizers that one driver can feed.

    python -m benchmarks.scale.driver ACTORS PARTS

`measure_driver` starts this module as a process of its own: a run on a local Ray with recognizers that answer at once,
over as many tasks of one short recording as there are to be parts. Only the time of the graph counts.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks.comparison.interleave import ROOT
from benchmarks.pipeline.null_model import NullTranscribeStage
from benchmarks.scale.runs import MODEL
from benchmarks.settings import ScaleSettings
from distil_ray.config import PlanConfig
from distil_ray.config.loader import load_config
from distil_ray.errors import RunError
from distil_ray.pipeline import ray_graph, runner
from distil_ray.types import SAMPLE_RATE

RTFX = 200.0  # of a recognizer on a GPU, for the number that a driver can feed
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
RAY_PROCESSES = ("raylet", "gcs_server")


@dataclass(frozen=True, slots=True)
class DriverCost:
    """Cost of the graph.

    Attributes:
        actors: Recognizers.
        parts: Parts that were recognized.
        first_s: Seconds from the start of the graph to the first result.
        wall_s: Seconds from the first result to the last.
        driver_s: CPU seconds of the driver in that time.
        ray_s: CPU seconds of `RAY_PROCESSES` in that time.
        rss_mib: Memory of the driver at its end.
    """

    actors: int
    parts: int
    first_s: float
    wall_s: float
    driver_s: float
    ray_s: float
    rss_mib: float

    @property
    def driver_ms(self) -> float:
        """CPU milliseconds of the driver for a part."""
        return 1000 * self.driver_s / self.parts

    def most_actors(self, part_audio_s: float) -> float:
        """Returns the recognizers of `RTFX` whose parts take all of one core of the driver."""
        return part_audio_s / RTFX / (self.driver_s / self.parts)


def measure_driver(settings: ScaleSettings) -> list[DriverCost]:
    """Measures the graph for each number of actors. Raises `RunError` if a run fails."""
    costs = []
    for actors in settings.driver_actors:
        command = [sys.executable, "-m", "benchmarks.scale.driver", str(actors), str(settings.driver_parts)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RunError(f"the run failed:\n{done.stdout[-1000:]}\n{done.stderr[-1000:]}")
        costs.append(DriverCost(**json.loads(done.stdout.splitlines()[-1])))
    return costs


def driver_table(costs: Sequence[DriverCost]) -> Table:
    """Returns the cost by number of actors."""
    part_s = PlanConfig().part_audio_s
    grid = Table(title="The driver of a run, recognizers that answer at once")
    for heading in ("recognizers", "parts", "s to the first", "parts/s", "driver CPU ms a part", "Ray CPU ms a part"):
        grid.add_column(heading, justify="right")
    grid.add_column("driver MiB", justify="right")
    grid.add_column(f"recognizers of RTFx {RTFX:g} a core feeds (parts of {part_s:g} s)", justify="right")
    for one in costs:
        grid.add_row(
            *(str(one.actors), str(one.parts), f"{one.first_s:.1f}", f"{one.parts / one.wall_s:.1f}"),
            *(f"{one.driver_ms:.1f}", f"{1000 * one.ray_s / one.parts:.1f}", f"{one.rss_mib:.0f}"),
            f"{one.most_actors(part_s):,.0f}",
        )
    return grid


class _Watch:
    """Reads the CPU time of this process and of Ray's processes below it, every quarter of a second."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, float, float]] = []  # monotonic time, driver, Ray
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def between(self, begin: float, end: float) -> tuple[float, float]:
        """Returns the CPU seconds of both between two times."""
        times, *columns = (np.array(column) for column in zip(*self.readings, strict=True))
        driver, others = (float(np.diff(np.interp([begin, end], times, column))[0]) for column in columns)
        return driver, others

    def _run(self) -> None:
        while not self._ended.wait(0.25):
            self.readings.append((time.monotonic(), time.process_time(), _ray_cpu_s()))


def _ray_cpu_s() -> float:
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
        except OSError:
            continue
        if name in RAY_PROCESSES and int(fields[1]) == os.getpid():
            total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def main() -> None:
    actors, parts = int(sys.argv[1]), int(sys.argv[2])
    with tempfile.TemporaryDirectory(prefix="distil-ray-driver-") as folder:
        sink = io.BytesIO()
        soundfile.write(sink, np.random.default_rng(0).normal(0, 0.1, SAMPLE_RATE), SAMPLE_RATE, format="WAV")
        (Path(folder) / "input").mkdir()
        for number in range(parts):
            (Path(folder) / "input" / f"{number:05d}.wav").write_bytes(sink.getvalue())
        overrides = [
            *(f"input.uri={folder}/input", f"output.uri={folder}/output", f"model.name={MODEL}", "run_id=run"),
            *("decoding.language=en", "report.write=false", "resources.ray_address=local", "plan.task_recordings=1"),
            *(f"resources.actors={actors}", f"resources.cpus_per_actor={1 / (2 * actors):.4f}"),
            *("resources.gpus_per_actor=0", "resources.decode_cpus=0.3", "resources.commit_cpus=0.1"),
        ]
        run_graph: Any = ray_graph.run_graph
        watch = _Watch()
        began = 0.0

        def measured(*arguments: Any) -> Any:
            nonlocal began
            began = time.monotonic()  # from which `at_s` counts
            return run_graph(*arguments)

        vars(ray_graph)["run_graph"] = measured
        runner.transcribe(load_config(None, overrides), Console(file=io.StringIO(), width=200), NullTranscribeStage)
        watch.stop()
        lines = (Path(folder) / "output" / "runs" / "run" / "events.jsonl").read_text().splitlines()
        at = sorted(json.loads(line)["at_s"] for line in lines)
    driver_s, ray_s = watch.between(began + at[0], began + at[-1])
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    found = {
        "actors": actors,
        "parts": len(at),
        "first_s": round(at[0], 3),
        "wall_s": round(at[-1] - at[0], 3),
        "driver_s": round(driver_s, 3),
        "ray_s": round(ray_s, 3),
        "rss_mib": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
