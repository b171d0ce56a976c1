"""The start of a run over an output that holds nearly everything: listing, ledger and plan, in a store with latency.

    python -m benchmarks.scale.start INPUT OUTPUT

`measure_starts` starts this module as a process of its own, which reads the ledger and its index, lists the input and
writes the plan, and prints the cost of both steps as JSON. The recordings are loose files in folders of a thousand.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from rich.table import Table

from benchmarks.planning.command import make_rows
from benchmarks.planning.run import FINGERPRINT, PeakMemorySampler, make_recording, timed
from benchmarks.scale.ledger import OUTPUT, write_index
from benchmarks.scale.memory_store import BUCKET, MemoryStore
from benchmarks.scale.runs import run_in_store
from benchmarks.settings import ScaleSettings
from distil_ray.config import InputConfig, PlanConfig
from distil_ray.errors import RunError
from distil_ray.output.ledger import FINAL, TRANSCRIPTS, Ledger, id_keys, recording_keys
from distil_ray.output.ledger_index import BlockRows
from distil_ray.pipeline.planner import make_plan
from distil_ray.readers.index_cache import IndexCache
from distil_ray.readers.listing import list_recordings
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.storage import Storage

INPUT = f"s3://{BUCKET}/input"
AUDIO = bytes(500_000)  # of every recording
AUDIO_VERSION = hashlib.md5(AUDIO).hexdigest()


@dataclass(frozen=True, slots=True)
class StartCost:
    """Cost of a start. Times are of one process; `cpu_s` is the sum of its threads.

    Attributes:
        done: Recordings that the output holds.
        new: Recordings that it does not hold.
        blocks: Files of transcripts.
        requests: Requests to the store.
        ledger_s: Seconds for the ledger.
        ledger_cpu_s: CPU seconds of it.
        plan_s: Seconds for listing and plan.
        plan_cpu_s: CPU seconds of it.
        peak_mib: Peak memory of the process.
    """

    done: int
    new: int
    blocks: int
    requests: int
    ledger_s: float
    ledger_cpu_s: float
    plan_s: float
    plan_cpu_s: float
    peak_mib: float


def measure_starts(settings: ScaleSettings) -> list[StartCost]:
    """Measures a start for each of `settings.start_recordings`. Raises `RunError` if a process fails."""
    return [_measure_start(number, settings) for number in settings.start_recordings]


def _measure_start(num_done: int, settings: ScaleSettings) -> StartCost:
    num_blocks = num_done // settings.block_rows
    num_done = num_blocks * settings.block_rows
    store = MemoryStore(latency_s=0.0)
    for number in range(num_done + settings.start_new):
        store.objects[f"input/{make_recording(number).recording_id}"] = AUDIO
    block = to_parquet_bytes(make_rows(range(settings.block_rows)))
    names = [_block_name(number) for number in range(num_blocks)]
    store.objects.update(dict.fromkeys(names, block))
    with store.serving() as url:
        write_index(names, block, _index_rows(num_blocks, settings.block_rows), url)
        store.requests.clear()
        store.latency_s = settings.latency_s
        process = run_in_store("start", [INPUT, OUTPUT], url)
    found = json.loads(process.stdout)
    if (found["done"], found["to_do"]) != (num_done, settings.start_new):
        raise RunError(f"{found['done']:,} of {num_done:,} recordings were found done, and {found['to_do']:,} new")
    ledger, plan = found["ledger"], found["plan"]
    return StartCost(
        done=num_done,
        new=settings.start_new,
        blocks=num_blocks,
        requests=store.requests.total(),
        ledger_s=ledger["wall_s"],
        ledger_cpu_s=ledger["cpu_s"],
        plan_s=plan["wall_s"],
        plan_cpu_s=plan["cpu_s"],
        peak_mib=max(ledger["peak_mib"], plan["peak_mib"]),
    )


def _block_name(number: int) -> str:
    return f"output/{TRANSCRIPTS}/task-{hashlib.md5(str(number).encode()).hexdigest()[:24]}.parquet"


def _index_rows(num_blocks: int, block_rows: int) -> Iterator[BlockRows]:
    """Yields what the index of the ledger holds of each block."""
    for block in range(num_blocks):
        ids = [make_recording(number).recording_id for number in range(block * block_rows, (block + 1) * block_rows)]
        keys = recording_keys(
            ids, repeat(len(AUDIO), block_rows), repeat(AUDIO_VERSION, block_rows), repeat(FINGERPRINT)
        )
        columns = {
            "keys": keys.tobytes(),
            "ids": id_keys(ids).tobytes(),
            "grades": bytes([FINAL]) * block_rows,
            "times": bytes(8 * block_rows),
        }
        yield BlockRows(np.array([block]), np.array([block_rows]), columns, {FINGERPRINT: block_rows})


def start_table(starts: Sequence[StartCost], settings: ScaleSettings) -> Table:
    """Returns the cost of the starts, one row per size."""
    grid = Table(title=f"Start of a run, {settings.latency_s * 1000:g} ms a request")
    for heading in (
        "done",
        "new",
        "blocks",
        "requests",
        "ledger s",
        "CPU s",
        "listing and plan s",
        "CPU s",
        "s in all",
    ):
        grid.add_column(heading, justify="right")
    grid.add_column("peak MiB", justify="right")
    for each in starts:
        counts = (f"{count:,}" for count in (each.done, each.new, each.blocks, each.requests))
        times = (each.ledger_s, each.ledger_cpu_s, each.plan_s, each.plan_cpu_s, each.ledger_s + each.plan_s)
        grid.add_row(*counts, *(f"{seconds:.1f}" for seconds in times), f"{each.peak_mib:,.0f}")
    return grid


def main() -> None:
    input_uri, output_uri = sys.argv[1:]
    storage = Storage()
    storage.check_scheme(input_uri)
    with PeakMemorySampler() as memory:
        ledger, reading = timed(lambda: Ledger.read(output_uri, storage), memory)
        config = InputConfig(uri=(input_uri,))
        listing = list_recordings(config, storage, IndexCache(output_uri, storage, writable=True))
        folder = f"{output_uri}/runs/start/plan"
        plan, planning = timed(lambda: make_plan(listing, ledger, FINGERPRINT, PlanConfig(), folder, storage), memory)
    print(json.dumps({"done": plan.num_done, "to_do": plan.num_recordings, "ledger": reading, "plan": planning}))


if __name__ == "__main__":
    main()
