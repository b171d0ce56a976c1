"""Which of several rows of a recording stands, and how the others leave the output.

A new row never overwrites an old one: it is written beside it, and the old one goes once nothing is missing. So a
recording has more than one row for a while: when its source or the settings have changed, when a failed one was tried
again, and when a dead run's last task was still being written while the next run planned it anew. Whatever died in
between, the next run finds both and finishes it: among rows of the same version a settled one stands before a broken
one, that before a failed one, and of equals the newest.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distil_ray.errors import RunError
from distil_ray.output.ledger import Keys, Ledger, id_keys
from distil_ray.output.reader import open_transcripts
from distil_ray.schema import to_parquet_bytes
from distil_ray.storage.storage import Storage

Rows = NDArray[np.int64]  # numbers of a ledger's rows


def stale_rows(ledger: Ledger, listed_ids: Keys, listed_keys: Keys) -> Rows:
    """The rows of recordings that are listed in another version: of their source, or of the settings."""
    other = ~np.isin(ledger.keys, listed_keys)
    return np.flatnonzero(other & np.isin(ledger.ids, listed_ids))


def duplicate_rows(ledger: Ledger) -> Rows:
    """Of rows that share their key all but the best one."""
    rows = ledger.duplicates()
    rows = rows[np.lexsort((ledger.times[rows], ledger.grades[rows], ledger.keys[rows]))]
    keys = ledger.keys[rows]
    return np.sort(rows[:-1][keys[1:] == keys[:-1]])


def current_rows(ledger: Ledger) -> Rows:
    """Of each recording id the row that counts: the best one of its newest version.

    For readers that know no listing; the newest version, of the source or of the settings, is that of the newest row.
    """
    newest = ledger.newest(ledger.keys)
    order = np.lexsort((ledger.times, ledger.grades, ledger.keys, newest, ledger.ids))
    ids = ledger.ids[order]
    return np.sort(order[np.append(ids[1:] != ids[:-1], True)]) if len(ids) else order


def drop_rows(ledger: Ledger, rows: Rows, storage: Storage) -> None:
    """Takes rows out of the output's files.

    A file is written anew in one piece, or deleted if nothing is left of it: whoever reads sees the rows before or
    after, and a run that dies in between leaves the rest to the next one. Raises `RunError` if another has written
    the file since the ledger was read.
    """
    for number in np.unique(ledger.file[rows]):
        uri = ledger.files[number]
        mine = rows[ledger.file[rows] == number]
        table = pq.read_table(io.BytesIO(storage.read(uri)))
        places = ledger.row[mine]
        if places.max() >= table.num_rows or (_ids(table, places) != ledger.ids[mine]).any():
            raise RunError(f"{uri}: was changed while this run replaced rows in it. Does another run write here?")
        stays = np.ones(table.num_rows, np.bool_)
        stays[places] = False
        if stays.any():
            storage.put(uri, to_parquet_bytes(table.filter(pa.array(stays))))
        else:
            storage.delete(uri)


def _ids(table: pa.Table, places: NDArray[np.int32]) -> Keys:
    return id_keys(table["recording_id"].take(pa.array(places)).to_pylist())


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
