"""Connection to a Ray cluster, and functions mapped over it without a graph.

The capacity of the cluster is checked by `capacity.py`; a local Ray gets the CPUs that are counted there.
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any, cast

import ray
from ray._private.accelerators import get_accelerator_manager_for_resource
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distil_ray.cli.console import format_count
from distil_ray.config import ResourcesConfig
from distil_ray.errors import RunError, SettingsError
from distil_ray.pipeline import ray_logging
from distil_ray.pipeline.capacity import (
    MIB,
    Node,
    allocate_cpus,
    available_cpus,
    cluster_address,
    num_executors,
    require_actor_capacity,
)

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0  # for the head node to take a connection
TASKS_IN_FLIGHT = 256  # of `map_on_cluster`; enough to keep a large cluster busy
# Ray ends a worker that was idle for a second, where there are more workers than CPUs. On a small machine each task
# then starts a process of its own, which takes three CPU seconds, most of them for imports.
KEEP_IDLE_WORKERS_MS = 300_000
NODE_ANSWER_S = 60.0  # for the workers of all nodes to start
MAX_ATTEMPTS = 4  # at one of them, if its process or node dies


@contextmanager
def connect_cluster(resources: ResourcesConfig) -> Iterator[str]:
    """Connects to the cluster of the settings, or starts a local Ray. Yields a description of the cluster.

    An existing connection of the process is used, and stays open.

    Raises:
        SettingsError: If the cluster cannot be reached.
        RunError: If no local Ray could be started.
    """
    connected = ray.is_initialized()
    if not connected:
        _connect(resources)
    try:
        ray_logging.quiet_ray_loggers()
        yield describe_cluster()
    finally:
        if not connected and not _keeps_connection:
            ray.shutdown()


_keeps_connection = False  # True inside `keep_cluster`


@contextmanager
def keep_cluster() -> Iterator[None]:
    """Keeps connections of `connect_cluster` inside of it open until its own end, for jobs of several stages."""
    global _keeps_connection  # noqa: PLW0603 - as is a process's connection to Ray
    connected = ray.is_initialized()
    _keeps_connection = True
    try:
        yield
    finally:
        _keeps_connection = False
        if not connected:
            ray.shutdown()


def allocate_resources(resources: ResourcesConfig) -> ResourcesConfig:
    """Returns the settings with `resources.cpus_per_actor` as a number, for the connected cluster.

    Raises:
        SettingsError: If the cluster can never hold an actor and a decode task.
    """
    nodes = node_resources()
    allocated = allocate_cpus(resources, nodes)
    require_actor_capacity(allocated, nodes, describe_cluster())
    return allocated


def count_local_gpus() -> int:
    """Returns the GPUs of this machine that a local Ray would offer."""
    manager = get_accelerator_manager_for_resource("GPU")
    if manager is None:
        return 0
    found, visible = manager.get_current_node_num_accelerators(), manager.get_current_process_visible_accelerator_ids()
    return int(found if visible is None else min(found, len(visible)))


def _connect(resources: ResourcesConfig) -> None:
    address = cluster_address(resources)
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if address is None:
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
    """Raises OSError at once if nothing listens at the address; Ray itself retries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _start_local(resources: ResourcesConfig) -> None:
    """Starts Ray on this machine. Ray gives the node 30 s, which a busy machine may exceed: two attempts."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves the recognizers on a busy machine
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(KEEP_IDLE_WORKERS_MS))
    store = {"object_store_memory": resources.object_store_mb * MIB} if resources.object_store_mb else {}
    for is_last in (False, True):
        try:
            _init(address="local", num_cpus=available_cpus(), include_dashboard=False, **store)
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


def map_on_cluster(function: Callable[[str], Any], names: Sequence[str], cpus: float) -> Generator[Any, None, None]:
    """Yields `function(name)` for each name, in the order of completion. One Ray task per name; no order is kept.

    Call it inside `connect_cluster`. Ray repeats a task whose process or node dies.

    Args:
        function: Picklable function.
        names: Arguments.
        cpus: CPUs of one task.

    Raises:
        RunError: If `function` raises, or if Ray gives up.
    """

    def run_one(name: str) -> Any:  # ray.remote accepts functions only, no partial objects
        return function(name)

    task: Any = ray.remote(num_cpus=cpus, max_retries=MAX_ATTEMPTS - 1)(run_one)
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
        raise RunError(f"Ray ended the tasks: {' '.join(str(error).split())[:300]}") from error


def call_on_nodes(function: Callable[[], Any], min_cpus: float) -> list[Any]:
    """Returns `function()` of every node with at least so many CPUs that answers within `NODE_ANSWER_S`."""

    def call() -> Any:
        return function()

    task: Any = ray.remote(num_cpus=0, max_retries=0)(call)
    nodes = [node["NodeID"] for node in alive_nodes() if node["Resources"].get("CPU", 0.0) >= min_cpus]
    calls = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes
    ]
    done, _ = ray.wait(calls, num_returns=len(calls), timeout=NODE_ANSWER_S) if calls else ([], [])
    answers = []
    for one in done:
        with suppress(ray.exceptions.RayError):  # the node is gone
            answers.append(ray.get(one))
    return answers


def is_task_retry() -> bool:
    """Returns whether the Ray task that calls this repeats an earlier attempt, whose result or node was lost."""
    worker = cast(Any, ray._private.worker.global_worker)
    return bool(worker.core_worker.get_current_task_attempt_number())


def count_executors(resources: ResourcesConfig, actors: int, num_tasks: int) -> int:
    """Returns `capacity.num_executors`, for this connection: one through `ray://` has one process that schedules."""
    is_client = ray.util.client.ray.is_connected()  # type: ignore[no-untyped-call]
    return 1 if is_client else num_executors(resources, actors, num_tasks)


def node_resources() -> list[Node]:
    """Returns the resources of each node that is alive."""
    return [node["Resources"] for node in alive_nodes()]


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _total_resources() -> dict[str, float]:
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def describe_cluster() -> str:
    total, nodes = _total_resources(), len(alive_nodes())
    return f"Ray on {format_count(nodes, 'node')}: {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
