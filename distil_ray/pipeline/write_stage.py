"""Hypotheses in, one file a task out: merged, scored, written whole, and a receipt for the driver.

Commit holds no state. A task of one part is assembled at once. Of a task of several parts each part's result is put
under the run's folder, and the call that finds all of them there assembles. The task's file is named after the
task's contents and put only if absent: a call may be repeated by anyone, in any order, and nothing doubles.
"""

import io
import logging
import time
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distil_ray.output.run_context import Run
from distil_ray.pipeline.planner import read_task
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.schema import COMMIT_RESULT, PART_RESULT, TRANSCRIPT, to_parquet_bytes
from distil_ray.storage.storage import MissingError, Storage, join
from distil_ray.types import SAMPLE_RATE

logger = logging.getLogger(__name__)

COUNT = "count"  # beside a task's parts once the last one is there: how many they are


def write_parts(results: pa.Table, run: Run) -> pa.Table:
    """`RESULT` rows to `COMMIT_RESULT` rows. What goes wrong with a task is a receipt that says so."""
    receipts = []
    for i in range(results.num_rows):
        result = results.slice(i, 1)
        started = time.monotonic()
        receipt = _receipt(result)
        if not receipt["already_committed"]:
            try:
                receipt |= _commit(result, run)
            except MissingError as error:
                # Two parts may arrive as the last one at once: the slower finds the parts swept by the faster.
                if run.storage.stat(run.task_uri(receipt["task_id"])) is None:
                    receipt["error"] = str(error)
                receipt["already_committed"] = receipt["error"] is None
            except Exception as error:
                logger.exception("task %s could not be committed", receipt["task_id"])
                receipt["error"] = f"{type(error).__name__}: {error}"
        receipt["commit_s"] = time.monotonic() - started
        receipts.append(receipt)
    return pa.Table.from_pylist(receipts, schema=COMMIT_RESULT)


def _receipt(result: pa.Table) -> dict[str, Any]:
    """What the part itself tells, before anything is written."""
    names = ["task_id", "part_index", "already_committed", "decode_s", "recognize_s"]
    names += ["device", "dtype", "actor_rss_mb", "warnings"]
    row: dict[str, Any] = result.select(names).to_pylist()[0]
    chunks = result["chunks"][0].as_py()
    # Overlapping chunks hear some samples twice: the strides on the left are not new audio.
    samples = sum(chunk["num_samples"] - chunk["stride_left"] for chunk in chunks)
    return row | {"committed": False, "error": None, "audio_s": samples / SAMPLE_RATE}


def _commit(result: pa.Table, run: Run) -> dict[str, Any]:
    task_id, row_group = result["task_id"][0].as_py(), result["row_group"][0].as_py()
    alone = result["part_index"][0].as_py() == 0 and result["is_last"][0].as_py()
    parts = [result] if alone else _put_and_gather(result, run.parts_uri(task_id), run.storage)
    if not parts:
        return {}  # others are still on their way: the last of them assembles
    recordings = read_task(run.plan_uri, row_group, run.storage)
    rows, counts = _assembler(run).build_rows(recordings, [row for part in parts for row in part.to_pylist()])
    created = run.storage.put_new(
        run.task_uri(task_id), to_parquet_bytes(pa.Table.from_pylist(rows, schema=TRANSCRIPT))
    )
    if not alone:
        run.storage.delete(run.parts_uri(task_id))
    return counts | {"committed": True} if created else {"already_committed": True}


def _put_and_gather(result: pa.Table, folder: str, storage: Storage) -> list[pa.Table]:
    """Puts a part's result beside its siblings; all of them in order if none is missing now, else nothing.

    No listing is asked for, because listings may lag behind: a part is put before the count is looked for, and the
    count before the parts are, so that whoever comes last finds everything.
    """
    index = result["part_index"][0].as_py()
    storage.put(_part_uri(folder, index), to_parquet_bytes(result))
    if result["is_last"][0].as_py():
        storage.put(join(folder, COUNT), str(index + 1).encode())
    try:
        count = int(storage.read(join(folder, COUNT)))
    except MissingError:
        return []
    uris = [_part_uri(folder, number) for number in range(count)]
    if any(storage.stat(uri) is None for uri in uris):
        return []
    return [pq.read_table(io.BytesIO(storage.read(uri)), schema=PART_RESULT) for uri in uris]


def _part_uri(folder: str, index: int) -> str:
    return join(folder, f"{index:06d}.parquet")


@lru_cache(maxsize=1)
def _assembler(run: Run) -> RowBuilder:
    """One a process and run: it holds the normalizers and, for overlapping chunks, the tokenizer."""
    return RowBuilder(run)
