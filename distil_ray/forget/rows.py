"""Removal of recordings from the transcripts and from the indexes of an output.

Every function returns the number of rows or files, and removes them with `apply`.
"""

import io
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distil_ray.evaluation import statistics_index
from distil_ray.forget.request import Request
from distil_ray.forget.tree import OutputTree
from distil_ray.output import ledger_index
from distil_ray.output.ledger import Ledger, isin_sorted, list_data_files
from distil_ray.output.ledger_rows import drop_rows
from distil_ray.readers.audio_tables import LOCATION_COLUMNS
from distil_ray.readers.index_cache import INDEX_FOLDER
from distil_ray.schema import open_parquet
from distil_ray.storage.storage import Storage
from distil_ray.storage.uris import join


def clear_transcripts(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Removes the rows of the transcripts, and the entries of the indexes that have the recordings."""
    ledger = Ledger.read(tree.uri, storage)
    rows = np.flatnonzero(isin_sorted(ledger.ids, request.id_keys))
    if apply:
        drop_rows(ledger, rows, storage)
        # Whatever rows are left: a command that died may have removed the rows, and not the entries.
        ledger_index.drop_recordings(request.id_keys, tree.uri, storage)
        statistics_index.drop_recordings(request.ids, tree.uri, storage)
    return len(rows)


def clear_indexes(request: Request, tree: OutputTree, storage: Storage, *, apply: bool) -> int:
    """Deletes the indexes of archives and tables that name the recordings; runs write them again from the source.

    Returns the number of files.
    """
    names = pa.array(sorted({*request.ids, *request.members}), pa.string())
    total = 0
    for uri in list(list_data_files(join(tree.uri, INDEX_FOLDER), storage)):
        table = open_parquet(io.BytesIO(storage.read(uri))).read()
        is_of_table = (
            request.is_in_table and LOCATION_COLUMNS.names[0] in table.column_names
        )  # it does not say of which
        if is_of_table or any(pc.any(pc.is_in(column, value_set=names)).as_py() for column in _texts(table)):
            total += 1
            if apply:
                storage.delete_file(uri)
    return total


def _texts(table: pa.Table) -> Iterator[pa.ChunkedArray]:
    for column in table.columns:
        if pa.types.is_string(column.type):
            yield column
        elif pa.types.is_struct(column.type):
            yield from (part for part in column.flatten() if pa.types.is_string(part.type))
