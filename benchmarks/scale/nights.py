"""A year of nightly runs: time and requests of each night, without a model and without Ray.

    python -m benchmarks.scale.nights CONFIG.yaml FOLDER NIGHTS NEW CHANGED DELETED

`measure_nights` starts this module as a process of its own. It changes the input before each night, does the nightly
run with the null recognizer, prints its cost as JSON, and waits for a line. The input lies on the local disk (links to
one file of noise), the output in a simulated store that counts the requests.
"""

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks.comparison.interleave import ROOT
from benchmarks.pipeline.null_model import NullTranscribeStage
from benchmarks.scale.memory_store import BUCKET, MemoryStore
from benchmarks.scale.run import replace_ray
from benchmarks.scale.runs import MODEL
from benchmarks.settings import ScaleSettings
from distil_ray.config.loader import dump_config, load_config
from distil_ray.errors import ExitCode, RunError
from distil_ray.nightly import nightly_run
from distil_ray.output import block_index
from distil_ray.pipeline import finalize, runner

ACCOUNT = {"AWS_ACCESS_KEY_ID": "scale", "AWS_SECRET_ACCESS_KEY": "scale", "AWS_DEFAULT_REGION": "us-east-1"}
FIRST = date(2026, 1, 1)
PARTS = 6  # of the year, in the table
FOLDER_FILES = 1000  # files of a folder of the input


@dataclass(frozen=True, slots=True)
class NightCost:
    """Cost of one night.

    Attributes:
        night: Number of the night, from 1.
        listed: Recordings that the input lists.
        recognized: Recordings that were transcribed.
        exit_code: Exit code of the run.
        wall_s: Seconds.
        cpu_s: CPU seconds of the process.
        rss_mib: Its memory at the end.
        seconds: Seconds by phase.
        requests: Requests to the store by kind.
        folders: Run folders that are left.
    """

    night: int
    listed: int
    recognized: int
    exit_code: int
    wall_s: float
    cpu_s: float
    rss_mib: float
    seconds: dict[str, float]
    requests: dict[str, int]
    folders: int


def measure_nights(settings: ScaleSettings, output: str = f"s3://{BUCKET}/output") -> list[NightCost]:
    """Simulates the nights of the settings. Raises `RunError` if one fails."""
    store = MemoryStore(0.0)
    with tempfile.TemporaryDirectory(prefix="distil-ray-nights-") as folder, store.serving() as url:
        config = Path(folder) / "config.yaml"
        overrides = [
            *(f"input.uri={folder}/input", f"output.uri={output}", f"storage.endpoint_url={url}"),
            *(f"model.name={MODEL}", "decoding.language=en", "input.references=none", "input.speakers=none"),
            *("nightly.max_rtfx_drop=null", f"plan.task_recordings={settings.night_block_rows}"),
        ]
        config.write_text(dump_config(load_config(None, overrides)), encoding="utf-8")
        numbers = (settings.nights, settings.night_new, settings.night_changed, settings.night_deleted)
        command = [sys.executable, "-m", "benchmarks.scale.nights", str(config), folder, *map(str, numbers)]
        environment = {**os.environ, **ACCOUNT, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin and process.stdout
        costs: list[NightCost] = []
        for line in process.stdout:
            requests = {kind.value: count for kind, count in store.requests.items()}
            store.requests = Counter()
            costs.append(NightCost(**json.loads(line), requests=requests, folders=_num_folders(store)))
            process.stdin.write("\n")
            process.stdin.flush()
        if process.wait():
            raise RunError(f"the nights ended with exit code {process.returncode}")
    return costs


def _num_folders(store: MemoryStore) -> int:
    return len({key.split("/")[2] for key in list(store.objects) if key.startswith("output/runs/")})


def nights_table(costs: Sequence[NightCost], settings: ScaleSettings) -> Table:
    """Returns means over parts of the year, one row each."""
    what = f"{settings.night_new:,} new, {settings.night_changed} changed, {settings.night_deleted} deleted recordings"
    grid = Table(title=f"Nightly runs of {what}")
    phases = list(costs[0].seconds)
    for heading in ("nights", "listed", "recognized", "requests", "CPU s", "wall s", *phases, "MiB", "run folders"):
        grid.add_column(heading, justify="right")
    size = max(1, len(costs) // PARTS)
    for begin in range(0, len(costs), size):
        some = costs[begin : begin + size]
        columns = [
            [float(one.recognized) for one in some],
            [float(sum(one.requests.values())) for one in some],
            [one.cpu_s for one in some],
            [one.wall_s for one in some],
            *([one.seconds[name] for one in some] for name in phases),
        ]
        means = [sum(values) / len(values) for values in columns]
        counts = [f"{value:,.0f}" for value in means[:2]] + [f"{value:.2f}" for value in means[2:]]
        last = some[-1]
        night = f"{some[0].night} to {last.night}"
        grid.add_row(night, f"{last.listed:,}", *counts, f"{last.rss_mib:.0f}", str(last.folders))
    return grid


class _Input:
    """The recordings, as links to a file of noise; a changed one is a link to a file of another time."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self._folder, self._rng = folder, np.random.default_rng(seed)
        self._noise = np.random.default_rng(0).integers(-3000, 3000, 8000).astype(np.int16)
        self._paths: list[Path] = []
        self._number = 0

    @property
    def num_recordings(self) -> int:
        return len(self._paths)

    def change(self, night: int, new: int, changed: int, deleted: int) -> None:
        """Adds, changes and deletes recordings."""
        for _ in range(min(deleted, len(self._paths))):
            self._paths.pop(int(self._rng.integers(len(self._paths)))).unlink()
        source = self._folder / f"night-{night:04d}.source"
        sink = io.BytesIO()
        soundfile.write(sink, self._noise, 16_000, format="WAV")
        source.write_bytes(sink.getvalue())
        os.utime(source, (1_700_000_000 + night, 1_700_000_000 + night))
        for _ in range(min(changed, len(self._paths))):
            path = self._paths[int(self._rng.integers(len(self._paths)))]
            path.unlink()
            os.link(source, path)
        for _ in range(new):
            path = self._folder / "input" / f"{self._number // FOLDER_FILES:05d}" / f"{self._number:08d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            os.link(source, path)
            self._paths.append(path)
            self._number += 1
        source.unlink()


class _Phases:
    """Seconds spent in some functions of the job, which are replaced by ones that measure."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._measure(runner, "check_output", "ledger")
        self._measure(runner, "_write_plan", "list, plan")
        self._measure(runner, "_run_graph", "work")
        self._measure(finalize, "read_ledger", "ledger")
        self._measure(finalize, "summarize", "summary")
        self._measure(nightly_run, "_write_pages", "pages")

    def _measure(self, module: Any, name: str, phase: str) -> None:
        work = getattr(module, name)
        self.seconds.setdefault(phase, 0.0)

        def measured(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return work(*arguments, **options)
            finally:
                self.seconds[phase] += time.perf_counter() - begin

        setattr(module, name, measured)

    def take(self) -> dict[str, float]:
        found = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return found


def main() -> None:
    path, folder, *numbers = sys.argv[1:]
    nights, new, changed, deleted = map(int, numbers)
    config = load_config(path, [])
    source = _Input(Path(folder))
    replace_ray(setattr)
    phases = _Phases()
    answers = sys.stdout
    sys.stdout = sys.stderr
    for night in range(1, nights + 1):
        source.change(night, new, changed if night > 1 else 0, deleted if night > 1 else 0)
        moment = datetime.combine(FIRST + timedelta(night - 1), datetime.min.time(), UTC)
        vars(nightly_run)["_utc_now"] = partial(_given, moment)
        vars(block_index)["time"] = _Clock(moment.timestamp())
        begin, cpu = time.perf_counter(), time.process_time() + _children_s()
        console = Console(file=io.StringIO(), width=200)
        code = nightly_run.run_nightly(config, console, NullTranscribeStage)
        text = console.file.getvalue()  # type: ignore[attr-defined]
        if code not in (ExitCode.DONE, ExitCode.DRIFT):
            raise RunError(text[-2000:])
        cost = {
            "night": night,
            "listed": source.num_recordings,
            "recognized": int(text.split("nightly run ")[-1].split(", ")[1].split(" ")[0].replace(",", "")),
            "exit_code": int(code),
            "wall_s": round(time.perf_counter() - begin, 3),
            "cpu_s": round(time.process_time() + _children_s() - cpu, 3),
            "rss_mib": _rss_mib(),
            "seconds": phases.take(),
        }
        answers.write(json.dumps(cost) + "\n")
        answers.flush()
        sys.stdin.readline()


def _given(moment: datetime) -> datetime:
    return moment


class _Clock:
    """Stands for the module `time` where only its time of day is read."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return self._seconds


def _children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    main()
