"""The ledger of an output with many blocks, in a simulated store with latency.

    python -m benchmarks.scale.ledger OUTPUT

`measure_ledger` starts this module as a process of its own, which reads the ledger and prints its cost as JSON. All
blocks have the same rows, which makes no difference to the cost.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.planning.command import make_rows
from benchmarks.planning.run import FINGERPRINT, PeakMemorySampler, timed
from benchmarks.scale.memory_store import BUCKET, MemoryStore
from benchmarks.scale.runs import run_in_store
from benchmarks.settings import ScaleSettings
from distil_ray.config import StorageConfig
from distil_ray.output.ledger import TRANSCRIPTS, Ledger
from distil_ray.output.ledger_index import ROW_BYTES, BlockRows, IndexUpdate
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.entries import Entry
from distil_ray.storage.storage import Storage

OUTPUT = f"s3://{BUCKET}/output"


@dataclass(frozen=True, slots=True)
class LedgerCost:
    """Cost of reading a ledger.

    Attributes:
        blocks: Files of transcripts.
        indexed: The output has an index of the ledger.
        rows: Rows in all of them.
        requests: Requests to the store.
        read_mib: MiB that the store has sent.
        wall_s: Seconds.
        cpu_s: CPU seconds of the reading process.
        peak_mib: Peak memory of that process.
        bytes_per_row: Growth of its memory, by the number of rows.
    """

    blocks: int
    indexed: bool
    rows: int
    requests: int
    read_mib: float
    wall_s: float
    cpu_s: float
    peak_mib: float
    bytes_per_row: float


def measure_ledger(blocks: int, indexed: bool, settings: ScaleSettings) -> LedgerCost:
    """Returns the cost of the ledger of an output with that many blocks, with or without an index of it.

    Raises:
        RunError: The ledger cannot be read.
    """
    store = MemoryStore(settings.latency_s)
    block = to_parquet_bytes(make_rows(range(settings.block_rows)))
    names = [f"output/{TRANSCRIPTS}/task-{number:024x}.parquet" for number in range(blocks)]
    store.objects.update(dict.fromkeys(names, block))
    with store.serving() as url:
        if indexed:
            write_index(names, block, _random_rows(blocks, settings.block_rows), url)
        store.requests.clear()
        store.bytes_read = 0
        process = run_in_store("ledger", [OUTPUT], url)
    found = json.loads(process.stdout)
    return LedgerCost(
        blocks=blocks,
        indexed=indexed,
        rows=found["rows"],
        requests=store.requests.total(),
        read_mib=store.bytes_read / 2**20,
        wall_s=found["wall_s"],
        cpu_s=found["cpu_s"],
        peak_mib=found["peak_mib"],
        bytes_per_row=(found["peak_mib"] - found["before_mib"]) * 2**20 / max(found["rows"], 1),
    )


def write_index(names: Sequence[str], block: bytes, rows: Iterable[BlockRows], url: str) -> None:
    """Writes an index as a run would that had read all blocks.

    Args:
        names: Keys of the blocks.
        block: Their content.
        rows: What the index holds of each of them.
        url: Of the store.
    """
    etag = hashlib.md5(block).hexdigest()
    entries = [Entry(f"s3://{BUCKET}/{name}", len(block), etag) for name in names]
    IndexUpdate(entries, list(rows)).write(OUTPUT, Storage(StorageConfig(endpoint_url=url, anonymous=True)))


def _random_rows(num_blocks: int, block_rows: int) -> Iterator[BlockRows]:
    rng = np.random.default_rng(0)
    for number in range(num_blocks):
        columns = {name: rng.bytes(size * block_rows) for name, size in ROW_BYTES.items()}
        yield BlockRows(np.array([number]), np.array([block_rows]), columns, {FINGERPRINT: block_rows})


def main() -> None:
    storage = Storage()
    storage.check_scheme(sys.argv[1])
    with PeakMemorySampler() as memory:
        ledger, took = timed(lambda: Ledger.read(sys.argv[1], storage), memory)
    print(json.dumps({"rows": ledger.num_rows, **took}))


if __name__ == "__main__":
    main()
