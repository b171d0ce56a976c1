"""Rows of a ledger: stale, duplicate and current ones; reading rows, and dropping rows from the files.

A new row never overwrites an old one: it is written to another file, and the old row is dropped once no row is missing.
Until then a recording has several rows: if its audio or the settings have changed, if a failed recording was retried,
or if the last task of a crashed run was still being written while the next run planned it again. A run that crashes in
between leaves both rows, and the next run drops one. Of rows with the same key, a final one is preferred to a retryable
one, that to a failed one (`ledger.FINAL`, …), and among equals the newest.
"""

import io
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distil_ray.errors import RunError
from distil_ray.output.ledger import Keys, Ledger, id_keys
from distil_ray.output.reader import open_transcripts
from distil_ray.schema import open_parquet, to_parquet_bytes
from distil_ray.storage.storage import Storage

Rows = NDArray[np.int64]  # indices into the arrays of a ledger, shape (num_selected,)


def stale_rows(ledger: Ledger, listed_ids: Keys, listed_keys: Keys) -> Rows:
    """Returns the rows of listed recordings whose key is not listed: their audio or the settings have changed."""
    other = ~np.isin(ledger.keys, listed_keys)
    return np.flatnonzero(other & np.isin(ledger.ids, listed_ids))


def unlisted_rows(ledger: Ledger, listed_ids: Keys) -> Rows:
    """Returns the rows of recordings that are not listed, in any version: their sources were deleted."""
    return np.flatnonzero(~np.isin(ledger.ids, listed_ids))


def rows_outside(ledger: Ledger, rows: Rows, files: Collection[str], storage: Storage) -> Rows:
    """Returns the rows whose recordings are in none of these files, by their URIs without credentials.

    Raises:
        RunError: If a file of transcripts cannot be read, or has changed since the ledger was read.
    """
    if not files or not len(rows):
        return rows
    rows = rows[np.lexsort((ledger.row[rows], ledger.file[rows]))]  # the order in which they are read
    uris = [row["uri"] for row in read_rows(ledger, rows, ["recording_id", "uri"], storage)]
    return np.sort(rows[[uri not in files for uri in uris]])


def duplicate_rows(ledger: Ledger) -> Rows:
    """Returns, of the rows that share a key, all but the preferred one."""
    rows = ledger.duplicates()
    rows = rows[np.lexsort((ledger.times[rows], ledger.grades[rows], ledger.keys[rows]))]
    keys = ledger.keys[rows]
    return np.sort(rows[:-1][keys[1:] == keys[:-1]])


def current_rows(ledger: Ledger) -> Rows:
    """Returns one row per recording id: the preferred row of its newest version.

    For readers without a listing: the version (of audio and settings) of the newest row counts as the newest.
    """
    newest = ledger.newest(ledger.keys)
    order = np.lexsort((ledger.times, ledger.grades, ledger.keys, newest, ledger.ids))
    ids = ledger.ids[order]
    return np.sort(order[np.append(ids[1:] != ids[:-1], True)]) if len(ids) else order


def drop_rows(ledger: Ledger, rows: Rows, storage: Storage, check: Callable[[], object] = lambda: None) -> None:
    """Removes rows from the files of the output.

    A file is replaced as a whole, if it has not changed since it was read, or deleted if no row is left: readers see
    the rows before or after. A run that crashes in between leaves the remaining files to the next run.

    Args:
        ledger: The ledger of the output.
        rows: Rows to remove.
        storage: Storage of the output.
        check: Called before each change; raises an error if this process may no longer write (`Lease.check`).

    Raises:
        RunError: If a file has changed since the ledger was read.
    """
    for number in np.unique(ledger.file[rows]):
        uri = ledger.files[number]
        selected = rows[ledger.file[rows] == number]
        before = storage.read(uri)
        table = open_parquet(io.BytesIO(before)).read()
        numbers = ledger.row[selected]
        check()
        if numbers.max() >= table.num_rows or (_ids(table, numbers) != ledger.ids[selected]).any():
            raise _changed_error(uri)
        kept = np.ones(table.num_rows, np.bool_)
        kept[numbers] = False
        if not kept.any():
            storage.delete_file(uri)
        elif not storage.replace_if_unchanged(uri, before, to_parquet_bytes(table.filter(pa.array(kept)))):
            raise _changed_error(uri)


def _changed_error(uri: str) -> RunError:
    return RunError(
        f"{uri}: was changed while this run replaced rows in it. Check that no other program writes to the output."
    )


def _ids(table: pa.Table, numbers: NDArray[np.int32]) -> Keys:
    return id_keys(table["recording_id"].take(pa.array(numbers)).to_pylist())


BATCH_ROWS = 64  # rows in memory at once; one of them may be the transcript of ten hours

Row = dict[str, Any]


def read_rows(ledger: Ledger, rows: Rows, columns: list[str], storage: Storage) -> Iterator[Row]:
    """Yields some rows of a ledger in the order of the files, `BATCH_ROWS` in memory at once.

    Args:
        ledger: The ledger of the output.
        rows: Rows to read.
        columns: Columns to read; must include `recording_id`.
        storage: Storage of the output.

    Raises:
        RunError: If a file cannot be read, or has changed since the ledger was read.
    """
    for table in read_tables(ledger, rows, columns, storage):
        yield from table.to_pylist()


def read_tables(ledger: Ledger, rows: Rows, columns: list[str], storage: Storage) -> Iterator[pa.Table]:
    """Yields the rows of `read_rows` as tables of at most `BATCH_ROWS` rows; raises the same errors."""
    for uri, numbers, ids in _by_file(ledger, rows):
        yield from _tables(uri, numbers, ids, columns, storage)


def _by_file(ledger: Ledger, rows: Rows) -> Iterator[tuple[str, NDArray[np.int32], NDArray[np.bytes_]]]:
    """Yields URI, ascending row numbers and `id_keys` of the rows of each file."""
    if not len(rows):
        return
    rows = rows[np.lexsort((ledger.row[rows], ledger.file[rows]))]
    files, starts = np.unique(ledger.file[rows], return_index=True)
    for number, own in zip(files, np.split(rows, starts[1:]), strict=True):
        yield ledger.files[number], ledger.row[own], ledger.ids[own]


def _tables(
    uri: str, numbers: NDArray[np.int32], ids: NDArray[np.bytes_], columns: list[str], storage: Storage
) -> Iterator[pa.Table]:
    """Yields the rows with these numbers of a file. Their ids must match."""
    start = found = 0
    try:
        with open_transcripts(uri, storage) as file:
            for batch in file.iter_batches(BATCH_ROWS, columns):
                own = slice(*np.searchsorted(numbers, (start, start + batch.num_rows)))
                table = pa.Table.from_batches([batch.take(pa.array(numbers[own] - start))])
                if (id_keys(table["recording_id"].to_pylist()) != ids[own]).any():
                    break
                yield table
                start += batch.num_rows
                found += table.num_rows
    except FileNotFoundError:
        pass
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{uri}: cannot be read as Parquet ({' '.join(str(error).split())[:300]})") from error
    if found < len(numbers):
        raise RunError(
            f"{uri}: has changed since it was listed, because a run writes to this output. Try again when it has ended."
        )
