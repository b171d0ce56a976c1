"""Rows as a ledger holds them, made up; and what an output holds, to be compared with another run's."""

import io
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distil_ray.output.ledger import FINAL, Keys, Ledger, list_data_files
from distil_ray.storage.storage import Storage

OF_A_RUN = {"run_id", "processed_at"}  # columns that tell of the run and not of the recording


def stored_rows(output: object) -> list[dict[str, Any]]:
    """The rows of an output, by recording, without what differs from run to run."""
    storage = Storage()
    rows: list[dict[str, Any]] = []
    for uri in list_data_files(f"{output}/transcripts", storage):
        rows += pq.read_table(io.BytesIO(storage.read(uri))).to_pylist()
    kept = [{name: value for name, value in row.items() if name not in OF_A_RUN} for row in rows]
    return sorted(kept, key=lambda row: str(row["recording_id"]))


def ledger_of(
    keys: Keys,
    ids: Keys | None = None,
    grades: NDArray[np.uint8] | None = None,
    times: NDArray[np.int64] | None = None,
) -> Ledger:
    """A ledger of rows in any order, in one file; settled and made at once, and each an id of its own, by default."""
    num_rows = len(keys)
    grades = np.full(num_rows, FINAL, np.uint8) if grades is None else grades
    times = np.zeros(num_rows, np.int64) if times is None else times
    order = np.lexsort((times, keys))
    return Ledger(
        keys=keys[order],
        ids=(keys if ids is None else ids)[order],
        grades=grades[order],
        times=times[order],
        file=np.zeros(num_rows, np.int32),
        row=np.arange(num_rows, dtype=np.int32)[order],
        files=("task-0.parquet",),
        fingerprints={},
    )
