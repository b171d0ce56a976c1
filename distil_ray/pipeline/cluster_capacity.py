"""How many processes of a size the nodes of a cluster hold side by side, and whether anything else still fits.

Ray waits for ever for what fits nowhere: whoever asks for processes asks here first. Numbers only; nothing of Ray.
"""

from collections.abc import Sequence

from distil_ray.config import ResourcesConfig

Node = dict[str, float]  # what a node has, by Ray's names


def num_held(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """Processes of `resources.cpus_per_actor` and `resources.gpus_per_actor` that the nodes hold at most."""
    return sum(_held(node, resources) for node in nodes)


def num_places(nodes: Sequence[Node], resources: ResourcesConfig) -> int:
    """The same, with room for a decode task left on one of the nodes."""
    cpus = resources.decode_cpus
    given_up = [_held(node, resources) - _held(node, resources, cpus) for node in nodes if node.get("CPU", 0.0) >= cpus]
    return num_held(nodes, resources) - min(given_up) if given_up else 0


def _held(node: Node, resources: ResourcesConfig, beside: float = 0.0) -> int:
    """On one node, with so many CPUs for something else."""
    by_cpus = int((node.get("CPU", 0.0) - beside) // resources.cpus_per_actor)
    by_gpus = int(node.get("GPU", 0.0) // resources.gpus_per_actor) if resources.gpus_per_actor else by_cpus
    return max(0, min(by_cpus, by_gpus))
