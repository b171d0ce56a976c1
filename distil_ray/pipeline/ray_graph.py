"""The Ray Data graph of a run, on one page. Beside it only metrics.py and ray_log.py import ray.

    plan ──> decode ──────> transcribe ────> commit ──> receipts
    tasks   CPU tasks      actor pool       CPU tasks  to the driver
             parts of PCM   GPU or CPU       one file
             in chunks      hypotheses       a task

One row of the plan's data set is a pointer to a task. Decode is fused with its reading, so a task is one Ray task: what
is retried when a node dies. Its parts travel alone and reach the actors while the task is still being decoded; for
that Ray's target block size must lie below the size of a part, else it gathers several. Transcribe
takes other resources than its neighbors, so that Ray does not fuse decoding into the actors.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
from ray._private import auto_init_hook
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from distil_ray.errors import RunError
from distil_ray.output.run_context import Run
from distil_ray.pipeline.attempts import attempts_of
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.fault_isolation import GuardedTranscribe
from distil_ray.pipeline.metrics import MetricsExporter
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.ray_cluster import MIB, alive_nodes, describe_cluster, num_actors
from distil_ray.pipeline.ray_monitor import ExecutionObserver, Snapshot, StallDetector, take_snapshot
from distil_ray.pipeline.transcribe_stage import Transcribe
from distil_ray.pipeline.write_stage import commit_parts
from distil_ray.schema import POINTER
from distil_ray.types import BYTES_PER_SAMPLE, SAMPLE_RATE

logger = logging.getLogger(__name__)

# Ray recognizes one part at a time all the same; the other is unpacked, or its result packed, meanwhile.
PARTS_PER_ACTOR = 2
EXTRA_DECODE_CPUS = 0.01  # Ray fuses neighbors that ask for the same, and decoding would then happen inside the actors
POLL_INTERVAL_S = 5.0  # between two looks at whether the run still moves
ACTOR_INIT_ATTEMPTS = 2  # of an actor to load its model in one process: weights come over a network
MAX_ACTOR_INIT_FAILURES = 1  # actors that may fail so before the run does; another takes its place


def run_graph(
    run: Run,
    plan: Plan,
    transcriber: type | None = None,
    tell: Callable[[str], None] = logger.warning,
    show: Callable[[Snapshot], None] | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Runs the graph; a row of `COMMIT_RESULT` for every part, as soon as it is there. Needs `cluster`.

    `tell` gets a sentence when the run stands still or lacks recognizers, `show` what the executor shows now and then.
    Raises `RunError` if Ray gives up, or if nothing has moved for `resources.stall_timeout_s`.
    """
    flow = _RunningGraph(build_graph(run, plan, transcriber or Transcribe))
    meter = MetricsExporter(run.run_id)
    resources = run.config.resources
    part_limit_s = resources.recognizer_limit_s(run.config.plan.part_audio_s)
    watch = StallDetector(resources.stall_timeout_s, part_limit_s, num_actors(resources), lambda: attempts_of(run))
    try:
        for row in flow.rows():
            if row is not None:
                meter.count(row)
                yield row
            elif (snapshot := flow.look()) is not None:
                meter.see(snapshot)
                if show is not None:
                    show(snapshot)
                if (words := watch.look(snapshot)) is not None:
                    tell(words)
    except ray.exceptions.RayError as error:
        raise RunError(_explain(error, run)) from error
    finally:
        flow.stop()


def build_graph(run: Run, plan: Plan, transcriber: type = Transcribe) -> Dataset:
    """The graph, not yet running. `transcriber` is another callable class of `Transcribe`'s shape, for measurements."""
    resources = run.config.resources
    decode_cpus = resources.decode_cpus
    if decode_cpus == resources.cpus_per_actor:
        decode_cpus += EXTRA_DECODE_CPUS
    tasks = ray.data.read_datasource(
        PlanDatasource(plan.tasks["task_id"].to_pylist(), plan.secret_uris),
        override_num_blocks=plan.num_tasks,
        num_cpus=decode_cpus,  # equal to decode's, else Ray does not fuse the two
    )
    parts = tasks.map_batches(
        partial(decode_tasks, run=run), batch_size=None, batch_format="pyarrow", num_cpus=decode_cpus
    )
    results = parts.map_batches(
        GuardedTranscribe,
        fn_constructor_args=(transcriber, run, RayNodes()),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=num_actors(resources),
            max_concurrent_calls_per_actor=PARTS_PER_ACTOR,
            max_tasks_in_flight_per_actor=PARTS_PER_ACTOR,
        ),
        num_cpus=resources.cpus_per_actor,
        num_gpus=resources.gpus_per_actor or None,
        memory=resources.actor_memory_mb * MIB if resources.actor_memory_mb else None,
    )
    done = results.map_batches(
        partial(commit_parts, run=run), batch_size=1, batch_format="pyarrow", num_cpus=resources.commit_cpus
    )
    _set_context(done.context, run)
    return cast(Dataset, done)


class _RunningGraph:
    """A running graph. A thread waits for its rows, so that the caller can look around while none comes."""

    def __init__(self, graph: Dataset) -> None:
        self._graph = graph
        self._arrived: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._fetch, name="receipts", daemon=True)
        self._thread.start()

    def rows(self) -> Iterator[dict[str, Any] | None]:
        """Rows as they come, and None whenever `LOOK_EVERY_S` have passed."""
        look_at_s = time.monotonic() + POLL_INTERVAL_S
        while True:
            try:
                item = self._arrived.get(timeout=max(0.0, look_at_s - time.monotonic()))
            except queue.Empty:
                look_at_s = time.monotonic() + POLL_INTERVAL_S
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def look(self) -> Snapshot | None:
        """The executor as it is now; None before and after it."""
        executor = ExecutionObserver.executor
        return take_snapshot(executor, describe_cluster()) if executor is not None else None

    def stop(self) -> None:
        """Ends what still runs, without waiting for it: recognizers may hang, and a stopped job has little time."""
        executor = ExecutionObserver.executor
        if executor is not None and self._thread.is_alive():
            auto_init_hook.enable_auto_connect = False  # else Ray's own threads start a new Ray when this one has ended
            logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # and say that they miss the old one
            threading.Thread(target=_end, args=(executor,), name="ending", daemon=True).start()

    def _fetch(self) -> None:
        try:
            for row in self._graph.iter_rows():
                self._arrived.put(row)
            self._arrived.put(None)
        except Exception as error:
            self._arrived.put(error)


def _end(executor: Any) -> None:
    with suppress(Exception):  # Ray itself may be ended at the same time
        executor.shutdown(force=True)


def _explain(error: Exception, run: Run) -> str:
    """What was raised in a worker, without its traceback, and what to do."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    if "creation task" in str(error):
        return (
            f"no recognizer could be started with model.name={run.config.model.name}: {last}. See that every node can"
            " read the weights and has the memory for them; resources.actors says how many share it."
        )
    return f"Ray could not carry the run to its end: {last}"


class PlanDatasource(Datasource):
    """The plan as a data set: one ReadTask for each task, its row a pointer to the task."""

    def __init__(self, task_ids: list[str], secret_uris: Mapping[int, Mapping[int, str]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._task_ids = task_ids
        self._secret_uris = secret_uris

    def get_name(self) -> str:
        return "Plan"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        metadata = BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(_task_pointer, number, task_id, self._secret_uris.get(number, {})), metadata)
            for number, task_id in enumerate(self._task_ids)
        ]


def _task_pointer(row_group: int, task_id: str, secret_uris: Mapping[int, str]) -> list[pa.Table]:
    return [pa.table([[task_id], [row_group], [list(secret_uris.items())]], schema=POINTER)]


class RayNodes:
    """The node of the process that asks, and what Ray knows of other nodes (stages/attempts.py: Place)."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def worker(self) -> str:
        return ray.get_runtime_context().get_actor_id() or "driver"

    def is_lost(self, node: str) -> bool:
        return node not in {alive["NodeID"] for alive in alive_nodes()}


def _set_context(context: DataContext, run: Run) -> None:
    part_bytes = run.config.plan.part_audio_s * SAMPLE_RATE * BYTES_PER_SAMPLE
    context.target_max_block_size = max(MIB, int(part_bytes / 8))  # every part a block of its own
    context.target_min_block_size = 0
    context.preserve_order = False  # a slow block must not hold back those behind it
    context.max_errored_blocks = 0  # Ray would drop an errored block's rows in silence
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = ACTOR_INIT_ATTEMPTS - 1
    context.max_consecutive_actor_init_deaths = MAX_ACTOR_INIT_FAILURES
    context.execution_no_progress_timeout_s = -1  # it would also end a healthy run of slow parts; watch.py knows better
    context.custom_execution_callback_classes = [cast(Any, ExecutionObserver)]
    context.print_on_execution_start = False
    context.enable_progress_bars = False  # progress.py shows what people ask about
