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
import os
import queue
import socket
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, cast

import pyarrow as pa
import ray
from ray._private import auto_init_hook
from ray.data import ActorPoolStrategy, DataContext, Dataset, Datasource, ReadTask
from ray.data.block import BlockMetadata

from distil_ray.config import ResourcesConfig
from distil_ray.errors import RunError, SettingsError
from distil_ray.output.run_context import Run
from distil_ray.pipeline import ray_logging
from distil_ray.pipeline.attempts import attempts_of
from distil_ray.pipeline.cluster_capacity import Node, num_held, num_places
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.fault_isolation import GuardedTranscribe
from distil_ray.pipeline.metrics import Meter
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.ray_executor import Observer, take_snapshot
from distil_ray.pipeline.stall_detector import Snapshot, Watch
from distil_ray.pipeline.transcribe_stage import Transcribe
from distil_ray.pipeline.write_stage import commit_parts
from distil_ray.schema import BYTES_PER_SAMPLE, POINTER, SAMPLE_RATE

logger = logging.getLogger(__name__)

MIB = 1 << 20
CONNECT_TIMEOUT_S = 10.0  # for the head node to take a connection
TASKS_IN_FLIGHT = 256  # of `run_tasks`; enough for a large cluster to see what is asked of it
TASK_TRIES = 4  # of one of them, where its process or node dies
# Ray recognizes one part at a time all the same; the other is unpacked, or its result packed, meanwhile.
PARTS_IN_ACTOR = 2
UNLIKE_CPUS = 0.01  # Ray fuses neighbors that ask for the same, and decoding would then happen inside the actors
LOOK_EVERY_S = 5.0  # between two looks at whether the run still moves
INIT_TRIES = 2  # of an actor to load its model in one process: weights come over a network
INIT_DEATHS = 1  # actors that may fail so before the run does; another takes its place


def receipts(
    run: Run,
    plan: Plan,
    transcriber: type | None = None,
    tell: Callable[[str], None] = logger.warning,
    show: Callable[[Snapshot], None] | None = None,
) -> Generator[dict[str, Any], None, None]:
    """Runs the graph; a row of `RECEIPT` for every part, as soon as it is there. Needs `cluster`.

    `tell` gets a sentence when the run stands still or lacks recognizers, `show` what the executor shows now and then.
    Raises `RunError` if Ray gives up, or if nothing has moved for `resources.stall_timeout_s`.
    """
    flow = _Flow(build(run, plan, transcriber or Transcribe))
    meter = Meter(run.run_id)
    resources = run.config.resources
    part_limit_s = resources.recognizer_limit_s(run.config.plan.part_audio_s)
    watch = Watch(resources.stall_timeout_s, part_limit_s, num_actors(resources), lambda: attempts_of(run))
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


def build(run: Run, plan: Plan, transcriber: type = Transcribe) -> Dataset:
    """The graph, not yet running. `transcriber` is another callable class of `Transcribe`'s shape, for measurements."""
    resources = run.config.resources
    decode_cpus = resources.decode_cpus
    if decode_cpus == resources.cpus_per_actor:
        decode_cpus += UNLIKE_CPUS
    tasks = ray.data.read_datasource(
        PlannedTasks(plan.tasks["task_id"].to_pylist(), plan.secret_uris),
        override_num_blocks=plan.num_tasks,
        num_cpus=decode_cpus,  # equal to decode's, else Ray does not fuse the two
    )
    parts = tasks.map_batches(
        partial(decode_tasks, run=run), batch_size=None, batch_format="pyarrow", num_cpus=decode_cpus
    )
    results = parts.map_batches(
        GuardedTranscribe,
        fn_constructor_args=(transcriber, run, RayPlace()),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=num_actors(resources),
            max_concurrent_calls_per_actor=PARTS_IN_ACTOR,
            max_tasks_in_flight_per_actor=PARTS_IN_ACTOR,
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


class _Flow:
    """A running graph. A thread waits for its rows, so that the caller can look around while none comes."""

    def __init__(self, graph: Dataset) -> None:
        self._graph = graph
        self._arrived: queue.SimpleQueue[dict[str, Any] | Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._fetch, name="receipts", daemon=True)
        self._thread.start()

    def rows(self) -> Iterator[dict[str, Any] | None]:
        """Rows as they come, and None whenever `LOOK_EVERY_S` have passed."""
        look_at_s = time.monotonic() + LOOK_EVERY_S
        while True:
            try:
                item = self._arrived.get(timeout=max(0.0, look_at_s - time.monotonic()))
            except queue.Empty:
                look_at_s = time.monotonic() + LOOK_EVERY_S
                yield None
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item

    def look(self) -> Snapshot | None:
        """The executor as it is now; None before and after it."""
        executor = Observer.executor
        return take_snapshot(executor, _describe_cluster()) if executor is not None else None

    def stop(self) -> None:
        """Ends what still runs, without waiting for it: recognizers may hang, and a stopped job has little time."""
        executor = Observer.executor
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


class PlannedTasks(Datasource):
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
            ReadTask(partial(_pointer, number, task_id, self._secret_uris.get(number, {})), metadata)
            for number, task_id in enumerate(self._task_ids)
        ]


def _pointer(row_group: int, task_id: str, secret_uris: Mapping[int, str]) -> list[pa.Table]:
    return [pa.table([[task_id], [row_group], [list(secret_uris.items())]], schema=POINTER)]


class RayPlace:
    """The node of the process that asks, and what Ray knows of other nodes (stages/attempts.py: Place)."""

    def node(self) -> str:
        return ray.get_runtime_context().get_node_id()

    def worker(self) -> str:
        return ray.get_runtime_context().get_actor_id() or "driver"

    def is_lost(self, node: str) -> bool:
        return node not in {alive["NodeID"] for alive in _nodes()}


def _set_context(context: DataContext, run: Run) -> None:
    part_bytes = run.config.plan.part_audio_s * SAMPLE_RATE * BYTES_PER_SAMPLE
    context.target_max_block_size = max(MIB, int(part_bytes / 8))  # every part a block of its own
    context.target_min_block_size = 0
    context.preserve_order = False  # a slow block must not hold back those behind it
    context.max_errored_blocks = 0  # Ray would drop an errored block's rows in silence
    context.actor_init_retry_on_errors = True
    context.actor_init_max_retries = INIT_TRIES - 1
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    context.execution_no_progress_timeout_s = -1  # it would also end a healthy run of slow parts; watch.py knows better
    context.custom_execution_callback_classes = [cast(Any, Observer)]
    context.print_on_execution_start = False
    context.enable_progress_bars = False  # progress.py shows what people ask about


@contextmanager
def cluster(resources: ResourcesConfig) -> Iterator[str]:
    """Connects to the cluster of the settings, or starts a local Ray; gives a sentence about what it is.

    A Ray that this process is connected to already is used and left as it is.
    Raises `SettingsError` if the cluster cannot be reached or can never hold what `resources` asks for.
    """
    connected = ray.is_initialized()
    if not connected:
        _connect(resources)
    try:
        ray_logging.quieten()
        _require_room(resources)
        yield _describe_cluster()
    finally:
        if not connected and not _stays:
            ray.shutdown()


_stays = False  # whether the process is inside of `one_cluster`


@contextmanager
def one_cluster() -> Iterator[None]:
    """For a job of several halves: what `cluster` connects to inside the block stays till the block ends."""
    global _stays  # noqa: PLW0603 - as is a process's connection to Ray
    connected = ray.is_initialized()
    _stays = True
    try:
        yield
    finally:
        _stays = False
        if not connected:
            ray.shutdown()


def _connect(resources: ResourcesConfig) -> None:
    address = resources.ray_address if resources.ray_address != "auto" else os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if address in (None, "local"):
        _start_local(resources)
        return
    try:
        _require_listener(address)
        _init(address=address)
    except (OSError, RuntimeError, ValueError) as error:
        raise SettingsError(
            f"resources.ray_address={resources.ray_address}: no Ray cluster could be reached at '{address}'"
            f" ({' '.join(str(error).split())[:300]}). Check the address, or unset RAY_ADDRESS for a local Ray."
        ) from error


def _require_listener(address: str) -> None:
    """Raises OSError at once where nobody listens; Ray itself asks again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _start_local(resources: ResourcesConfig) -> None:
    """A Ray on this machine. Its node must be up within 30 s, which a busy machine may miss: it gets a second try."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 starves the recognizer on a busy machine
    store = {"object_store_memory": resources.object_store_mb * MIB} if resources.object_store_mb else {}
    for is_last in (False, True):
        try:
            _init(address="local", include_dashboard=False, **store)
            return
        except Exception as error:  # Ray raises a bare Exception for a node that did not come up in time
            ray.shutdown()
            if is_last:
                reason = " ".join(str(error).split())[:300]
                raise RunError(
                    f"no local Ray could be started: {reason}. Is the machine out of memory or CPU?"
                ) from error


def _init(**options: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        workers_too = logging.getLogger("distil_ray").isEnabledFor(logging.DEBUG)
        ray.init(log_to_driver=workers_too, logging_level=logging.ERROR, **options)


def run_tasks(work: Callable[[str], Any], names: Sequence[str], cpus: float) -> Generator[Any, None, None]:
    """What `work` answers for each name, as it comes: one task a name, for what needs no model. Needs `cluster`.

    A task whose process or node dies is done again by Ray. Raises `RunError` if Ray gives it up, or if `work` raises.
    """

    def run_one(name: str) -> Any:  # Ray takes nothing but functions, and no partial ones
        return work(name)

    task: Any = ray.remote(num_cpus=cpus, max_retries=TASK_TRIES - 1)(run_one)
    waiting, running = iter(names), set[Any]()
    try:
        while True:
            running |= {task.remote(name) for name in islice(waiting, TASKS_IN_FLIGHT - len(running))}
            if not running:
                return
            done, _ = ray.wait(list(running))
            running -= set(done)
            yield from ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise RunError(f"a task failed: {' '.join(str(error.cause).split()) or type(error.cause).__name__}") from error
    except ray.exceptions.RayError as error:
        raise RunError(f"Ray could not carry the tasks to their end: {' '.join(str(error).split())[:300]}") from error


def num_actors(resources: ResourcesConfig) -> int:
    """How many recognizer actors: as set, else one for every `gpus_per_actor`, or for the CPUs that decoding leaves."""
    if resources.actors != "auto":
        return resources.actors
    total = _total_resources()
    if resources.gpus_per_actor:
        return max(1, int(total.get("GPU", 0) // resources.gpus_per_actor))
    spare = total.get("CPU", 1) - resources.decode_cpus - resources.commit_cpus
    return max(1, int(spare // resources.cpus_per_actor))


def _require_room(resources: ResourcesConfig) -> None:
    """Ray waits for ever for a node that can hold an actor: say at once that there is none, unless one may be added."""
    if resources.autoscaling:
        return
    nodes = node_resources()
    if resources.gpus_per_actor and max(node.get("GPU", 0) for node in nodes) < resources.gpus_per_actor:
        found = sum(node.get("GPU", 0) for node in nodes)
        raise SettingsError(
            f"resources.gpus_per_actor={resources.gpus_per_actor}: no node of the cluster has so many GPUs"
            f" ({found:.0f} found in all). Set resources.gpus_per_actor=0 to recognize on CPUs, or"
            " resources.autoscaling=true if such nodes will be added."
        )
    if max(node.get("CPU", 0) for node in nodes) < resources.cpus_per_actor:
        most = max(node.get("CPU", 0) for node in nodes)
        raise SettingsError(
            f"resources.cpus_per_actor={resources.cpus_per_actor:g}: the largest node has {most:g} CPUs. Take fewer."
        )


def require_decoders(resources: ResourcesConfig) -> None:
    """Raises `SettingsError` where recognizers would take every CPU: they would wait for audio for ever."""
    nodes = node_resources()
    actors = num_actors(resources)
    if resources.autoscaling or min(actors, num_held(nodes, resources)) <= num_places(nodes, resources):
        return
    cpus = sum(node.get("CPU", 0) for node in nodes)
    raise SettingsError(
        f"resources.cpus_per_actor={resources.cpus_per_actor:g}: {actors} recognizer{'s' * (actors != 1)} of that size"
        f" leave no room to decode (resources.decode_cpus={resources.decode_cpus:g}) on a cluster of {cpus:g} CPUs."
        " Take fewer CPUs each, or fewer of them (resources.actors); or resources.autoscaling=true if nodes will be"
        " added."
    )


def num_alive() -> int | None:
    """Recognizer actors that live now; None while no graph runs."""
    executor = Observer.executor
    snapshot = take_snapshot(executor, "") if executor is not None else None
    return snapshot.alive if snapshot is not None else None


def node_resources() -> list[Node]:
    """What each living node has."""
    return [node["Resources"] for node in _nodes()]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _total_resources() -> dict[str, float]:
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def _describe_cluster() -> str:
    total, nodes = _total_resources(), len(_nodes())
    return f"Ray on {nodes} node{'s' * (nodes != 1)}: {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
