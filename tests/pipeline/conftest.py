"""A planned run over real files that were written for the test."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from distil_ray.config.loader import load_config
from distil_ray.output.ledger import Ledger
from distil_ray.output.run_context import ChunkingPlan, Run
from distil_ray.pipeline.planner import Plan, make_plan
from distil_ray.readers.listing import list_recordings
from distil_ray.types import SAMPLE_RATE

CHUNKING = ChunkingPlan("quiet", length=10 * SAMPLE_RATE, stride=0, search=2 * SAMPLE_RATE, reason="for the test")
Planned = tuple[Run, Plan]


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., Planned]:
    """planned({name: samples}, override, …) -> (run, plan) over WAV files of seeded noise."""

    def make(files: dict[str, int], *overrides: str) -> Planned:
        folder = tmp_path / "audio"
        folder.mkdir()
        for number, (name, samples) in enumerate(files.items()):
            noise = np.random.default_rng(number).integers(-3000, 3000, samples).astype(np.int16)
            soundfile.write(folder / name, noise, SAMPLE_RATE, subtype="PCM_16")
        return plan_run(folder, tmp_path / "out", *overrides)

    return make


def plan_run(uri: Path, output: Path, *overrides: str) -> Planned:
    """A run over whatever lies at `uri`, and its plan."""
    config = load_config(None, [f"input.uri={uri}", f"output.uri={output}", *overrides])
    run = Run(config, "test", "f" * 16, "fake", None, ("en", "de", "fr"), CHUNKING)
    ledger = Ledger.read(config.output.uri, run.storage)
    listing = list_recordings(config.input, run.storage)
    return run, make_plan(listing, ledger, run.fingerprint, config.plan, run.plan_uri, run.storage)


def pointers(plan: Plan) -> pa.Table:
    """The tasks of a plan as the rows that decode is given."""
    return pa.table({"task_id": plan.tasks["task_id"], "row_group": pa.array(range(plan.num_tasks), pa.int32())})
