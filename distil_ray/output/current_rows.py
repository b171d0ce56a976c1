"""Rows of an output, read as a stream: of the files only the columns that are asked for, a few rows at once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.errors import RunError
from distil_ray.output.deduplicate import Rows
from distil_ray.output.ledger import Ledger, id_keys
from distil_ray.output.reader import open_transcripts
from distil_ray.storage.storage import Storage

BATCH_ROWS = 64  # rows in memory at once; one of them may be the transcript of ten hours

Row = dict[str, Any]


def read_rows(ledger: Ledger, rows: Rows, columns: list[str], storage: Storage) -> Iterator[Row]:
    """Some of a ledger's rows, in the order of the files. Raises `RunError` for a file that has changed since the
    ledger was read."""
    for uri, places, ids in _by_file(ledger, rows):
        yield from _rows(uri, places, ids, columns, storage)


def _by_file(ledger: Ledger, rows: Rows) -> Iterator[tuple[str, NDArray[np.int32], NDArray[np.bytes_]]]:
    """(URI, places in it in order, their ids) of the rows."""
    if not len(rows):
        return
    rows = rows[np.lexsort((ledger.row[rows], ledger.file[rows]))]
    files, starts = np.unique(ledger.file[rows], return_index=True)
    for number, mine in zip(files, np.split(rows, starts[1:]), strict=True):
        yield ledger.files[number], ledger.row[mine], ledger.ids[mine]


def _rows(
    uri: str, places: NDArray[np.int32], ids: NDArray[np.bytes_], columns: list[str], storage: Storage
) -> Iterator[Row]:
    """The rows at some places of a file, which has to hold these ids there."""
    start = found = 0
    try:
        with open_transcripts(uri, storage) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns):
                mine = slice(*np.searchsorted(places, (start, start + batch.num_rows)))
                rows = batch.take(pa.array(places[mine] - start)).to_pylist()
                if (id_keys([row["recording_id"] for row in rows]) != ids[mine]).any():
                    break
                yield from rows
                start += batch.num_rows
                found += len(rows)
    except FileNotFoundError:
        pass
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{uri}: cannot be read as Parquet ({' '.join(str(error).split())[:300]})") from error
    if found < len(places):
        raise RunError(f"{uri}: has changed since it was listed: a run writes to this output. Try again after it")
