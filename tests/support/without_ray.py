"""The stages of a run one after the other in this process, without Ray: a tenth of the time."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from distil_ray.output.run_context import Run
from distil_ray.pipeline import ray_cluster, ray_graph
from distil_ray.pipeline.capacity import Node
from distil_ray.pipeline.decode_stage import decode_tasks
from distil_ray.pipeline.planner import Plan
from distil_ray.pipeline.transcribe_stage import TranscribeStage
from distil_ray.pipeline.write_stage import write_parts

NODE: Node = {"CPU": 4.0}  # of the cluster that is not there


def run_stages_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the Ray Data graph by the stages themselves, and the cluster by `NODE`."""
    monkeypatch.setattr(ray_cluster, "connect_cluster", lambda _: nullcontext("no Ray"))
    monkeypatch.setattr(ray_cluster, "alive_nodes", lambda: [{"NodeID": "here", "Resources": NODE}])
    monkeypatch.setattr(ray_cluster, "_total_resources", lambda: NODE)
    monkeypatch.setattr(ray_graph, "run_graph", _run_stages)


def _run_stages(run: Run, plan: Plan, transcriber: type | None = None, *_: object) -> Iterator[dict[str, Any]]:
    """Yields the result of each commit."""
    transcribe = (transcriber or TranscribeStage)(run)
    for number, name in enumerate(plan.tasks["task_id"].to_pylist()):
        (pointer,) = ray_graph._task_pointer(number, name, plan.secret_uris.get(number, {}))
        for part in decode_tasks(pointer, run):
            yield from write_parts(transcribe(part), run).to_pylist()
