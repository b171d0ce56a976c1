"""Write stage: hypotheses in, one file per task out, and a result per part for the driver.

The stage holds no state. A task of one part is written at once. The parts of a longer task are stored in the run's
folder, and the call that finds all others there builds the rows. The task's file is named after the task's contents
and stored only if it is absent. A call may therefore be repeated, anywhere and in any order, without doubling a row.
"""

import io
import logging
import time
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.output.run_context import Run
from distil_ray.pipeline.committed_files import make_entry
from distil_ray.pipeline.planner import parse_recordings
from distil_ray.pipeline.transcript_rows import RowBuilder
from distil_ray.schema import COMMIT_RESULT, TRANSCRIPT, from_stream_bytes, open_parquet, to_parquet_bytes
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import MissingError
from distil_ray.storage.uris import join, normalize
from distil_ray.types import SAMPLE_RATE

logger = logging.getLogger(__name__)

COUNT_FILE = "count"  # in the folder of a task's parts, if the last part had to be stored: the number of parts


def write_parts(results: pa.Table, run: Run) -> pa.Table:
    """Turns rows of PART_RESULT into rows of COMMIT_RESULT. A failure of a task is in its row (``error``)."""
    written = []
    for i in range(results.num_rows):
        result = results.slice(i, 1)
        started = time.monotonic()
        row = describe_part(result)
        if not row["already_committed"] and row["error"] is None:
            try:
                row |= _write_task(result, run)
            except MissingError as error:
                # Two calls may both find themselves the last: the slower one finds the parts deleted by the faster one.
                if run.storage.stat(run.task_uri(row["task_id"])) is None:
                    row["error"] = str(error)
                row["already_committed"] = row["error"] is None
            except Exception as error:
                logger.exception("task %s could not be committed", row["task_id"])
                row["error"] = f"{type(error).__name__}: {error}"
        row["commit_s"] = time.monotonic() - started
        written.append(row)
    return pa.Table.from_pylist(written, schema=COMMIT_RESULT)


def describe_part(result: pa.Table) -> dict[str, Any]:
    """Returns the columns of COMMIT_RESULT that are known before anything is written."""
    names = ["task_id", "part_index", "already_committed", "error", "decode_s", "recognize_s"]
    names += ["device", "dtype", "actor_rss_mb", "warnings"]
    known: dict[str, Any] = result.select(names).to_pylist()[0]
    # Computed in Arrow: a part may have thousands of chunks, whose texts and tokens are not needed here.
    chunks, hypotheses = (result[name].combine_chunks().flatten() for name in ("chunks", "hypotheses"))
    # Overlapping chunks share samples with the chunk before: the left strides are not new audio.
    samples = pc.subtract(chunks.field("num_samples"), chunks.field("stride_left"))
    is_drafted = pc.greater(hypotheses.field("drafts_proposed").fill_null(0), 0)
    return known | {
        **{"committed": False, "audio_s": _sum(samples) / SAMPLE_RATE},
        "drafted_audio_s": _sum(samples.filter(is_drafted)) / SAMPLE_RATE,
        **{name: _sum(hypotheses.field(name)) for name in ("drafts_proposed", "drafts_accepted")},
    }


def _sum(numbers: pa.Array) -> int:
    return int(pc.sum(numbers, min_count=0).as_py())


def _write_task(result: pa.Table, run: Run) -> dict[str, Any]:
    """Writes the task's file if all of its parts are there. Returns further columns of COMMIT_RESULT."""
    task_id, folder = result["task_id"][0].as_py(), run.parts_uri(result["task_id"][0].as_py())
    is_only_part = result["part_index"][0].as_py() == 0 and result["is_last"][0].as_py()
    parts = [result] if is_only_part else _gather_parts(result, folder, run.storage)
    if not parts:
        return {}  # other parts are missing: the call for the last of them builds the rows
    recordings = parse_recordings(from_stream_bytes(parts[-1]["recordings"][0].as_py()))
    rows, counts = _row_builder(run).build_rows(recordings, [row for part in parts for row in part.to_pylist()])
    table = pa.Table.from_pylist(rows, schema=TRANSCRIPT)
    created = run.storage.create_if_absent(run.task_uri(task_id), to_parquet_bytes(table))
    if not is_only_part:
        run.storage.delete_files([join(folder, COUNT_FILE), *(_part_uri(folder, i) for i in range(len(parts)))])
    if created is None:
        return {"already_committed": True}
    return counts | {"committed": True, "index_entry": make_entry(table, created, normalize(run.config.output.uri))}


def _gather_parts(result: pa.Table, folder: str, storage: Storage) -> list[pa.Table]:
    """Returns all parts of the task in order, or nothing while one is missing: this part is then stored.

    Listings are not used, because they may lag behind. The last part knows the number of parts. Its call looks for the
    others; if one is missing, it stores its part, then the number, and looks again. The call for another part stores it
    and then looks for the number. So if a call misses what another one stores, the other one looks later and finds all.
    """
    index = result["part_index"][0].as_py()
    if not result["is_last"][0].as_py():
        storage.put(_part_uri(folder, index), to_parquet_bytes(result))
        try:
            count = int(storage.read(join(folder, COUNT_FILE)))
        except MissingError:
            return []
        return _read_parts(result, range(count), folder, storage)
    if parts := _read_parts(result, range(index + 1), folder, storage):
        return parts
    storage.put(_part_uri(folder, index), to_parquet_bytes(result))
    storage.put(join(folder, COUNT_FILE), str(index + 1).encode())
    return _read_parts(result, range(index + 1), folder, storage)


def _read_parts(result: pa.Table, numbers: range, folder: str, storage: Storage) -> list[pa.Table]:
    """Returns the parts with these numbers, one of which is `result`; nothing if another one is missing."""
    own = result["part_index"][0].as_py()
    parts = []
    for number in reversed(numbers):  # the last parts are the ones that may be missing
        try:
            uri = _part_uri(folder, number)
            part = result if number == own else open_parquet(io.BytesIO(storage.read(uri))).read()
        except MissingError:
            return []
        parts.append(part)
    return parts[::-1]


def _part_uri(folder: str, index: int) -> str:
    return join(folder, f"{index:06d}.parquet")


@lru_cache(maxsize=1)
def _row_builder(run: Run) -> RowBuilder:
    """Returns the process' builder of a run: it holds the normalizers and the tokenizer."""
    return RowBuilder(run)
