"""Requests of a plain Ray Data script that reads audio, maps batches and writes Parquet.

    python -m benchmarks.scale.plain_ray LAYOUT HOST:PORT INPUT OUTPUT

`measure_plain_ray` starts this module as a process of its own, before an S3 server whose requests are counted. The
script is what the documentation of Ray Data shows, with its defaults: no ledger, no counts of attempts, no references.
Instead of a recognizer it writes a fixed text.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from rich.table import Table

from benchmarks.scale.corpus import SHARDED, write_input
from benchmarks.scale.counting import CountingProxy, Kind
from benchmarks.scale.proxy import Request
from benchmarks.scale.runs import run_module
from distil_ray.demo.endpoint import serve_bucket

SIZES = (60, 180)  # recordings of the two inputs, whose difference is the share of a recording
SHARDS = 3
BATCH_ROWS = 16


@dataclass(frozen=True, slots=True)
class PlainRayCost:
    """Requests of the script: of the larger input, and per recording by the difference of both.

    Attributes:
        layout: One of `corpus.LAYOUTS`; a manifest is read as loose files.
        requests: By purpose (``input`` or ``output``) and kind.
        per_recording: Requests for each further recording of the same number of shards.
        files: Files that were written.
    """

    layout: str
    requests: dict[str, dict[str, int]]
    per_recording: float
    files: int


def measure_plain_ray(layouts: Sequence[str]) -> list[PlainRayCost]:
    """Runs the script over two inputs of each layout. Raises `RunError` if it fails."""
    return [_measure(layout) for layout in layouts if layout != "manifest"]


def _measure(layout: str) -> PlainRayCost:
    with tempfile.TemporaryDirectory(prefix="distil-ray-scale-") as folder:
        bucket, root = f"scale-{uuid4().hex}", Path(folder)
        for size in SIZES:
            shards = SHARDS if layout in SHARDED else 1
            write_input(layout, size, shards, 1.0, root / "bucket" / str(size) / "input")
        with serve_bucket(bucket, root / "bucket") as endpoint:
            proxy = CountingProxy(endpoint.url, _purpose)
            with proxy.serving() as url:
                counted = []
                for size in SIZES:
                    arguments = [layout, urlsplit(url).netloc, f"{bucket}/{size}/input", f"{bucket}/{size}/output"]
                    run_module("plain_ray", arguments, endpoint.environment)
                    counted.append({name: each.requests for name, each in proxy.traffic.items()})
                    proxy.traffic.clear()
        files = len(list((root / "bucket" / str(SIZES[-1]) / "output").rglob("*.parquet")))
    totals = [sum((each.total() for each in of_size.values()), 0) for of_size in counted]
    requests = {name: {kind.value: count for kind, count in each.items()} for name, each in counted[-1].items()}
    return PlainRayCost(layout, requests, (totals[1] - totals[0]) / (SIZES[1] - SIZES[0]), files)


def _purpose(request: Request, key: str) -> str:
    return "output" if "/output" in key else "input"


def plain_ray_table(costs: Sequence[PlainRayCost]) -> Table:
    """Returns the requests of the larger inputs, one row per layout and purpose."""
    grid = Table(title=f"A plain Ray Data script, {SIZES[-1]} recordings, {SHARDS} shards")
    for heading in ("layout", "of", *(kind.value for kind in Kind), "per further recording", "files written"):
        grid.add_column(heading)
    for cost in costs:
        for purpose in sorted(cost.requests):
            counts = Counter(cost.requests[purpose])
            grid.add_row(
                *(cost.layout, purpose, *(str(counts[kind.value] or "") for kind in Kind)),
                *(f"{cost.per_recording:.2f}", str(cost.files)),
            )
    return grid


def transcribe_nothing(batch: dict[str, Any]) -> dict[str, Any]:
    """Returns a fixed text for each row of a batch."""
    rows = len(next(iter(batch.values())))
    return {"text": ["a transcript"] * rows}


def main() -> None:
    import pyarrow.fs
    import ray
    import ray.data

    layout, address, source, target = sys.argv[1:]
    fs = pyarrow.fs.S3FileSystem(endpoint_override=address, scheme="http")
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        ray.init(num_cpus=2, include_dashboard=False, _temp_dir=folder, log_to_driver=False)
        readers: dict[str, Any] = {
            "files": ray.data.read_binary_files,
            "tar": ray.data.read_webdataset,
            "parquet": ray.data.read_parquet,
        }
        dataset = readers[layout](source, filesystem=fs)
        dataset.map_batches(transcribe_nothing, batch_size=BATCH_ROWS).write_parquet(target, filesystem=fs)
        ray.shutdown()


if __name__ == "__main__":
    main()
