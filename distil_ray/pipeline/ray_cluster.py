"""Connecting to a Ray cluster, what its nodes can hold, and tasks on it that need no graph."""

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
TASKS_IN_FLIGHT = 256  # of `run_tasks`; enough for a large cluster to see what is asked of it
MAX_ATTEMPTS = 4  # of one of them, where its process or node dies
MIB = 1 << 20
Node = dict[str, float]  # what a node has, by Ray's names


@contextmanager
def connect_cluster(resources: ResourcesConfig) -> Iterator[str]:
    """Connects to the cluster of the settings, or starts a local Ray; gives a sentence about what it is.

    A Ray that this process is connected to already is used and left as it is.
    Raises `SettingsError` if the cluster cannot be reached or can never hold what `resources` asks for.
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


_keeps_connection = False  # whether the process is inside of `one_cluster`


@contextmanager
def keep_cluster() -> Iterator[None]:
    """For a job of several halves: what `cluster` connects to inside the block stays till the block ends."""
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


def num_actors(resources: ResourcesConfig) -> int:
    """How many recognizer actors: as set, else one for every `gpus_per_actor`, or for the CPUs that decoding leaves."""
    if resources.actors != "auto":
        return resources.actors
    total = _total_resources()
    if resources.gpus_per_actor:
        return max(1, int(total.get("GPU", 0) // resources.gpus_per_actor))
    spare = total.get("CPU", 1) - resources.decode_cpus - resources.commit_cpus
    return max(1, int(spare // resources.cpus_per_actor))


def _require_actor_capacity(resources: ResourcesConfig) -> None:
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


def require_decode_capacity(resources: ResourcesConfig) -> None:
    """Raises `SettingsError` where recognizers would take every CPU: they would wait for audio for ever."""
    nodes = node_resources()
    actors = num_actors(resources)
    if resources.autoscaling or min(actors, max_actors(nodes, resources)) <= max_actors_beside_decoding(
        nodes, resources
    ):
        return
    cpus = sum(node.get("CPU", 0) for node in nodes)
    raise SettingsError(
        f"resources.cpus_per_actor={resources.cpus_per_actor:g}: {actors} recognizer{'s' * (actors != 1)} of that size"
        f" leave no room to decode (resources.decode_cpus={resources.decode_cpus:g}) on a cluster of {cpus:g} CPUs."
        " Take fewer CPUs each, or fewer of them (resources.actors); or resources.autoscaling=true if nodes will be"
        " added."
    )


def max_actors(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """Processes of `resources.cpus_per_actor` and `resources.gpus_per_actor` that the nodes hold at most."""
    return sum(_max_actors_on_node(node, resources) for node in nodes)


def max_actors_beside_decoding(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """The same, with room for a decode task left on one of the nodes."""
    cpus = resources.decode_cpus
    given_up = [
        _max_actors_on_node(node, resources) - _max_actors_on_node(node, resources, cpus)
        for node in nodes
        if node.get("CPU", 0.0) >= cpus
    ]
    return max_actors(nodes, resources) - min(given_up) if given_up else 0


def _max_actors_on_node(node: Node, resources: ResourcesConfig, beside: float = 0.0) -> int:
    """On one node, with so many CPUs for something else."""
    by_cpus = int((node.get("CPU", 0.0) - beside) // resources.cpus_per_actor)
    by_gpus = int(node.get("GPU", 0.0) // resources.gpus_per_actor) if resources.gpus_per_actor else by_cpus
    return max(0, min(by_cpus, by_gpus))


def map_on_cluster(work: Callable[[str], Any], names: Sequence[str], cpus: float) -> Generator[Any, None, None]:
    """What `work` answers for each name, as it comes: one task a name, for what needs no model. Needs `cluster`.

    A task whose process or node dies is done again by Ray. Raises `RunError` if Ray gives it up, or if `work` raises.
    """

    def run_one(name: str) -> Any:  # Ray takes nothing but functions, and no partial ones
        return work(name)

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
        raise RunError(f"Ray could not carry the tasks to their end: {' '.join(str(error).split())[:300]}") from error


def node_resources() -> list[Node]:
    """What each living node has."""
    return [node["Resources"] for node in alive_nodes()]


def alive_nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _total_resources() -> dict[str, float]:
    return cast(dict[str, float], ray.cluster_resources())  # type: ignore[no-untyped-call]


def describe_cluster() -> str:
    total, nodes = _total_resources(), len(alive_nodes())
    return f"Ray on {nodes} node{'s' * (nodes != 1)}: {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g} GPUs"
