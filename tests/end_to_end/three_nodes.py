"""A run on three nodes of which one dies, as a program: the head only watches, the others decode and recognize.

    python -m tests.end_to_end.three_nodes AUDIO OUTPUT

Each node has 80 MiB of object store, less than the longest part takes. When the first result is there the node of the
recognizer is killed, and the run has to end on the other. Prints what happened as JSON. Run by test_nodes.py, because a
process can be connected to one Ray only.
"""

import json
import sys
import time
from typing import Any

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from distil_ray.config.loader import load_config
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import ChunkingPlan, Run
from distil_ray.pipeline import ray_cluster, ray_graph
from distil_ray.pipeline.planner import Plan, make_plan
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE
from tests.support.fakes import EchoTranscribe

STORE_BYTES = 80 << 20


class NodeTranscribe(EchoTranscribe):
    """Tells in `device` the node that recognized; slow enough to be killed at work."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        time.sleep(0.5)
        self._recognizer.device = ray.get_runtime_context().get_node_id()
        return super().__call__(parts)


def plan_run(audio: str, output: str) -> tuple[Run, Plan]:
    """Many small tasks and one of a single long part; one attempt only, so that a lost node would be condemned."""
    settings = [f"input.uri={audio}", f"output.uri={output}", "decoding.language=en", "resources.actors=1"]
    settings += ["plan.task_audio_s=30", "plan.part_audio_s=3600", "resources.max_attempts=1"]
    config = load_config(None, settings)
    chunking = ChunkingPlan("quiet", 10 * SAMPLE_RATE, 0, 2 * SAMPLE_RATE, "")
    run = Run(config, "nodes", "f" * 16, "fake", None, ("en",), chunking)
    listing = list_recordings(config.input, run.storage)
    ledger = Ledger.read(output, run.storage)
    return run, make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)


def _lose_a_node(cluster: Cluster, run: Run, plan: Plan) -> dict[str, Any]:
    """Runs, and kills the recognizer's node as soon as some results are there."""
    told: dict[str, Any] = {"nodes": [], "warnings": [], "recovery_s": None}
    killed_at_s = 0.0
    for receipt in ray_graph.run_graph(run, plan, NodeTranscribe, told["warnings"].append):
        told["warnings"] += receipt["warnings"] or ()
        node = receipt["device"]
        if node and node not in told["nodes"]:
            told["nodes"].append(node)
            if killed_at_s:
                told["recovery_s"] = time.monotonic() - killed_at_s
        if not killed_at_s and node:
            killed_at_s = time.monotonic()
            _kill(cluster, node)
    return told


def _kill(cluster: Cluster, node_id: str) -> None:
    node = next(node for node in cluster.worker_nodes if node.node_id == node_id)
    cluster.remove_node(node, allow_graceful=False)


def main(audio: str, output: str) -> None:
    store: dict[str, Any] = {"object_store_memory": STORE_BYTES}
    health = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000}  # a death is noticed sooner
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": health, **store})
    for _ in range(2):
        cluster.add_node(num_cpus=2, **store)
    ray.init(address=cluster.address, log_to_driver=False)
    run, plan = plan_run(audio, output)
    with ray_cluster.connect_cluster(run.config.resources):
        told = _lose_a_node(cluster, run, plan)
    print(json.dumps(told), flush=True)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*sys.argv[1:])
