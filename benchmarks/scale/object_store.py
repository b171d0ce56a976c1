"""Bytes that a run puts into Ray's object store, beside those that come over the network.

    python -m benchmarks.scale.object_store SECONDS

`measure_object_store` starts this module as a process of its own: a run on a local Ray with the null recognizer over
WAV files of noise. Ray counts the bytes of all objects that were created.
"""

import io
import json
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline.null_model import NullTranscribeStage
from benchmarks.scale.runs import MODEL, run_module
from distil_ray.config.loader import load_config
from distil_ray.errors import RunError
from distil_ray.pipeline import ray_graph, runner
from distil_ray.types import SAMPLE_RATE

FILE_S = 300  # duration of a file


@dataclass(frozen=True, slots=True)
class StoreTraffic:
    """Bytes of a run.

    Attributes:
        audio_s: Seconds of audio.
        input_bytes: Bytes of its files: WAV, 16 kHz, 16 bits.
        created_bytes: Bytes of all objects that were created.
        objects: Number of these objects.
    """

    audio_s: float
    input_bytes: int
    created_bytes: int
    objects: int


def measure_object_store(audio_s: float) -> StoreTraffic:
    """Runs the job over that many seconds of audio. Raises `RunError` if it fails."""
    process = run_module("object_store", [str(audio_s)])
    return StoreTraffic(**json.loads(process.stdout.splitlines()[-1]))


def object_store_table(traffic: StoreTraffic) -> Table:
    """Returns the bytes for an hour of audio."""
    grid = Table(title=f"Ray's object store, a run over {traffic.audio_s:,.0f} s of audio")
    for heading in ("of", "MB for an hour of audio"):
        grid.add_column(heading, justify="right")
    for name, size in (
        ("the input (WAV, 16 kHz, 16 bits)", traffic.input_bytes),
        (f"objects in the store ({traffic.objects})", traffic.created_bytes),
    ):
        grid.add_row(name, f"{size / traffic.audio_s * 3600 / 1e6:.1f}")
    return grid


def main() -> None:
    import ray

    ray_api: Any = import_module("ray._private.internal_api")
    audio_s = float(sys.argv[1])
    found: dict[str, int] = {}
    run_graph = ray_graph.run_graph

    def counted(*arguments: Any, **options: Any) -> Generator[dict[str, Any], None, None]:
        yield from run_graph(*arguments, **options)
        state = ray_api.get_state_from_address(ray.get_runtime_context().gcs_address)
        stats = ray_api.get_memory_info_reply(state).store_stats
        found["created_bytes"] = int(stats.cumulative_created_bytes)
        found["objects"] = int(stats.cumulative_created_objects)

    vars(ray_graph)["run_graph"] = counted
    with tempfile.TemporaryDirectory(prefix="distil-ray-scale-") as folder:
        source = Path(folder, "input")
        source.mkdir()
        noise = np.random.default_rng(0).integers(-3000, 3000, FILE_S * SAMPLE_RATE).astype(np.int16)
        files = [source / f"{number}.wav" for number in range(round(audio_s / FILE_S))]
        for path in files:
            soundfile.write(path, noise, SAMPLE_RATE)
        overrides = [f"input.uri={source}", f"output.uri={folder}/output", f"model.name={MODEL}"]
        config = load_config(None, [*overrides, "decoding.language=en", "report.write=false"])
        console = Console(file=io.StringIO(), width=200)
        code = runner.transcribe(config, console, NullTranscribeStage)
        if code or not found:
            raise RunError(console.file.getvalue()[-2000:])  # type: ignore[attr-defined]
        size = sum(path.stat().st_size for path in files)
        print(json.dumps({"audio_s": len(files) * FILE_S, "input_bytes": size, **found}))


if __name__ == "__main__":
    main()
