"""Bytes that the tasks of one large shard read, plain and compressed.

The members of a plain tar are read by their byte ranges. A compressed one can only be read from its beginning, so each
task reads up to its own members.
"""

import gzip
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from rich.table import Table

from benchmarks.scale.corpus import write_input
from benchmarks.scale.counting import CountingProxy
from benchmarks.scale.runs import MODEL, run_configs
from distil_ray.config.loader import dump_config, load_config
from distil_ray.demo.endpoint import serve_bucket

NUM_RECORDINGS = 64
NUMS_OF_TASKS = (1, 4, 16)


@dataclass(frozen=True, slots=True)
class ShardReads:
    """Bytes read from a shard by its tasks, by its size; the index that the listing makes is not counted."""

    is_compressed: bool
    num_tasks: int
    times_read: float


def measure_shards() -> list[ShardReads]:
    """Returns the reads of a small shard, for several numbers of tasks."""
    return [_measure(compressed, tasks) for compressed in (False, True) for tasks in NUMS_OF_TASKS]


def _measure(is_compressed: bool, num_tasks: int) -> ShardReads:
    with TemporaryDirectory(prefix="distil-ray-shard-") as folder:
        root = Path(folder) / "bucket"
        write_input("tar", NUM_RECORDINGS, 1, 1.0, root / "input")
        (shard,) = (root / "input").iterdir()
        if is_compressed:
            (root / "input" / "shard.tar.gz").write_bytes(gzip.compress(shard.read_bytes(), 1))
            shard.unlink()
            (shard,) = (root / "input").iterdir()
        size = shard.stat().st_size
        bucket = f"shard-{uuid4().hex}"
        with serve_bucket(bucket, root) as endpoint:
            proxy = CountingProxy(endpoint.url, lambda request, key: "input" if key.endswith(shard.name) else "")
            with proxy.serving() as url:
                overrides = [
                    *(f"input.uri=s3://{bucket}/input", f"output.uri=s3://{bucket}/output", "run_id=run"),
                    *(f"storage.endpoint_url={url}", f"model.name={MODEL}", "decoding.language=en"),
                    *("report.write=false", f"plan.task_recordings={NUM_RECORDINGS // num_tasks}"),
                ]
                config = Path(folder) / "run.yaml"
                config.write_text(dump_config(load_config(None, overrides)), encoding="utf-8")
                traffic = run_configs([config], endpoint.environment, proxy)
    # The listing reads a compressed shard once as a whole, of a plain one the headers of its members.
    read = traffic["input"].bytes_read - (size if is_compressed else 0)
    return ShardReads(is_compressed, num_tasks, read / size)


def shards_table(reads: list[ShardReads]) -> Table:
    """Returns how often the bytes of a shard are read by the tasks of a run."""
    grid = Table(title="Bytes read of one shard, by its size")
    for heading in ("shard", *(f"{tasks} tasks" for tasks in NUMS_OF_TASKS)):
        grid.add_column(heading, justify="left" if heading == "shard" else "right")
    for compressed, name in ((False, "tar"), (True, "tar.gz")):
        grid.add_row(name, *(f"{one.times_read:.1f}" for one in reads if one.is_compressed is compressed))
    return grid
