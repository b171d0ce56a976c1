"""Connection to a Ray cluster, its capacity, and functions mapped over it without a graph.

Ray waits forever for resources that no node has. The capacity is therefore checked before actors are requested
(`require_decode_capacity`, `connect_cluster`), unless nodes may be added (`resources.autoscaling`).
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, cast

import ray

from distil_ray.config import ResourcesConfig
from distil_ray.errors import RunError, SettingsError
from distil_ray.pipeline import ray_logging

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0  # for the head node to take a connection
TASKS_IN_FLIGHT = 256  # of `map_on_cluster`; enough to keep a large cluster busy
MAX_ATTEMPTS = 4  # at one of them, if its process or node dies
MIB = 1 << 20
Node = dict[str, float]  # resources of a node, by Ray's names: CPU, GPU, …


@contextmanager
def connect_cluster(resources: ResourcesConfig) -> Iterator[str]:
    """Connects to the cluster of the settings, or starts a local Ray. Yields a description of the cluster.

    An existing connection of the process is used, and stays open.

    Raises:
        SettingsError: If the cluster cannot be reached, or can never hold an actor of `resources`.
        RunError: If no local Ray could be started.
    """
    connected = ray.is_initialized()
    if not connected:
        _connect(resources)
    try:
        ray_logging.quiet_ray_loggers()
        _require_actor_capacity(resources)
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
    """Raises OSError at once if nothing listens at the address; Ray itself retries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _start_local(resources: ResourcesConfig) -> None:
    """Starts Ray on this machine. Ray gives the node 30 s, which a busy machine may exceed: two attempts."""
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's default of 15 starves the recognizers on a busy machine
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


def num_actors(resources: ResourcesConfig) -> int:
    """Returns the number of recognizer actors: `resources.actors`, or as many as fit on the GPUs or CPUs there are.

    On CPUs, `resources.decode_cpus` and `resources.commit_cpus` are left to the other stages.
    """
    if resources.actors != "auto":
        return resources.actors
    total = _total_resources()
    if resources.gpus_per_actor:
        return max(1, int(total.get("GPU", 0) // resources.gpus_per_actor))
    spare = total.get("CPU", 1) - resources.decode_cpus - resources.commit_cpus
    return max(1, int(spare // resources.cpus_per_actor))


def _require_actor_capacity(resources: ResourcesConfig) -> None:
    """Raises `SettingsError` if no node can hold a recognizer actor, unless nodes may be added."""
    if resources.autoscaling:
        return
    nodes = node_resources()
    if resources.gpus_per_actor and max(node.get("GPU", 0) for node in nodes) < resources.gpus_per_actor:
        found = sum(node.get("GPU", 0) for node in nodes)
        raise SettingsError(
            f"resources.gpus_per_actor={resources.gpus_per_actor}: no node of the cluster has that many GPUs"
            f" ({found:.0f} found in total). Set resources.gpus_per_actor=0 to recognize on CPUs, or"
            " resources.autoscaling=true if such nodes will be added."
        )
    if max(node.get("CPU", 0) for node in nodes) < resources.cpus_per_actor:
        most = max(node.get("CPU", 0) for node in nodes)
        raise SettingsError(
            f"resources.cpus_per_actor={resources.cpus_per_actor:g}: the largest node has {most:g} CPUs. Set it lower."
        )


def require_decode_capacity(resources: ResourcesConfig) -> None:
    """Raises `SettingsError` if recognizers would take every CPU, and so wait forever for decoded audio."""
    nodes = node_resources()
    actors = num_actors(resources)
    if resources.autoscaling or min(actors, max_actors(nodes, resources)) <= max_actors_beside_decoding(
        nodes, resources
    ):
        return
    cpus = sum(node.get("CPU", 0) for node in nodes)
    raise SettingsError(
        f"resources.cpus_per_actor={resources.cpus_per_actor:g}: {actors} recognizer{'s' * (actors != 1)} of that size"
        f" leave no CPU to decode (resources.decode_cpus={resources.decode_cpus:g}) on a cluster of {cpus:g} CPUs."
        " Lower resources.cpus_per_actor or resources.actors, or set resources.autoscaling=true if nodes will be added."
    )


def max_actors(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """Returns the most actors with `resources.cpus_per_actor` and `resources.gpus_per_actor` that fit on the nodes."""
    return sum(_max_actors_on_node(node, resources) for node in nodes)


def max_actors_beside_decoding(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """Returns the same number, with `resources.decode_cpus` left free on one of the nodes."""
    cpus = resources.decode_cpus
    lost = [
        _max_actors_on_node(node, resources) - _max_actors_on_node(node, resources, cpus)
        for node in nodes
        if node.get("CPU", 0.0) >= cpus
    ]
    return max_actors(nodes, resources) - min(lost) if lost else 0


def _max_actors_on_node(node: Node, resources: ResourcesConfig, reserved_cpus: float = 0.0) -> int:
    by_cpus = int((node.get("CPU", 0.0) - reserved_cpus) // resources.cpus_per_actor)
    by_gpus = int(node.get("GPU", 0.0) // resources.gpus_per_actor) if resources.gpus_per_actor else by_cpus
    return max(0, min(by_cpus, by_gpus))


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


def node_resources() -> list[Node]:
    """Returns the resources of each node that is alive."""
    return [node["Resources"] for node in alive_nodes()]


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _total_resources() -> dict[str, float]:
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def describe_cluster() -> str:
    total, nodes = _total_resources(), len(alive_nodes())
    return f"Ray on {nodes} node{'s' * (nodes != 1)}: {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
