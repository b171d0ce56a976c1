"""CPUs and GPUs of nodes, and the recognizer actors that fit on them.

Ray waits forever for resources that no node has. Capacity is therefore checked before actors are requested: for a local
Ray before the input is listed (`require_local_capacity`), for a cluster once the run is connected. Nothing is refused
where nodes may be added (`resources.autoscaling`).

A node is a dict of its resources. The module imports no Ray.
"""

import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from distil_ray.cli.console import format_count
from distil_ray.config import ResourcesConfig
from distil_ray.errors import SettingsError

Node = dict[str, float]  # resources of a node, by Ray's names: CPU, GPU, …

# Threads of a recognizer with cpus_per_actor=auto. More actors use the cores better, but each holds a copy of the
# weights. On a GPU one thread launches kernels and one serves Ray.
AUTO_CPUS = 4.0
AUTO_CPUS_WITH_GPU = 2.0
MIB = 1 << 20
MIN_CPUS = 0.1  # of an actor, beside the other stages on a single CPU
ACTORS_PER_EXECUTOR = 100  # with RTFx 200 and parts of 600 s they take one CPU core to schedule (docs/scale.md)
CPU_STEP = 0.01  # allocations are rounded down to this

CGROUP = Path("/sys/fs/cgroup")


def available_cpus() -> int:
    """Returns the CPUs that this process may use: its affinity, limited by the CPU quota of its container."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read_cpu_quota(CGROUP)
    return cpus if quota is None else max(1, min(cpus, int(quota)))


def _read_cpu_quota(folder: Path) -> float | None:
    """Returns the quota in CPUs of a cgroup of version 2 or 1; None for no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if float(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such cgroup, or the quota is "max"
        return None


def allocate_cpus(resources: ResourcesConfig, nodes: Sequence[Node]) -> ResourcesConfig:
    """Returns the settings with a number for `resources.cpus_per_actor=auto`.

    The largest node is divided: what decode and commit tasks leave goes to as many actors as get about `AUTO_CPUS`
    each, or to one actor per GPU. Smaller nodes hold fewer actors, or decode only. Where nodes may be added, whose size
    is not known, an actor gets `AUTO_CPUS`.

    Raises:
        SettingsError: If decode and commit tasks leave nothing.
    """
    if resources.cpus_per_actor != "auto":
        return resources
    num_gpus = resources.gpus_per_actor
    wanted = AUTO_CPUS_WITH_GPU if num_gpus else AUTO_CPUS
    if resources.autoscaling:
        return resources.model_copy(update={"cpus_per_actor": wanted})
    largest = max(nodes, key=lambda node: (node.get("GPU", 0.0) if num_gpus else 0.0, node.get("CPU", 0.0)), default={})
    spare = largest.get("CPU", 0.0) - resources.decode_cpus - resources.commit_cpus
    if spare < MIN_CPUS:
        raise SettingsError(
            f"resources.decode_cpus={resources.decode_cpus:g} and resources.commit_cpus={resources.commit_cpus:g} leave"
            f" no CPU for a recognizer: the largest node has {largest.get('CPU', 0.0):g} CPUs. Lower them."
        )
    if num_gpus:
        cpus = min(wanted, spare / max(1, int(largest.get("GPU", 0.0) // num_gpus)))
    elif isinstance(resources.actors, int) and len(nodes) == 1:
        cpus = spare / resources.actors
    else:
        cpus = spare / max(1, round(spare / wanted))
    cpus = max(CPU_STEP, int(cpus / CPU_STEP) * CPU_STEP)
    if cpus == resources.decode_cpus:  # Ray would fuse the stages
        cpus -= CPU_STEP
    return resources.model_copy(update={"cpus_per_actor": round(cpus, 2)})


def num_actors(resources: ResourcesConfig, nodes: Sequence[Node]) -> int:
    """Returns the number of recognizer actors: `resources.actors`, or as many as fit on the GPUs or CPUs there are.

    On CPUs, `resources.decode_cpus` and `resources.commit_cpus` are left to the other stages.
    """
    if resources.actors != "auto":
        return resources.actors
    if resources.gpus_per_actor:
        return max(1, sum(int(node.get("GPU", 0.0) // resources.gpus_per_actor) for node in nodes))
    return max(1, _max_actors_beside(nodes, resources, resources.decode_cpus + resources.commit_cpus))


def num_executors(resources: ResourcesConfig, actors: int, num_tasks: int) -> int:
    """Returns the number of processes that schedule the tasks of a run.

    Args:
        resources: Settings.
        actors: Recognizers, at least one for each process.
        num_tasks: Tasks, at least one for each process.
    """
    wanted = resources.executors if resources.executors != "auto" else -(-actors // ACTORS_PER_EXECUTOR)
    return max(1, min(wanted, actors, num_tasks))


def require_actor_capacity(resources: ResourcesConfig, nodes: Sequence[Node], place: str) -> None:
    """Raises `SettingsError` if no node can hold an actor, or if actors leave no CPU to decode.

    Args:
        resources: Settings, with a number for `cpus_per_actor`.
        nodes: Nodes of the cluster.
        place: Description of the cluster, for messages.
    """
    if resources.autoscaling:
        return
    found = sum(node.get("GPU", 0) for node in nodes)
    if resources.gpus_per_actor and max(node.get("GPU", 0) for node in nodes) < resources.gpus_per_actor:
        raise SettingsError(
            f"resources.gpus_per_actor={resources.gpus_per_actor}: no node has that many GPUs ({place}: {found:.0f}"
            " found in total). Set resources.gpus_per_actor=0 to recognize on CPUs, or resources.autoscaling=true if"
            " such nodes will be added."
        )
    most = max(node.get("CPU", 0) for node in nodes)
    if most < actor_cpus(resources):
        raise SettingsError(
            f"resources.cpus_per_actor={actor_cpus(resources):g}: the largest node has {most:g} CPUs ({place}). Set it"
            " lower, or to auto."
        )
    memory = actor_memory_bytes(resources)
    most_memory = max(node.get("memory", math.inf) for node in nodes)
    if memory is not None and most_memory < memory:
        raise SettingsError(
            f"resources.actor_memory_mb={resources.actor_memory_mb}: the largest node has {most_memory / MIB:.0f} MiB"
            f" for actors and tasks ({place}). Lower decoding.batch_size, use a smaller model, or set it lower or to"
            " null, which reserves nothing."
        )
    actors = num_actors(resources, nodes)
    if min(actors, max_actors(nodes, resources)) <= max_actors_beside_decoding(nodes, resources):
        return
    cpus = sum(node.get("CPU", 0) for node in nodes)
    raise SettingsError(
        f"resources.cpus_per_actor={actor_cpus(resources):g}: {format_count(actors, 'recognizer')} of that size"
        f" leave no CPU to decode (resources.decode_cpus={resources.decode_cpus:g}) on {cpus:g} CPUs ({place})."
        " Set resources.cpus_per_actor to auto or lower, lower resources.actors, or set resources.autoscaling=true if"
        " nodes will be added."
    )


def actor_cpus(resources: ResourcesConfig) -> float:
    """Returns `resources.cpus_per_actor`, which `allocate_cpus` has made a number."""
    if isinstance(resources.cpus_per_actor, str):
        raise TypeError("resources.cpus_per_actor=auto was not resolved; call allocate_cpus first")
    return resources.cpus_per_actor


def actor_memory_bytes(resources: ResourcesConfig) -> int | None:
    """Returns the bytes of memory that Ray reserves for an actor; None: nothing is reserved.

    `build_run` makes a number of auto, for recognizers; actors of other kinds reserve nothing with it.
    """
    return resources.actor_memory_mb * MIB if isinstance(resources.actor_memory_mb, int) else None


def describe_memory_excess(resources: ResourcesConfig, peak_rss_mb: float | None) -> str | None:
    """Returns a message if an actor took more memory than Ray reserves for it; None if it did not, or none is reserved.

    Args:
        resources: Settings, with a number or null for `actor_memory_mb`.
        peak_rss_mb: Peak resident size of an actor so far, in MiB.
    """
    reserved = resources.actor_memory_mb
    if not isinstance(reserved, int) or peak_rss_mb is None or peak_rss_mb <= reserved:
        return None
    return (
        f"a recognizer took {peak_rss_mb:,.0f} MiB, more than resources.actor_memory_mb={reserved} reserves: Ray may"
        " start more recognizers than the memory of a node allows. Set it to"
        f" {math.ceil(peak_rss_mb / 100) * 100} or more, or to auto"
    )


def recognizer_threads(resources: ResourcesConfig) -> int:
    """Returns the threads of a recognizer on a CPU. Outside of a cluster, with `auto`, these are all CPUs."""
    return available_cpus() if resources.cpus_per_actor == "auto" else max(1, round(actor_cpus(resources)))


def cluster_address(resources: ResourcesConfig) -> str | None:
    """Returns the address of the cluster to connect to; None to start a local Ray.

    Raises:
        SettingsError: If it is the address of a dashboard.
    """
    address = resources.ray_address if resources.ray_address != "auto" else os.environ.get("RAY_ADDRESS")
    if address is not None and address.lower().startswith(("http://", "https://")):
        setting = "RAY_ADDRESS" if resources.ray_address == "auto" else "resources.ray_address"
        raise SettingsError(
            f"{setting}={address}: is the address of a dashboard, which only takes submitted jobs (ray job submit"
            " --address). Set it to host:port of the head node, such as host:6379, or to ray://host:10001 from outside"
            " of the cluster."
        )
    return None if address == "local" else address


def starts_local_ray(resources: ResourcesConfig) -> bool:
    """Returns whether a run will start a Ray of its own on this machine."""
    ray = sys.modules.get("ray")
    return cluster_address(resources) is None and not (ray is not None and ray.is_initialized())


def require_local_capacity(resources: ResourcesConfig, count_gpus: Callable[[], int]) -> None:
    """Checks the capacity of this machine if the run will start a local Ray on it. Starts nothing.

    Args:
        resources: Settings.
        count_gpus: Returns the GPUs of this machine; called only if actors need one.

    Raises:
        SettingsError: If the machine can never hold an actor and a decode task.
    """
    if not starts_local_ray(resources):
        return
    node = {"CPU": float(available_cpus()), "GPU": float(count_gpus()) if resources.gpus_per_actor else 0.0}
    require_actor_capacity(allocate_cpus(resources, [node]), [node], "this machine")


def max_actors(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """Returns the most actors with `resources.cpus_per_actor` and `resources.gpus_per_actor` that fit on the nodes."""
    return sum(_max_actors_on_node(node, resources) for node in nodes)


def max_actors_beside_decoding(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """Returns the same number, with `resources.decode_cpus` left free on one of the nodes."""
    return _max_actors_beside(nodes, resources, resources.decode_cpus)


def _max_actors_beside(nodes: Sequence[Node], resources: ResourcesConfig, cpus: float) -> int:
    """Returns the most actors that fit on the nodes with `cpus` left free on one of the nodes."""
    lost = [
        _max_actors_on_node(node, resources) - _max_actors_on_node(node, resources, cpus)
        for node in nodes
        if node.get("CPU", 0.0) >= cpus
    ]
    return max_actors(nodes, resources) - min(lost) if lost else 0


def _max_actors_on_node(node: Node, resources: ResourcesConfig, reserved_cpus: float = 0.0) -> int:
    by_cpus = int((node.get("CPU", 0.0) - reserved_cpus + 1e-6) // actor_cpus(resources))
    by_gpus = int(node.get("GPU", 0.0) // resources.gpus_per_actor) if resources.gpus_per_actor else by_cpus
    memory = actor_memory_bytes(resources)
    by_memory = int(node["memory"] // memory) if memory is not None and "memory" in node else by_cpus
    return max(0, min(by_cpus, by_gpus, by_memory))
