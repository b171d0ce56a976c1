"""The measured process: runs of the job with the null recognizer and without Ray.

    python -m benchmarks.scale.run CONFIG.yaml …

The stages are called one after the other in this process. They send every request of the job to the store; neither Ray
nor the count of attempts sends any.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from rich.console import Console

from benchmarks.pipeline.null_model import NullTranscribeStage
from distil_ray.config.loader import load_config
from distil_ray.output.run_context import Run
from distil_ray.pipeline import ray_cluster, ray_graph, runner
from distil_ray.pipeline.capacity import Node
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.write_stage import write_parts
from distil_ray.readers import parquet

NODE: Node = {"CPU": 4.0}  # of the cluster that is not there


def replace_ray(set_attribute: Callable[[Any, str, Any], object]) -> None:
    """Replaces the Ray Data graph by the stages themselves, and the cluster by `NODE`.

    Args:
        set_attribute: Called with (module, name, replacement); `setattr`, or what restores the module later.
    """

    def run_stages(run: Run, plan: Plan, transcriber: type | None = None, *_: object) -> Iterator[dict[str, Any]]:
        transcribe = (transcriber or TranscribeStage)(run)
        for number, name in enumerate(plan.tasks["task_id"].to_pylist()):
            parquet._footers.clear()  # the task before may have run in another process
            (pointer,) = ray_graph._task_pointer(number, name, plan.secret_uris.get(number, {}))
            for part in decode_tasks(pointer, run):
                yield from write_parts(transcribe(part), run).to_pylist()

    set_attribute(ray_cluster, "connect_cluster", lambda _: nullcontext("no Ray"))
    set_attribute(ray_cluster, "alive_nodes", lambda: [{"NodeID": "here", "Resources": NODE}])
    set_attribute(ray_cluster, "_total_resources", lambda: NODE)
    set_attribute(ray_graph, "run_graph", run_stages)


def main() -> int:
    replace_ray(setattr)
    codes = [runner.transcribe(load_config(path, []), Console(), NullTranscribeStage) for path in sys.argv[1:]]
    return max(codes, default=0)


if __name__ == "__main__":
    sys.exit(main())
