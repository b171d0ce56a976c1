"""A run on two nodes, as a program: only the head has a (declared) GPU, and its one CPU is the actor's.

    python -m tests.end_to_end.two_nodes AUDIO OUTPUT

Prints as JSON on which nodes the actor and the decode tasks ran. Run by test_nodes.py, because a process can be
connected to one Ray only.
"""

import json
import sys
from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from distil_ray.config.loader import load_config
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import ChunkingPlan, Run
from distil_ray.pipeline import ray_cluster, ray_graph
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.planner import make_plan
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE
from tests.support.fakes import EchoTranscribe


class NodeTranscribe(EchoTranscribe):
    """Tells in `device` the node that recognized and, from the part's flags, the node that decoded."""

    def __call__(self, parts: pa.Table) -> pa.Table:
        (flag,) = parts["decoded"][0].as_py()[0]["quality_flags"] if parts["decoded"][0].as_py() else [""]
        self._recognizer.device = f"{ray.get_runtime_context().get_node_id()} {flag}"
        return super().__call__(parts)


def _decode_and_tell(tasks: pa.Table, run: Run, decode: object, **options: object) -> Iterator[pa.Table]:
    node = ray.get_runtime_context().get_node_id()
    for part in decode(tasks, run, **options):  # type: ignore[operator]
        row = part.to_pylist()[0]
        row["decoded"] = [entry | {"quality_flags": [node]} for entry in row["decoded"]]
        yield pa.Table.from_pylist([row], schema=part.schema)


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def main(audio: str, output: str) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 1})
    other = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False)
    settings = [f"input.uri={audio}", f"output.uri={output}", "decoding.language=en", "resources.gpus_per_actor=1"]
    config = load_config(None, [*settings, "plan.task_audio_s=30"])
    chunking = ChunkingPlan("quiet", 10 * SAMPLE_RATE, 0, 2 * SAMPLE_RATE, "")
    run = Run(config, "nodes", "f" * 16, "fake", None, ("en",), chunking)
    ledger = Ledger.read(output, run.storage)
    listing = list_recordings(config.input, run.storage)
    plan = make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)
    vars(ray_graph)["decode_tasks"] = partial(_decode_and_tell, decode=decode_tasks)
    with ray_cluster.connect_cluster(config.resources):
        answers = [sorted(ray_cluster.call_on_nodes(_node, min_cpus)) for min_cpus in (1, 2)]
        receipts = list(ray_graph.run_graph(run, plan, NodeTranscribe))
    nodes = [receipt["device"].split() for receipt in receipts]
    told = {"actor": sorted({actor for actor, _ in nodes}), "decode": sorted({decode for _, decode in nodes})}
    told |= {"other": [other.node_id]}
    told |= {"answers": [len(set(answers[0])), answers[1] == [other.node_id]]}
    told |= {"rows": [str(Ledger.read(output, run.storage).num_rows)]}
    print(json.dumps(told), flush=True)
    ray.shutdown()
    cluster.shutdown()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(*sys.argv[1:])
