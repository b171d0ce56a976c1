"""Ledgers made of keys, without an output."""

import numpy as np
from numpy.typing import NDArray

from distil_ray.output.ledger import FINAL, Keys, Ledger


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
