"""The Ray Data graph of a run.

    plan ───> decode ──────> transcribe ────> commit ──────> results
    tasks     Ray tasks      actor pool       Ray tasks      to the driver
              on CPUs:       GPU or CPU:      on CPUs: one
              parts of PCM   hypotheses       file per task

A row of the data set `PlanDatasource` points to one task of the plan. Ray fuses reading it with decode, so a task is
decoded by one Ray task, which Ray retries if a node dies. Each part travels on its own and reaches an actor while the
task is still being decoded. For that, Ray's target block size must be below the size of a part, else Ray gathers
several. Transcribe requests other resources than its neighbors, so that Ray does not fuse decoding into the actors.

Ray is imported here, in `graph_execution.py`, `ray_cluster.py`, `ray_key_value.py`, `ray_logging.py` and `metrics.py`
only; the stages are plain callables.
"""

import logging
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from distil_ray.errors import RunError
from distil_ray.output.run_context import Run
from distil_ray.pipeline.capacity import MIB, actor_cpus, actor_memory_bytes, num_actors
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.fault_isolation import FaultIsolatedStage
from distil_ray.pipeline.graph_execution import DividedExecution, GraphExecution, LocalExecution
from distil_ray.pipeline.metrics import MetricsExporter
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.ray_cluster import alive_nodes, count_executors, is_task_retry, node_resources
from distil_ray.pipeline.ray_key_value import WorkerStates, attempt_records
from distil_ray.pipeline.ray_monitor import ExecutionObserver, Snapshot, StallDetector
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.schema import POINTER
from distil_ray.types import BYTES_PER_SAMPLE, SAMPLE_RATE

logger = logging.getLogger(__name__)

# A part is transferred, or a result returned, while another one is recognized; recognition is one part at a time.
PARTS_PER_ACTOR = 2
EXTRA_DECODE_CPUS = 0.01  # makes decode differ from transcribe: Ray fuses neighbors that request the same resources
ACTOR_INIT_ATTEMPTS = 2  # per actor process to load the model: weights come over a network
RAY_ADVICE = ("Failed to apply UDF", "To change retry attempts")  # lines that Ray adds after the exception of a task
NODE_ADDRESS = re.compile(r"\bip=([0-9a-fA-F.:]+)")  # in Ray's description of an actor
MAX_ACTOR_INIT_FAILURES = 1  # actors that may fail to start before the run fails; each is replaced
STORE_SHARE = 0.5  # of the object store that Ray Data fills by default


def run_graph(
    run: Run,
    plan: Plan,
    transcriber: type | None = None,
    on_message: Callable[[str], None] = logger.warning,
    on_progress: Callable[[Snapshot], None] | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Runs the graph and yields a row of `schema.COMMIT_RESULT` for every part, in the order of arrival.

    Each row has `actors_alive` in addition: the recognizers that are alive, or None if that is not known.

    Call it inside `ray_cluster.connect_cluster`.

    Args:
        run: The run, with the resources of `ray_cluster.allocate_resources`. Its settings, not its files, are pickled
            to the workers.
        plan: The plan, already written to `run.plan_uri`.
        transcriber: Replacement for the transcribe stage (`TranscribeStage`), for tests and measurements.
        on_message: Called with a warning if the run makes no progress, or lacks recognizers.
        on_progress: Called with the state of the execution every `graph_execution.POLL_INTERVAL_S`.

    Raises:
        RunError: If Ray gives up, or if there is no progress for `resources.stall_timeout_s`.
    """
    resources = run.config.resources
    states, attempts = WorkerStates(run.run_id), attempt_records(run)
    for values in (states, attempts):
        values.clear()  # of an earlier attempt with the same run_id
    actors = num_actors(resources, node_resources())
    graph = _start(run, plan, actors, transcriber or TranscribeStage, on_message)
    exporter = MetricsExporter(run.run_id)
    part_limit_s = resources.recognizer_limit_s(run.part_audio_s)
    detector = StallDetector(resources.stall_timeout_s, part_limit_s, actors, attempts.keys)
    try:
        for row in graph.rows():
            if row is not None:
                exporter.add(row)
                yield row | {"actors_alive": graph.num_alive()}
            elif (snapshot := graph.snapshot()) is not None:
                snapshot = replace(snapshot, workers=states.read())
                exporter.update(snapshot)
                if on_progress is not None:
                    on_progress(snapshot)
                if (message := detector.check(snapshot)) is not None:
                    on_message(message)
        exporter.flush()
        for values in (states, attempts):
            values.clear()
    except ray.exceptions.RayError as error:
        raise RunError(_explain(error, run)) from error
    finally:
        graph.stop()


def _start(run: Run, plan: Plan, actors: int, transcriber: type, on_message: Callable[[str], None]) -> GraphExecution:
    """Starts the graph: in this process, or divided among as many as `resources.executors` says."""
    number = count_executors(run.config.resources, actors, plan.num_tasks)
    tasks = list(enumerate(plan.tasks["task_id"].to_pylist()))
    if number == 1:
        source = PlanDatasource(tasks, plan.secret_uris)
        return LocalExecution(build_graph(run, source, actors, transcriber, decode_tasks))
    builds = []
    for part in range(number):
        # Every part has long tasks at its beginning and short ones at its end, as the plan has.
        source = PlanDatasource(tasks[part::number], plan.secret_uris)
        share = actors // number + (part < actors % number)
        builds.append(partial(build_graph, run, source, share, transcriber, decode_tasks, number))
    return DividedExecution(builds, on_message)


def build_graph(
    run: Run,
    source: "PlanDatasource",
    actors: int,
    transcriber: type = TranscribeStage,
    decode: Callable[..., Iterator[pa.Table]] = decode_tasks,
    num_executors: int = 1,
) -> Dataset:
    """Returns the lazy data set of the graph.

    Args:
        run: As for `run_graph`.
        source: Tasks of the plan.
        actors: Recognizers.
        transcriber: A callable class like `TranscribeStage`.
        decode: A function like `decode_tasks`.
        num_executors: Data sets that share the object store.
    """
    resources = run.config.resources
    decode_cpus = resources.decode_cpus
    if decode_cpus == actor_cpus(resources):
        decode_cpus += EXTRA_DECODE_CPUS
    tasks = ray.data.read_datasource(
        source,
        override_num_blocks=source.num_tasks,
        num_cpus=decode_cpus,  # as decode requests, else Ray does not fuse the two
    )
    parts = tasks.map_batches(
        partial(decode, run=run, is_retry=is_task_retry),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=decode_cpus,
    )
    hypotheses = parts.map_batches(
        FaultIsolatedStage,
        fn_constructor_args=(transcriber, run, RayNodes(), attempt_records(run), WorkerStates(run.run_id).publish),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=actors,
            max_concurrent_calls_per_actor=PARTS_PER_ACTOR,
            max_tasks_in_flight_per_actor=PARTS_PER_ACTOR,
        ),
        num_cpus=actor_cpus(resources),
        num_gpus=resources.gpus_per_actor or None,
        memory=actor_memory_bytes(resources),
    )
    results = hypotheses.map_batches(
        partial(write_parts, run=run), batch_size=1, batch_format="pyarrow", num_cpus=resources.commit_cpus
    )
    _set_context(results.context, run, num_executors)
    return cast(Dataset, results)


def _explain(error: Exception, run: Run) -> str:
    """Returns a message for an error of Ray: the exception of the worker without its traceback, and the remedy."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if not line.startswith(RAY_ADVICE)), type(error).__name__)
    if isinstance(error, ray.exceptions.OutOfDiskError):
        return (
            "the disk of Ray's temporary folder (RAY_TMPDIR, else /tmp) is full. Free some space, or start Ray with"
            " another folder, and re-run the same command to resume."
        )
    if "creation task" in str(error):
        address = NODE_ADDRESS.search(str(error))
        where = f" on node {address[1]}" if address else ""
        return (
            f"a recognizer could not be started with model.name={run.config.model.name}{where}: {last}."
            " Check that every node can read the weights, has memory for them and a working device;"
            " resources.actors is the number of recognizers that share the nodes."
        )
    return f"Ray ended the run: {last}"


class PlanDatasource(Datasource):
    """Data source with one ReadTask per task of the plan; its only row points to the task (`schema.POINTER`)."""

    def __init__(self, tasks: Sequence[tuple[int, str]], secret_uris: Mapping[int, Mapping[int, str]]) -> None:
        """Takes tasks of a plan.

        Args:
            tasks: Row group and id of each.
            secret_uris: `Plan.secret_uris`, for these tasks and others.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._tasks = [(number, task_id, secret_uris.get(number, {})) for number, task_id in tasks]

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self._tasks)

    def get_name(self) -> str:
        return "Plan"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        metadata = BlockMetadata(num_rows=1, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(_task_pointer, number, task_id, secret_uris), metadata)
            for number, task_id, secret_uris in self._tasks
        ]


def _task_pointer(row_group: int, task_id: str, secret_uris: Mapping[int, str]) -> list[pa.Table]:
    return [pa.table([[task_id], [row_group], [list(secret_uris.items())]], schema=POINTER)]


class RayNodes:
    """Identity of this process in the Ray cluster, and the state of other nodes (`attempts.WorkerIdentity`)."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def worker(self) -> str:
        return ray.get_runtime_context().get_actor_id() or "driver"

    def is_lost(self, node: str) -> bool:
        return node not in {alive["NodeID"] for alive in alive_nodes()}


def _set_context(context: DataContext, run: Run, num_executors: int) -> None:
    part_bytes = run.part_audio_s * SAMPLE_RATE * BYTES_PER_SAMPLE
    context.target_max_block_size = max(MIB, int(part_bytes / 8))  # every part is a Ray block of its own
    context.target_min_block_size = 0
    if num_executors > 1:
        context.override_object_store_memory_limit_fraction = STORE_SHARE / num_executors
    context.preserve_order = False  # a slow block must not delay those behind it
    context.max_errored_blocks = 0  # Ray would drop the rows of a failed block silently
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = ACTOR_INIT_ATTEMPTS - 1
    context.max_consecutive_actor_init_deaths = MAX_ACTOR_INIT_FAILURES
    context.execution_no_progress_timeout_s = -1  # would end healthy runs with slow parts; StallDetector replaces it
    context.custom_execution_callback_classes = [cast(Any, ExecutionObserver)]
    context.issue_detectors_config.detectors = []  # print paragraphs about memory; the run reports what matters itself
    context.print_on_execution_start = False
    context.enable_progress_bars = False  # replaced by progress.py
