"""The ledger of an output with many blocks, in a simulated store with latency.

    python -m benchmarks.scale.ledger OUTPUT

`measure_ledger` starts this module as a process of its own, which reads the ledger and prints its cost as JSON. All
blocks have the same rows, which makes no difference to the cost.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.comparison.interleave import ROOT
from benchmarks.planning.command import make_rows
from benchmarks.planning.run import PeakMemorySampler, timed
from benchmarks.scale.memory_store import BUCKET, MemoryStore
from benchmarks.settings import ScaleSettings
from distil_ray.errors import RunError
from distil_ray.output.ledger import TRANSCRIPTS, Ledger
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.storage import Storage

ACCOUNT = {"AWS_ACCESS_KEY_ID": "scale", "AWS_SECRET_ACCESS_KEY": "scale", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class LedgerCost:
    """Cost of reading a ledger.

    Attributes:
        blocks: Files of transcripts.
        rows: Rows in all of them.
        requests: Requests to the store.
        read_mib: MiB of the blocks together.
        wall_s: Seconds.
        cpu_s: CPU seconds of the reading process.
        peak_mib: Peak memory of that process.
        bytes_per_row: Growth of its memory, by the number of rows.
    """

    blocks: int
    rows: int
    requests: int
    read_mib: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    bytes_per_row: float


def measure_ledger(blocks: int, settings: ScaleSettings) -> LedgerCost:
    """Returns the cost of the ledger of an output with that many blocks. Raises `RunError` if its reading fails."""
    store = MemoryStore(settings.latency_s)
    block = to_parquet_bytes(make_rows(range(settings.block_rows)))
    for number in range(blocks):
        store.objects[f"output/{TRANSCRIPTS}/task-{number:024x}.parquet"] = block
    with store.serving() as url:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale.ledger", f"s3://{BUCKET}/output"],
            cwd=ROOT,
            env={**environment, **ACCOUNT, "AWS_ENDPOINT_URL": url, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if process.returncode:
        raise RunError(f"the ledger of {blocks:,} blocks could not be read: {process.stderr.strip()[-500:]}")
    found = json.loads(process.stdout)
    return LedgerCost(
        blocks=blocks,
        rows=found["rows"],
        requests=store.requests.total(),
        read_mib=blocks * len(block) / 2**20,
        wall_s=found["wall_s"],
        cpu_s=found["cpu_s"],
        peak_mib=found["peak_mib"],
        bytes_per_row=(found["peak_mib"] - found["before_mib"]) * 2**20 / max(found["rows"], 1),
    )


def main() -> None:
    storage = Storage()
    storage.check_scheme(sys.argv[1])
    with PeakMemorySampler() as memory:
        ledger, took = timed(lambda: Ledger.read(sys.argv[1], storage), memory)
    print(json.dumps({"rows": ledger.num_rows, **took}))


if __name__ == "__main__":
    main()
