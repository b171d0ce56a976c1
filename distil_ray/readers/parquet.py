"""Parquet files with audio in them: their index, and the audio of some rows of a row group.

The index is read without the audio: only the chunks of the other columns, and the footer, which tells a row group's
sizes and whether it has audio at all. The audio is read a row group at a time, because Parquet knows no smaller step,
but never held so: it passes in batches of a few megabytes, and reading ends with the last row that is wanted. A row
group of hours of audio is so read once by every task of the plan that has rows of it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distil_ray.errors import DistilRayError, ErrorKind, InputError
from distil_ray.readers.audio_tables import (
    BYTES_FIELD,
    LOCATION_COLUMNS,
    PATH_FIELD,
    assemble_index,
    audio_paths,
    find_audio_column,
    metadata_columns,
)
from distil_ray.readers.index_cache import attach_file_info
from distil_ray.readers.ordered_iteration import hand_out
from distil_ray.readers.range_reader import open_for_seeking
from distil_ray.readers.sample_arrays import (
    SampleColumns,
    estimate_row_bytes,
    find_sample_columns,
    sampling_rates,
    write_wav_cell,
)
from distil_ray.schema import Recording
from distil_ray.storage.storage import Entry, Storage, StorageError

BUFFER_BYTES = 1 << 20  # read of a column chunk at once
BATCH_BYTES = 8 << 20  # of audio in memory, or one row
_FEW_BYTES = 16  # a row that takes less has no audio: lengths and levels


def read_schema(entry: Entry, storage: Storage) -> pa.Schema | None:
    """The table's columns, None if it cannot be read as Parquet. Raises `StorageError`."""
    try:
        with _opened(entry, storage) as parquet:
            return parquet.schema_arrow
    except StorageError as error:
        if error.kind is not ErrorKind.CORRUPT:
            raise
        return None


def build_index(entry: Entry, storage: Storage, asked: str | None) -> pa.Table:
    """The index of a table, a damaged one's as far as it can be read. `asked`: what the settings call its audio.

    Notes: `column`, empty where there is no audio; `damage`, null or a sentence.
    """
    groups: list[pa.Table] = []
    column, damage = "", None
    try:
        with _opened(entry, storage) as parquet:
            column = find_audio_column(parquet.schema_arrow, asked) or ""
            if column:
                groups += _group_indexes(parquet, column)
    except InputError as error:
        raise InputError(f"{entry.uri}: {error}") from error
    except StorageError as error:
        if error.kind is not ErrorKind.CORRUPT:
            raise
        damage = str(error).removeprefix(f"{entry.uri}: ")
    return attach_file_info(pa.concat_tables(groups or [LOCATION_COLUMNS.empty_table()]), column=column, damage=damage)


def read_cells(unit: Sequence[Recording], target: Path, storage: Storage) -> Iterator[Path | StorageError]:
    """The audio of rows of one row group; each is a file beside `target` that is the taker's.

    Raises `StorageError` for what cannot be read at all.
    """
    uri, place = unit[0].uri, unit[0].place
    entry = storage.stat(uri)
    if entry is None or place is None or place.row_group is None or place.member is None:
        raise StorageError(ErrorKind.NOT_FOUND, f"{uri}: there is no such file")
    rows = [one.place.row if one.place else None for one in unit]
    came = 0
    with _opened(entry, storage) as parquet:
        if place.row_group >= parquet.num_row_groups or place.member not in parquet.schema_arrow.names:
            raise StorageError(
                ErrorKind.NOT_FOUND, f"{uri}: has no column {place.member} in row group {place.row_group}"
            )
        for found in hand_out(rows, _cells(uri, parquet, place.row_group, place.member), target):
            yield found
            came += 1
    if came < len(rows):
        raise StorageError(ErrorKind.NOT_FOUND, f"{uri}: has no row {rows[came]} in row group {place.row_group}")


@contextmanager
def _opened(entry: Entry, storage: Storage) -> Iterator[pq.ParquetFile]:
    """What Arrow finds amiss, in opening or later, is a CORRUPT `StorageError`; other errors stay what they are."""
    try:
        with open_for_seeking(entry, storage) as file:
            # Without these two Arrow holds the whole chunk of a column, which may be all the audio of a file.
            yield pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except DistilRayError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:300]
        raise StorageError(ErrorKind.CORRUPT, f"{entry.uri}: cannot be read as Parquet ({reason})") from error


def _group_indexes(parquet: pq.ParquetFile, column: str) -> Iterator[pa.Table]:
    first = 0
    for group in range(parquet.num_row_groups):
        yield _group_index(parquet, group, column, first)
        first += parquet.metadata.row_group(group).num_rows


def _group_index(parquet: pq.ParquetFile, group: int, column: str, first: int) -> pa.Table:
    """`first`: the number of the group's first row in the file."""
    schema = parquet.schema_arrow
    names = metadata_columns(schema, column)
    num_rows = parquet.metadata.row_group(group).num_rows
    decoded = find_sample_columns(schema, column)
    small = [f"{column}.{PATH_FIELD}"] if _has_path(schema, column) else []
    cells = parquet.read_row_group(group, columns=[*names, *small, *([decoded.leaves[1]] if decoded else [])])
    paths = audio_paths(cells[column]) if small else pa.nulls(num_rows, pa.string())
    if decoded:
        is_embedded, mean_bytes = _samples_in(parquet, group, decoded, sampling_rates(cells, decoded), paths)
    else:
        is_embedded, mean_bytes = _audio_in(parquet, group, _leaf_name(schema, column))
    lies = {
        "number": pa.array(range(first, first + num_rows), pa.int64()),
        "path": paths,
        "is_embedded": is_embedded,
        "row_group": pa.array([group] * num_rows, pa.int32()),
        "row": pa.array(range(num_rows), pa.int32()),
        "byte_start": pa.nulls(num_rows, pa.int64()),
        "num_bytes": pa.array([mean_bytes] * num_rows, pa.int64()),
    }
    return assemble_index(((name, cells[name]) for name in names), lies)


def _has_path(schema: pa.Schema, column: str) -> bool:
    kind = schema.field(column).type
    return bool(pa.types.is_struct(kind) and kind.get_field_index(PATH_FIELD) >= 0)


def _leaf_name(schema: pa.Schema, column: str) -> str:
    """The column of files, by its name in Parquet."""
    return f"{column}.{BYTES_FIELD}" if pa.types.is_struct(schema.field(column).type) else column


def _samples_in(
    parquet: pq.ParquetFile, group: int, decoded: SampleColumns, rates: pa.Array, paths: pa.Array
) -> tuple[pa.Array, int]:
    """(of each row of a group whether its samples are here, bytes a row as the plan's guess of durations wants them).

    Whether a list is null stands in its data alone; a row without a rate that names a file is taken for elsewhere.
    """
    chunk = _largest_chunk(parquet.metadata.row_group(group), decoded.leaves[0])
    return pc.or_(pc.is_valid(rates), pc.is_null(paths)), estimate_row_bytes(chunk.num_values, rates)


def _audio_in(parquet: pq.ParquetFile, group: int, leaf: str) -> tuple[pa.Array, int]:
    """(of each row of a group whether it has audio, bytes a row)."""
    about = parquet.metadata.row_group(group)
    chunk = _chunk(about, leaf)
    known = chunk.statistics is not None and chunk.statistics.has_null_count
    nulls = chunk.statistics.null_count if known else None
    mean_bytes = chunk.total_uncompressed_size // max(about.num_rows, 1)
    if nulls is None:  # what turns out to have none then fails as a recording
        nulls = about.num_rows if mean_bytes < _FEW_BYTES else 0
    if nulls not in (0, about.num_rows):
        batches = _batches(parquet, group, leaf)
        has = [cell.is_valid for batch in batches for cell in _leaf(batch)]
    else:
        has = [not nulls] * about.num_rows
    return pa.array(has, pa.bool_()), mean_bytes


def _largest_chunk(about: pq.RowGroupMetaData, column: str) -> pq.ColumnChunkMetaData:
    """What the footer says of the largest column that a nested column is stored as."""
    chunks = map(about.column, range(about.num_columns))
    own = [one for one in chunks if f"{one.path_in_schema}.".startswith(f"{column}.")]
    return max(own, key=lambda one: one.total_uncompressed_size)


def _chunk(about: pq.RowGroupMetaData, leaf: str) -> pq.ColumnChunkMetaData:
    """What the footer says of a column of a row group."""
    return next(one for one in map(about.column, range(about.num_columns)) if one.path_in_schema == leaf)


def _batches(parquet: pq.ParquetFile, group: int, *leaves: str) -> Iterator[pa.RecordBatch]:
    """The audio column of a row group, a few rows at a time; the first of `leaves` is what takes the memory."""
    about = parquet.metadata.row_group(group)
    size = _largest_chunk(about, leaves[0]).total_uncompressed_size
    rows = max(min(BATCH_BYTES * about.num_rows // max(size, 1), 1024), 1)
    yield from parquet.iter_batches(rows, row_groups=[group], columns=list(leaves), use_threads=False)


def _leaf(batch: pa.RecordBatch) -> pa.Array:
    column = batch.column(0)
    return column.flatten()[0] if pa.types.is_struct(column.type) else column


def _cells(uri: str, parquet: pq.ParquetFile, group: int, column: str) -> Iterator[tuple[int, Any]]:
    """(row, what writes its audio to a file) of a row group."""
    schema = parquet.schema_arrow
    decoded = find_sample_columns(schema, column)
    row = 0
    if decoded:
        for batch in _batches(parquet, group, *decoded.leaves):
            for index in range(batch.num_rows):
                yield row, partial(write_wav_cell, f"{uri}: row {row} of its group", batch, index, decoded)
                row += 1
        return
    for batch in _batches(parquet, group, _leaf_name(schema, column)):
        for cell in _leaf(batch):
            yield row, partial(_write, uri, row, cell)
            row += 1


def _write(uri: str, row: int, cell: pa.Scalar, path: Path) -> StorageError | None:
    if not cell.is_valid:
        return StorageError(ErrorKind.EMPTY_FILE, f"{uri}: row {row} of its group has no audio")
    with open(path, "wb") as sink:
        sink.write(cell.as_buffer())
    return None
