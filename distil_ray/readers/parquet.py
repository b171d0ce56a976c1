"""Parquet files that contain audio: their index, and the extraction of the audio of single rows.

The index is built without reading the audio: only the chunks of the other columns are read, and the footer, which has
the size of each row group and the number of its nulls.

The smallest unit that Parquet can read is a row group. Every task that has rows of a row group reads it from its
beginning to the last of these rows, in batches of a few megabytes. Audio in an object store is first copied to the
local disk, with one request for each 64 MiB (`storage/range_reader.py`).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

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
    extract_group_cells,
    find_audio_column,
    metadata_columns,
)
from distil_ray.readers.byte_ranges import group_ranges
from distil_ray.readers.index_cache import attach_file_info
from distil_ray.readers.ordered_iteration import Write
from distil_ray.readers.sample_arrays import (
    SampleColumns,
    estimate_row_bytes,
    find_sample_columns,
    sampling_rates,
    write_wav_cell,
)
from distil_ray.schema import PythonParquetFile, open_parquet
from distil_ray.storage.entries import Entry
from distil_ray.storage.range_reader import ByteRange, RangeReader
from distil_ray.storage.storage import Storage
from distil_ray.storage.storage_errors import StorageError
from distil_ray.types import Recording

BUFFER_BYTES = 1 << 20  # read of a column chunk at once
BATCH_BYTES = 8 << 20  # of audio in memory; a larger row is a batch of its own
MAX_CHUNK_GAP_BYTES = 256 << 10  # between chunks of columns that are read with one request
MAX_FOOTERS = 8  # of files read last, in memory
_EMPTY_ROW_BYTES = 16  # a row of fewer bytes has no audio: only its lengths and definition levels

FileVersion = tuple[str, str | None]  # URI, version
_footers: dict[FileVersion, tuple[pq.FileMetaData, int]] = {}  # and the size of the file


def read_schema(entry: Entry, storage: Storage) -> pa.Schema | None:
    """Returns the schema of a Parquet file, None if it cannot be read as Parquet.

    Raises:
        StorageError: The file cannot be read at all.
    """
    try:
        with _open_parquet(entry, storage) as (parquet, _):
            return parquet.schema_arrow
    except StorageError as error:
        if error.kind is not ErrorKind.CORRUPT:
            raise
        return None


def build_index(entry: Entry, storage: Storage, requested: str | None) -> pa.Table:
    """Returns the index of a Parquet file; that of a damaged file as far as it can be read.

    Args:
        entry: The file.
        storage: Where it lies.
        requested: Value of ``input.columns.uri``.

    Returns:
        An index as `audio_tables` describes it. Its file info has `column` (the audio column, "" if there is none) and
        `damage` (null or a message).

    Raises:
        InputError: Several columns contain audio.
        StorageError: The file cannot be read at all.
    """
    groups: list[pa.Table] = []
    column, damage = "", None
    try:
        with _open_parquet(entry, storage) as (parquet, file):
            column = find_audio_column(parquet.schema_arrow, requested) or ""
            if column:
                _expect(file, _index_chunks(parquet, column))
                groups += _index_groups(parquet, column)
    except InputError as error:
        raise InputError(f"{entry.uri}: {error}") from error
    except StorageError as error:
        if error.kind is not ErrorKind.CORRUPT:
            raise
        damage = str(error).removeprefix(f"{entry.uri}: ")
    table = pa.concat_tables(groups or [LOCATION_COLUMNS.empty_table()])
    return attach_file_info(table, column=column, damage=damage)


def extract_cells(
    unit: Sequence[Recording], target: Path, file: Entry, storage: Storage
) -> Iterator[Path | StorageError]:
    """Extracts the audio of rows of one row group: see `audio_tables.extract_group_cells`.

    The size of `file` may be unknown if its version is known (`Storage.open_for_seeking`).
    """

    @contextmanager
    def open_group(column: str, group: int) -> Iterator[Iterator[tuple[int, Write]]]:
        with _open_parquet(file, storage) as (parquet, source):
            if group >= parquet.num_row_groups or column not in parquet.schema_arrow.names:
                message = f"{file.uri}: has no column {column} in row group {group}"
                raise StorageError(ErrorKind.NOT_FOUND, message)
            _expect(source, [_largest_chunk(parquet.metadata.row_group(group), column)], target.parent)
            yield _iter_cells(file.uri, parquet, group, column)

    return extract_group_cells(unit, target, open_group, "row group")


@contextmanager
def _open_parquet(entry: Entry, storage: Storage) -> Iterator[tuple[PythonParquetFile, IO[bytes]]]:
    """Opens a Parquet file, and yields it with the file object that it reads.

    Errors of Arrow, in opening or later, become a `StorageError` of the kind CORRUPT.
    """
    version = entry.uri, entry.version
    try:
        footer, size = _footers.get(version, (None, entry.size))
        if entry.size not in (None, size):
            footer, size = None, entry.size
        with storage.open_for_seeking(replace(entry, size=size)) as file:
            # Without these two options Arrow holds the whole chunk of a column, which may be all audio of the file.
            parquet = open_parquet(file, buffer_size=BUFFER_BYTES, metadata=footer)
            if entry.version is not None and footer is None:
                _remember_footer(version, parquet.metadata, file.seek(0, os.SEEK_END))
            yield parquet, file
    except DistilRayError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())[:300]
        raise StorageError(ErrorKind.CORRUPT, f"{entry.uri}: cannot be read as Parquet ({reason})") from error


def _remember_footer(version: FileVersion, footer: pq.FileMetaData, size: int) -> None:
    """Keeps the footer of a version of a file, so that a task that reads several row groups reads it once."""
    _footers[version] = footer, size
    while len(_footers) > MAX_FOOTERS:
        with suppress(KeyError, RuntimeError):  # another thread may change it at the same time
            del _footers[next(iter(_footers))]


def _expect(file: IO[bytes], chunks: Iterable[pq.ColumnChunkMetaData], folder: Path | None = None) -> None:
    """Lets chunks of columns that are about to be read be fetched with few requests; see `RangeReader.expect`."""
    if isinstance(file, RangeReader):
        ranges = sorted(map(_byte_range, chunks))
        file.expect([together for _, together in group_ranges(ranges, MAX_CHUNK_GAP_BYTES)], folder)


def _byte_range(chunk: pq.ColumnChunkMetaData) -> ByteRange:
    """Returns the first byte of a column chunk, and one past the last."""
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else chunk.data_page_offset
    return start, start + chunk.total_compressed_size


def _index_chunks(parquet: PythonParquetFile, column: str) -> Iterator[pq.ColumnChunkMetaData]:
    """Yields the chunks that an index is built from. Those at the end of a row group adjoin those of the next one."""
    names = set(_index_columns(parquet.schema_arrow, column))
    for group in range(parquet.num_row_groups):
        metadata = parquet.metadata.row_group(group)
        chunks = map(metadata.column, range(metadata.num_columns))
        yield from (chunk for chunk in chunks if chunk.path_in_schema in names)


def _index_columns(schema: pa.Schema, column: str) -> list[str]:
    """Returns the Parquet names of the columns that an index is built from."""
    samples = find_sample_columns(schema, column)
    path_columns = [f"{column}.{PATH_FIELD}"] if _has_path(schema, column) else []
    return [*metadata_columns(schema, column), *path_columns, *([samples.leaves[1]] if samples else [])]


def _index_groups(parquet: PythonParquetFile, column: str) -> Iterator[pa.Table]:
    first_row = 0
    for group in range(parquet.num_row_groups):
        yield _index_group(parquet, group, column, first_row)
        first_row += parquet.metadata.row_group(group).num_rows


def _index_group(parquet: PythonParquetFile, group: int, column: str, first_row: int) -> pa.Table:
    """Returns the index of a row group whose first row has the number `first_row` in the file."""
    schema = parquet.schema_arrow
    names = metadata_columns(schema, column)
    num_rows = parquet.metadata.row_group(group).num_rows
    samples = find_sample_columns(schema, column)
    cells = parquet.read_row_group(group, columns=_index_columns(schema, column))
    paths = audio_paths(cells[column]) if _has_path(schema, column) else pa.nulls(num_rows, pa.string())
    if samples:
        is_embedded, row_bytes = _locate_samples(parquet, group, samples, sampling_rates(cells, samples), paths)
    else:
        is_embedded, row_bytes = _locate_files(parquet, group, _leaf_name(schema, column))
    locations = {
        "number": pa.array(range(first_row, first_row + num_rows), pa.int64()),
        "path": paths,
        "is_embedded": is_embedded,
        "row_group": pa.array([group] * num_rows, pa.int32()),
        "row": pa.array(range(num_rows), pa.int32()),
        "byte_start": pa.nulls(num_rows, pa.int64()),
        "num_bytes": pa.array([row_bytes] * num_rows, pa.int64()),
    }
    return assemble_index(((name, cells[name]) for name in names), locations)


def _has_path(schema: pa.Schema, column: str) -> bool:
    kind = schema.field(column).type
    return bool(pa.types.is_struct(kind) and kind.get_field_index(PATH_FIELD) >= 0)


def _leaf_name(schema: pa.Schema, column: str) -> str:
    """Returns the Parquet name of the leaf column that holds encoded audio."""
    return f"{column}.{BYTES_FIELD}" if pa.types.is_struct(schema.field(column).type) else column


def _locate_samples(
    parquet: PythonParquetFile, group: int, samples: SampleColumns, rates: pa.Array, paths: pa.Array
) -> tuple[pa.Array, int]:
    """Returns, for a row group of decoded samples, whether each row is embedded, and the estimated bytes of a row.

    Only the data itself says whether a list is null. A row without a rate but with a path is therefore taken for one
    whose audio lies in the file at the path.
    """
    chunk = _largest_chunk(parquet.metadata.row_group(group), samples.leaves[0])
    return pc.or_(pc.is_valid(rates), pc.is_null(paths)), estimate_row_bytes(chunk.num_values, rates)


def _locate_files(parquet: PythonParquetFile, group: int, leaf: str) -> tuple[pa.Array, int]:
    """Returns, for a row group of encoded audio, whether each row is embedded, and the mean bytes of a row."""
    metadata = parquet.metadata.row_group(group)
    chunk = _find_chunk(metadata, leaf)
    has_null_count = chunk.statistics is not None and chunk.statistics.has_null_count
    num_nulls = chunk.statistics.null_count if has_null_count else None
    row_bytes = chunk.total_uncompressed_size // max(metadata.num_rows, 1)
    if num_nulls is None:  # a row that turns out to have no audio fails later, as a recording
        num_nulls = metadata.num_rows if row_bytes < _EMPTY_ROW_BYTES else 0
    if num_nulls not in (0, metadata.num_rows):
        batches = _iter_batches(parquet, group, leaf)
        is_embedded = [cell.is_valid for batch in batches for cell in _leaf_cells(batch)]
    else:
        is_embedded = [not num_nulls] * metadata.num_rows
    return pa.array(is_embedded, pa.bool_()), row_bytes


def _largest_chunk(metadata: pq.RowGroupMetaData, column: str) -> pq.ColumnChunkMetaData:
    """Returns the footer's entry of the largest leaf column below a nested column."""
    chunks = map(metadata.column, range(metadata.num_columns))
    below = [chunk for chunk in chunks if f"{chunk.path_in_schema}.".startswith(f"{column}.")]
    return max(below, key=lambda chunk: chunk.total_uncompressed_size)


def _find_chunk(metadata: pq.RowGroupMetaData, leaf: str) -> pq.ColumnChunkMetaData:
    """Returns the footer's entry of a leaf column of a row group."""
    return next(chunk for chunk in map(metadata.column, range(metadata.num_columns)) if chunk.path_in_schema == leaf)


def _iter_batches(parquet: PythonParquetFile, group: int, *leaves: str) -> Iterator[pa.RecordBatch]:
    """Yields leaf columns of a row group in batches of `BATCH_BYTES`, measured by the first of `leaves`."""
    metadata = parquet.metadata.row_group(group)
    size = _largest_chunk(metadata, leaves[0]).total_uncompressed_size
    batch_rows = max(min(BATCH_BYTES * metadata.num_rows // max(size, 1), 1024), 1)
    yield from parquet.iter_batches(batch_rows, row_groups=[group], columns=list(leaves))


def _leaf_cells(batch: pa.RecordBatch) -> pa.Array:
    column = batch.column(0)
    return column.flatten()[0] if pa.types.is_struct(column.type) else column


def _iter_cells(uri: str, parquet: PythonParquetFile, group: int, column: str) -> Iterator[tuple[int, Write]]:
    """Yields the number of each row of a group, and a function that writes its audio to a file."""
    schema = parquet.schema_arrow
    samples = find_sample_columns(schema, column)
    row = 0
    if samples:
        for batch in _iter_batches(parquet, group, *samples.leaves):
            for index in range(batch.num_rows):
                yield row, partial(write_wav_cell, f"{uri}: row {row} of its group", batch, index, samples)
                row += 1
        return
    for batch in _iter_batches(parquet, group, _leaf_name(schema, column)):
        for cell in _leaf_cells(batch):
            yield row, partial(_write_file, uri, row, cell)
            row += 1


def _write_file(uri: str, row: int, cell: pa.Scalar, path: Path) -> StorageError | None:
    if not cell.is_valid:
        return StorageError(ErrorKind.EMPTY_FILE, f"{uri}: row {row} of its group has no audio")
    with open(path, "wb") as sink:
        sink.write(cell.as_buffer())
    return None
