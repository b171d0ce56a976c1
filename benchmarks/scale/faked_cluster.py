"""The measured process of `actors.py`: a run on a local cluster of several nodes whose CPUs and GPUs are faked.

    python -m benchmarks.scale.faked_cluster SCENARIO

Every node is a raylet of its own on this machine (`ray.cluster_utils`), and offers as many GPUs as it is told. A
recognizer sleeps for the time of a part. The decode stage makes up its audio: neither takes the CPU that the driver is
measured with. Planning, the Ray graph, the write stage and the final checks are those of the job. Recognizers append
the times of their parts to files. The last line printed is `RunFigures` as JSON.
"""

import io
import json
import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import soundfile
from ray.cluster_utils import Cluster
from rich.console import Console

from benchmarks.pipeline.null_model import NullTranscribeStage
from benchmarks.scale.runs import MODEL
from distil_ray.audio.pcm import DecodeResult
from distil_ray.chunking.base import Chunk
from distil_ray.config.loader import load_config
from distil_ray.output.run_context import Run
from distil_ray.pipeline import ray_graph, runner
from distil_ray.pipeline.decode_stage import _PartBuilder
from distil_ray.pipeline.planner import read_task
from distil_ray.pipeline.ray_monitor import ExecutionObserver, Snapshot
from distil_ray.schema import to_stream_bytes
from distil_ray.types import SAMPLE_RATE

SCENARIO, ANSWERS = "scenario.json", "answers"  # in the folder of the run: its settings, the times of its parts
ACTOR_CPUS, DECODE_CPUS, WRITE_CPUS = 0.05, 0.5, 0.25
NODE_CPUS = 1.5  # of a node beside those of its recognizers: a decode task and the writes
CHUNK_S = 30.0
READ_EVERY_S = 0.25
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
RAY_PROCESSES = ("raylet", "gcs_server")


@dataclass(frozen=True, slots=True)
class Scenario:
    """A run on a faked cluster.

    Attributes:
        actors: Recognizers; as many GPUs are offered by the nodes together.
        parts: Tasks of one part each.
        answer_s: Seconds that a recognizer takes for a part.
        part_audio_s: Seconds of audio of a part.
        nodes: Nodes beside the head, which has no resources.
        slow: Factor of `answer_s` on the last node.
        hanging: Parts (row groups of the plan) that hang their recognizer, always.
        hanging_once: Parts that hang it the first time.
        kill_every_s: Seconds between losses of a node; each is replaced at once. 0: none is lost.
        late_s: Seconds after the start of the graph when the last node is added; 0: it is there at the start.
        overrides: Further settings of the job.
    """

    actors: int
    parts: int
    answer_s: float
    part_audio_s: float = 1.0
    nodes: int = 3
    slow: float = 1.0
    hanging: tuple[int, ...] = ()
    hanging_once: tuple[int, ...] = ()
    kill_every_s: float = 0.0
    late_s: float = 0.0
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Figures of one moment.

    Attributes:
        at_s: Seconds since the start of the graph.
        driver_s: CPU seconds of the driver so far.
        ray_s: CPU seconds of the raylets and of the GCS so far.
        waiting: Parts that wait for a recognizer.
        recognizing: Parts assigned to recognizers.
        decoding: Tasks being decoded.
        writing: Parts being written.
        alive: Recognizers that are alive.
        store_mib: Object store that Ray Data accounts to the graph, in the driver.
        executors_s: CPU seconds so far of the processes that schedule beside the driver.
    """

    at_s: float
    driver_s: float
    ray_s: float
    waiting: int = 0
    recognizing: int = 0
    decoding: int = 0
    writing: int = 0
    alive: int = 0
    store_mib: float = 0.0
    executors_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RunFigures:
    """Figures of a run; all times are seconds since the start of the graph.

    Attributes:
        results: Times of the results.
        answers: (actor, begin, end, row group) of every part that a recognizer has answered.
        readings: Figures of the driver, every `READ_EVERY_S`.
        end_s: End of the graph.
        rss_mib: Memory of the driver at its end.
        events: (time, what) of losses and additions of nodes.
        num_rows: Rows of the output.
        num_failed: Failed rows.
        warnings: Lines of the log that are warnings.
    """

    results: list[float]
    answers: list[tuple[str, float, float, int]]
    readings: list[Reading]
    end_s: float
    rss_mib: float
    events: list[tuple[float, str]]
    num_rows: int
    num_failed: int
    warnings: list[str]


class SleepingStage(NullTranscribeStage):
    """The transcribe stage with a recognizer that sleeps, and hangs where the scenario says so."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._folder = _folder(run)
        self._scenario = _read_scenario(run)
        context = ray.get_runtime_context()
        slow_nodes = json.loads((self._folder / "slow.json").read_text())
        factor = self._scenario.slow if context.get_node_id() in slow_nodes else 1.0
        self._answer_s = self._scenario.answer_s * factor
        self._name = context.get_actor_id() or ""

    def __call__(self, parts: pa.Table) -> pa.Table:
        began = time.monotonic()
        number = parts["row_group"][0].as_py()
        if number in self._scenario.hanging or (number in self._scenario.hanging_once and self._is_first(number)):
            time.sleep(3600)
        result = super().__call__(parts)
        time.sleep(max(0.0, self._answer_s - (time.monotonic() - began)))
        with (self._folder / ANSWERS / self._name).open("a") as file:
            file.write(json.dumps([self._name, began, time.monotonic(), number]) + "\n")
        return result

    def _is_first(self, number: int) -> bool:
        try:
            (self._folder / f"hung-{number}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def make_up_parts(tasks: pa.Table, run: Run, is_retry: Callable[[], bool]) -> Iterator[pa.Table]:
    """Stands in for `decode_stage.decode_tasks`: the one recording of a task, of the audio of the scenario."""
    audio_s = _read_scenario(run).part_audio_s
    for pointer in tasks.to_pylist():
        planned = to_stream_bytes(read_task(run.plan_uri, pointer["row_group"], run.storage))
        is_committed = is_retry() and run.storage.stat(run.task_uri(pointer["task_id"])) is not None
        part = _PartBuilder(pointer["task_id"], pointer["row_group"], planned, is_committed)
        noise = np.random.default_rng(0).integers(-3000, 3000, round(audio_s * SAMPLE_RATE)).astype(np.int16)
        part.begin(0, "en", None, None)
        step = round(CHUNK_S * SAMPLE_RATE)
        for index, start in enumerate(range(0, len(noise), step)):
            part.add(Chunk(index, start, noise[start : start + step], 0, 0))
        part.end(DecodeResult(len(noise), None, None, ()))
        yield part.finish(is_last=True)


def _folder(run: Run) -> Path:
    return Path(run.config.output.uri).parent


def _read_scenario(run: Run) -> Scenario:
    return read_scenario((_folder(run) / SCENARIO).read_text())


def read_scenario(text: str) -> Scenario:
    """Returns the scenario of a JSON object."""
    fields: dict[str, Any] = json.loads(text)
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return Scenario(**values)


class _Nodes:
    """The faked nodes of a scenario, which come and go while the run lasts."""

    def __init__(self, scenario: Scenario) -> None:
        health = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000}  # a loss is noticed sooner
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": health})
        self._scenario = scenario
        self.address = self._cluster.address
        self.events: list[tuple[float, str]] = []  # monotonic times
        self._due_s = scenario.late_s or scenario.kill_every_s  # next change, seconds since the start of the graph
        shares = np.diff(np.linspace(0, scenario.actors, scenario.nodes + 1).round().astype(int)).tolist()
        self._last_share = shares.pop()
        self._nodes = [self._add(share) for share in shares]
        if not scenario.late_s:
            self._nodes.append(self._add(self._last_share))
        self.slow = [self._nodes[-1].node_id] if scenario.slow != 1.0 else []

    def shut_down(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]

    def _add(self, actors: int) -> Any:
        part_bytes = round(self._scenario.part_audio_s * SAMPLE_RATE) * 2
        store = max(150 << 20, 8 * actors * part_bytes)
        cpus = math.ceil(NODE_CPUS + ACTOR_CPUS * actors)
        return self._cluster.add_node(num_cpus=cpus, num_gpus=actors, object_store_memory=store)

    def change(self, at_s: float) -> None:
        """Adds or replaces a node if that is due `at_s` seconds after the start of the graph.

        Called in the main thread, as Ray's nodes install handlers of signals.
        """
        if not self._due_s or at_s < self._due_s:
            return
        if self._scenario.late_s:
            self._due_s = 0.0
            self._note("node added")
            self._nodes.append(self._add(self._last_share))
            return
        self._note("node lost")
        node = self._nodes.pop(0)
        actors = round(node.get_resource_and_label_spec().num_gpus or 0)
        self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.append(self._add(actors))
        self._note("node replaced")
        self._due_s += self._scenario.kill_every_s

    def _note(self, what: str) -> None:
        self.events.append((time.monotonic(), what))


class _Watch:
    """Reads the CPU time of this process and of Ray's processes below it, and the state of the graph."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.began_s = 0.0
        self.snapshot: Snapshot | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self.began_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(READ_EVERY_S):
            self.readings.append(self._read())

    def _read(self) -> Reading:
        times = time.monotonic() - self.began_s, time.process_time(), _cpu_s(_is_part_of_ray)
        executors_s = _cpu_s(_is_executor)
        state, store = self.snapshot, 0.0
        if state is None:
            return Reading(*times, executors_s=executors_s)
        with suppress(AttributeError):  # the execution ends
            store = ExecutionObserver.executor._resource_manager.get_global_usage().object_store_memory / 2**20
        queues = state.waiting, state.recognizing, state.decoding, state.committing
        return Reading(*times, *queues, state.alive, store, executors_s)


def _is_part_of_ray(process: Path, name: str, parent: int) -> bool:
    return name in RAY_PROCESSES and parent == os.getpid()


def _is_executor(process: Path, name: str, parent: int) -> bool:
    return (process / "cmdline").read_bytes().startswith(b"ray::_ExecutorProcess")


def _cpu_s(belongs: Callable[[Path, str, int], bool]) -> float:
    """Returns the CPU seconds of processes; `belongs` gets the folder in /proc, the name, and the parent."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = path.read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            is_counted = belongs(path.parent, name, int(fields[1]))
        except OSError:
            continue
        if is_counted:
            total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def run_scenario(scenario: Scenario, folder: Path) -> RunFigures:
    """Runs the job on the cluster of a scenario."""
    (folder / "input").mkdir()
    (folder / ANSWERS).mkdir()
    (folder / SCENARIO).write_text(json.dumps(asdict(scenario)))
    sink = io.BytesIO()
    soundfile.write(sink, np.zeros(160, np.int16), SAMPLE_RATE, format="WAV")
    for number in range(scenario.parts):
        (folder / "input" / f"{number:05d}.wav").write_bytes(sink.getvalue())
    watch, nodes = _Watch(), _Nodes(scenario)
    (folder / "slow.json").write_text(json.dumps(nodes.slow))
    run_graph: Any = ray_graph.run_graph

    def measured(run: Any, plan: Any, stage: Any, on_message: Any, on_progress: Any) -> Iterator[Any]:
        def show(snapshot: Snapshot) -> None:
            watch.snapshot = snapshot
            on_progress(snapshot)
            nodes.change(time.monotonic() - watch.began_s)

        watch.start()
        for row in run_graph(run, plan, stage, on_message, show):
            nodes.change(time.monotonic() - watch.began_s)
            yield row
        ended.append(time.monotonic())
        watch.stop()

    ended: list[float] = []
    vars(ray_graph).update(run_graph=measured, decode_tasks=make_up_parts)
    overrides = [
        *(f"input.uri={folder}/input", f"output.uri={folder}/output", f"model.name={MODEL}", "run_id=run"),
        *("decoding.language=en", "report.write=false", f"resources.ray_address={nodes.address}"),
        *(f"plan.part_audio_s={max(CHUNK_S, scenario.part_audio_s)}", "plan.task_recordings=1"),
        *(f"resources.actors={scenario.actors}", f"resources.cpus_per_actor={ACTOR_CPUS}"),
        *("resources.gpus_per_actor=1", "resources.autoscaling=true"),
        *(f"resources.decode_cpus={DECODE_CPUS}", f"resources.commit_cpus={WRITE_CPUS}", *scenario.overrides),
    ]
    log = io.StringIO()
    try:
        runner.transcribe(load_config(None, overrides), Console(file=log, width=1000), SleepingStage)
    finally:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        ray.shutdown()
        nodes.shut_down()
    summary = json.loads((folder / "output" / "runs" / "run" / "summary.json").read_text())
    events = (folder / "output" / "runs" / "run" / "events.jsonl").read_text().splitlines()
    answers = [json.loads(line) for path in (folder / ANSWERS).iterdir() for line in path.read_text().splitlines()]
    return RunFigures(
        results=sorted(json.loads(line)["at_s"] for line in events),
        answers=sorted(
            (name, begin - watch.began_s, end - watch.began_s, group) for name, begin, end, group in answers
        ),
        readings=watch.readings,
        end_s=ended[0] - watch.began_s,
        rss_mib=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        events=[(at - watch.began_s, what) for at, what in nodes.events],
        num_rows=summary["num_recordings"],
        num_failed=summary["num_failed"],
        warnings=[line for line in log.getvalue().splitlines() if "warning" in line],
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="dr-", ignore_cleanup_errors=True) as folder:
        # Read by the raylets that this process starts. The path of a socket may have 107 characters.
        os.environ |= {"RAY_TMPDIR": folder, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        os.environ |= {"RAY_idle_worker_killing_time_threshold_ms": "300000"}
        figures = run_scenario(read_scenario(sys.argv[1]), Path(folder))
    print(json.dumps(asdict(figures)))


if __name__ == "__main__":
    main()
